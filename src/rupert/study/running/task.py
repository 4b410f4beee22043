"""One stage of a study, ready to be done by any process that sees the store."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rupert.errors import FolderError, RupertError
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.models.saving import missing_weights
from rupert.records import drop_leftovers, write_text
from rupert.study.definition.graph import Node
from rupert.study.definition.study import Attacked, Study
from rupert.study.running.attacked_weights import bring_back, drop, keep_difference
from rupert.study.running.launched import ERROR_FILE, Launcher, launch
from rupert.study.running.progress import file_listener, forget
from rupert.study.stage import SAVE_STEPS, Attack, Evaluate, Harden, Keep, Score, Work
from rupert.study.stage.lineage import PAIRS_FILE
from rupert.study.store import Store
from rupert.terminal import listening, progress_console
from rupert.training.tracking import Tracking
from rupert.training.trainer import drop_checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How stages are done: no number depends on it.

    Attributes:
        report_to: trackers that follow each training.
        project: what the trackers call all of them together.
        launcher: how a training is split over devices; none for one process.
        save_steps: steps between the checkpoints of a hardening.
    """

    report_to: tuple[str, ...] = ()
    project: str = "rupert"
    launcher: Launcher | None = None
    save_steps: int = SAVE_STEPS


@dataclass(frozen=True, kw_only=True)
class Task:
    """A stage whose parents are done.

    Attributes:
        store: where it is kept.
        node: what it is.
        model: what it works on.
        pairs: the folder of the hardening whose pairs are measured; none for none.
        attack: what made the model, where an attack did: its weights may have been dropped, and have to come back.
        attacked: what is to be kept of attacked weights.
        runtime: how it is done.
    """

    store: Store
    node: Node
    model: ModelSettings
    pairs: Path | None = None
    attack: Task | None = None
    attacked: Attacked = "drop"
    runtime: Runtime = Runtime()

    @cached_property
    def work(self) -> Work:
        """The stage itself."""
        settings, model = self.node.settings, self.model
        match self.node.kind:
            case "defend" if settings is None:
                return Keep(model=model)
            case "defend":
                save_steps = self.runtime.save_steps
                return Harden(settings=settings, model=model, save_steps=save_steps, tracking=self._tracking)
            case "attack":
                keeps_adapter = self.attacked == "delta"
                return Attack(settings=settings, model=model, keep_adapter=keeps_adapter, tracking=self._tracking)
            case "evaluate":
                paired = str(self.pairs / PAIRS_FILE) if self.pairs else settings.paired
                return Evaluate(settings=replace(settings, paired=paired), model=model)
            case "score":
                return Score(settings=settings, model=model)

    @property
    def _tracking(self) -> Tracking:
        return Tracking(report_to=self.runtime.report_to, run_name=self.node.label, project=self.runtime.project)

    @cached_property
    def identity(self) -> str:
        """What its folder is found by."""
        return self.work.request().identity

    @property
    def progress(self) -> Path:
        """The file that says how far it is while somebody works on it."""
        return self.store.progress(self.node.kind, self.identity)

    @property
    def _working(self) -> Path:
        return self.store.working(self.node.kind, self.identity)

    @property
    def _scratch(self) -> Path:
        """Where weights come back, before they are put in their place."""
        return self.store.working("restore", self.identity)

    def remember(self, error: BaseException) -> Path:
        """Leave what went wrong where the stage is worked on: its message, or of our own mistakes the traceback."""
        is_told = isinstance(error, RupertError)
        path = self._working / ERROR_FILE
        path.parent.mkdir(exist_ok=True)
        write_text(str(error) if is_told else "".join(traceback.format_exception(error)), path)
        return path

    def place(self) -> Path | None:
        """Where it stands, done and whole; none otherwise."""
        place = self.store.place(self.node.kind, self.identity)
        return place if place and not self._damage(place) else None

    def _damage(self, place: Path) -> str:
        """What is wrong with a folder that stands in its place; empty where nothing is."""
        try:
            record = self.work.request().finished(place)
        except FolderError as error:
            return str(error)
        if record is None:
            return f"{place}: its request or its record is missing"
        was_changed = record.output_hash and loading.folder_hash(place) != record.output_hash
        return self.work.damage(place) or (f"{place}: its model was changed" if was_changed else "")

    def perform(self) -> Path | None:
        """Do it, unless it is done; none where somebody else is just doing it.

        What is found damaged is set aside and done again.

        Raises:
            RupertError: it cannot be done, or had to stop; what it left is gone on from.
        """
        return replace(self)._perform()  # the data that it reads go with the copy, not with the study

    def _perform(self) -> Path | None:
        with self.store.lock(self.identity) as mine:
            if not mine:
                return None
            place = self.store.place(self.node.kind, self.identity)
            damage = self._damage(place) if place else ""
            if place and not damage:
                return place
            if place:
                self._take_out(place, damage)
            (self._working / ERROR_FILE).unlink(missing_ok=True)
            self.work.prepare()
            with self._weights() as are_there:
                return self._do() if are_there else None

    def _do(self) -> Path:
        with listening(file_listener(self.progress)):
            stage = self._claim()
            if not (stage.finished and not self.work.damage(stage.path)):
                self._run(stage)
        forget(self.progress)
        drop_checkpoints(stage.path)
        drop_leftovers(stage.path)
        return self.store.publish(stage.path, self.node.kind, self.node.label, self.identity)

    def _run(self, stage: StageFolder) -> None:
        if self.runtime.launcher and isinstance(self.work, Harden | Attack):
            launch(self.runtime.launcher, self.work, stage, self.progress)
        else:
            self.work.run(stage)
        if self.node.kind == "attack" and self.attacked == "delta":
            keep_difference(Path(self.model.model), stage.path)

    def _claim(self) -> StageFolder:
        """Take the folder that an interrupted run left, or a new one in place of one that cannot be used."""
        folder, request = self._working, self.work.request()
        try:
            return request.claim(folder, resume=True)
        except FolderError as error:
            self._set_aside(folder, str(error))
            return request.claim(folder, resume=True)

    def _take_out(self, place: Path, damage: str) -> None:
        """Of what is damaged, use what the stage can go on with."""
        working = self._working
        if self.work.mends and not working.exists():
            place.rename(working)
            self._tell(f"{damage}; {self.node.kind} {self.node.label} is mended")
        else:
            self._set_aside(place, damage)

    def _set_aside(self, folder: Path, damage: str) -> None:
        kept = self.store.set_aside(folder)
        self._tell(f"{damage}; {self.node.kind} {self.node.label} is done again, the old folder is {kept}")

    def _tell(self, news: str) -> None:
        progress_console().print(news, highlight=False, soft_wrap=True)

    @contextmanager
    def _weights(self) -> Iterator[bool]:
        """Within, the weights of the attacked model that is worked on are there and stay; or it is False."""
        if self.attack is None:
            yield True
            return
        self.attack.bring_back()
        with self.store.lock(self.attack.identity, shared=True) as nobody_changes_it:
            place = self.attack.place()
            yield nobody_changes_it and place is not None and not missing_weights(place)

    def bring_back(self) -> None:
        """Put the weights of an attacked model back, unless they are there or somebody else is just doing it."""
        place = self.place()
        if place is None:  # it was whole when the study came to what builds on it
            self.perform()
            return
        if not missing_weights(place):
            return
        with self.store.lock(self.identity) as mine:
            if mine:
                bring_back(replace(self).work, place, self._scratch)

    def drop_weights(self) -> None:
        """Delete the weights of an attacked model, of which what was asked for is kept."""
        place = self.place()
        if place is None or self.attacked == "keep" or missing_weights(place):
            return
        with self.store.lock(self.identity) as mine:
            if not mine:  # somebody still measures it, and drops them afterwards
                return
            if self.attacked == "delta":
                keep_difference(Path(self.model.model), place)
            drop(place)
            shutil.rmtree(self._scratch, ignore_errors=True)


def task_for(
    node: Node,
    study: Study,
    store: Store,
    done: Mapping[Node, Path],
    tasks: Mapping[Node, Task],
    *,
    runtime: Runtime = Runtime(),
) -> Task:
    """The task of a stage whose parents are done.

    Args:
        node: the stage.
        study: that it belongs to.
        store: of the study.
        done: where each stage stands that is done; its parents among them.
        tasks: of the stages that it works on.
        runtime: how it is done.
    """
    made_by = node.model
    return Task(
        store=store,
        node=node,
        model=replace(study.model, model=str(done[made_by])) if made_by else study.model,
        pairs=done[node.pairs] if node.pairs else None,
        attack=tasks[made_by] if made_by and made_by.kind == "attack" else None,
        attacked=study.attacked,
        runtime=runtime,
    )
