"""The stage that hardens a model, and the one that keeps it as it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rupert.data import sources
from rupert.data.examples import fingerprint, write_jsonl
from rupert.defenses import DEFENSES
from rupert.errors import InvalidValue
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.models.saving import missing_weights
from rupert.models.threads import fitting_threads
from rupert.records import Record, read_record
from rupert.study.stage import lineage
from rupert.study.stage.work import Request, do, followed, request_of, save_whole
from rupert.training import processes
from rupert.training.fine_tuning import Following
from rupert.training.launching import spread
from rupert.training.objective import Gathered, Objective
from rupert.training.tracking import UNTRACKED, Tracking
from rupert.training.trainer import drop_checkpoints, harden

UNDEFENDED = "none"  # the defense that changes nothing
SAVE_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Harden:
    """A model is hardened, and saved with the examples that it was hardened on.

    Attributes:
        save_steps: steps between checkpoints.
        tracking: who is told of every step.
        spread_over: processes that the rows of a step are divided over; in those of a launcher that the user started,
            1: each has the rows that the settings say.
    """

    settings: Objective
    model: ModelSettings
    save_steps: int = SAVE_STEPS
    tracking: Tracking = UNTRACKED
    spread_over: int = 1
    mends: ClassVar[bool] = False

    def request(self) -> Request:
        """By defense, data and weights."""
        return request_of("defend", self.settings, DEFENSES, self.model, sources.identities(self.settings.datasets))

    def prepare(self) -> None:
        """Gather the data."""
        if self.save_steps < 1:
            raise InvalidValue("save_steps", self.save_steps, "must be above 0")
        followed(self.tracking, Path()).check()
        self.settings.check()
        _ = self._gathered

    @cached_property
    def _gathered(self) -> Gathered:
        return self.settings.gather()

    def damage(self, folder: Path) -> str:
        """What is wrong with the weights."""
        return missing_weights(folder)

    def run(self, stage: StageFolder) -> Record:
        """Train from the start, or from the newest checkpoint."""
        started, gathered, folder = time.perf_counter(), self._gathered, stage.path
        if processes.rank() == 0:
            _leave_data(gathered, folder)
        loaded = loading.load(self.model)
        with fitting_threads(loaded.model):
            trainer = harden(
                spread(self.settings, self.spread_over),
                loaded,
                gathered,
                folder,
                title=f"hardening with {self.request().method}",
                save_steps=self.save_steps,
                resume=stage.resuming,
                following=Following(tracking=followed(self.tracking, folder)),
            )
        output_hash = save_whole(loaded, folder)
        if processes.rank() == 0:
            report = {**gathered.report, "history": trainer.history}
            data = {name: fingerprint(examples) for name, examples in gathered.streams.items()}
            self.request().finish(stage, started, data=data, output_hash=output_hash, report=report)
            drop_checkpoints(folder)
        processes.wait()
        return read_record(folder)


def _leave_data(gathered: Gathered, folder: Path) -> None:
    """Leave what a model is hardened on beside it."""
    lineage.remember((example for examples in gathered.streams.values() for example in examples), folder)
    for name, examples in gathered.streams.items():
        write_jsonl(examples, folder / f"{name}.jsonl")


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A model is saved unchanged: what an undefended model's attacks start from."""

    model: ModelSettings
    mends: ClassVar[bool] = False

    def request(self) -> Request:
        """By the weights alone."""
        return Request(
            stage="defend",
            method=UNDEFENDED,
            settings={"dtype": self.model.dtype},
            model=self.model.model,
            model_hash=loading.identity(self.model),
            data={},
        )

    def prepare(self) -> None:
        """Nothing can be wrong but the model itself."""

    def damage(self, folder: Path) -> str:
        """What is wrong with the weights."""
        return missing_weights(folder)

    def run(self, stage: StageFolder) -> Record:
        """Load and save."""
        started = time.perf_counter()
        output_hash = save_whole(loading.load(self.model), stage.path)
        return self.request().finish(stage, started, output_hash=output_hash)


def defend(
    defense: Objective,
    model: ModelSettings,
    folder: Path,
    *,
    save_steps: int = SAVE_STEPS,
    tracking: Tracking = UNTRACKED,
    resume: bool = False,
) -> Record:
    """Harden a model and save it with its record, and with the examples that it was hardened on.

    Every process of a launcher calls it with the same arguments; the main one writes.

    Args:
        defense: an instance of one of `DEFENSES`.
        model: what to harden.
        folder: new, empty, or of the same request.
        save_steps: steps between checkpoints, which a run that is resumed goes on from.
        tracking: who is told of every step; its own files go into the folder.
        resume: go on from what an interrupted run left.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient is not finite.
    """
    work = Harden(settings=defense, model=model, save_steps=save_steps, tracking=tracking)
    return do(work, folder, resume=resume)


def keep(model: ModelSettings, folder: Path) -> Record:
    """Save a model unchanged: what an undefended model's attacks start from."""
    return do(Keep(model=model), folder, resume=True)
