"""The stages of a study, one folder each: harden a model, attack it, measure it.

A stage checks what it is given before it loads a model, claims its folder by everything that defines its answer, and
writes its record last. The same call again returns the record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rupert import folders
from rupert.attacks import ATTACKS, FineTune
from rupert.data.examples import Example, fingerprint, write_jsonl
from rupert.defenses import DEFENSES
from rupert.errors import InvalidValue
from rupert.evaluation.suite import Evaluation
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.saving import save
from rupert.models.threads import fitting_threads
from rupert.records import Record, Stage, environment, read_record
from rupert.settings import as_mapping
from rupert.study import lineage
from rupert.training import processes
from rupert.training.objective import Gathered, Objective
from rupert.training.trainer import drop_checkpoints, harden

UNDEFENDED = "none"  # the defense that changes nothing
SAVE_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What defines a stage's answer; two equal requests are one stage."""

    stage: Stage
    method: str
    settings: Mapping[str, Any]
    model: str
    model_hash: str
    data: Mapping[str, str]

    def claim(self, folder: Path, *, resume: bool) -> StageFolder:
        """Claim `folder`. The model's name is left out: the same weights under another path are the same model."""
        identity = {"stage": self.stage, "method": self.method, "settings": self.settings}
        return folders.claim(folder, {**identity, "model_hash": self.model_hash, "data": self.data}, resume=resume)

    def finish(self, folder: StageFolder, started: float, **results: Any) -> Record:
        """Write the record, with `results` among its fields; that makes the stage count as done."""
        record = Record(
            stage=self.stage,
            method=self.method,
            settings=self.settings,
            model=self.model,
            model_hash=self.model_hash,
            data=self.data,
            seconds=time.perf_counter() - started,
            environment=environment(),
            **results,
        )
        return folder.finish(record)


def defend(
    defense: Objective, model: ModelSettings, folder: Path, *, save_steps: int = SAVE_STEPS, resume: bool = False
) -> Record:
    """Harden a model and save it with its record, and with the examples that it was hardened on.

    Every process of a launcher calls it with the same arguments; the main one writes.

    Args:
        defense: an instance of one of `DEFENSES`.
        model: what to harden.
        folder: new, empty, or of the same request.
        save_steps: steps between checkpoints, which a run that is resumed goes on from.
        resume: go on from what an interrupted run left.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient is not finite.
    """
    started = time.perf_counter()
    if save_steps < 1:
        raise InvalidValue("save_steps", save_steps, "must be above 0")
    folders.refuse_foreign(folder)
    defense.check()
    gathered = defense.gather()
    request = _request("defend", _name_of(defense, DEFENSES), defense, model, gathered.streams)
    processes.join(model.device)
    stage = _claim_together(request, folder, resume=resume)
    if stage.finished:
        return stage.finished
    if processes.rank() == 0:
        _leave_data(gathered, folder)
    loaded = loading.load(model)
    with fitting_threads(loaded.model):
        trainer = harden(
            defense,
            loaded,
            gathered,
            folder,
            title=f"hardening with {request.method}",
            save_steps=save_steps,
            resume=resume,
        )
    hardened = replace(loaded, model=processes.whole(loaded.model))
    if processes.rank() == 0:
        report = {**gathered.report, "history": trainer.history}
        request.finish(stage, started, output_hash=_save(hardened, folder), report=report)
        drop_checkpoints(folder)
    processes.wait()
    return read_record(folder)


def _claim_together(request: Request, folder: Path, *, resume: bool) -> StageFolder:
    """Claim a folder in the main process; the others, where there are some, find it claimed."""
    if processes.rank() == 0:
        stage = request.claim(folder, resume=resume)
    processes.wait()
    return stage if processes.rank() == 0 else request.claim(folder, resume=True)


def _leave_data(gathered: Gathered, folder: Path) -> None:
    """Leave what a model is hardened on beside it."""
    lineage.remember((example for examples in gathered.streams.values() for example in examples), folder)
    for name, examples in gathered.streams.items():
        write_jsonl(examples, folder / f"{name}.jsonl")


def keep(model: ModelSettings, folder: Path) -> Record:
    """Save a model unchanged: what an undefended model's attacks start from."""
    started = time.perf_counter()
    folders.refuse_foreign(folder)
    request = Request(
        stage="defend",
        method=UNDEFENDED,
        settings={"dtype": model.dtype},
        model=model.model,
        model_hash=loading.identity(model),
        data={},
    )
    stage = request.claim(folder, resume=True)
    if stage.finished:
        return stage.finished
    return request.finish(stage, started, output_hash=_save(loading.load(model), folder))


def attack(settings: FineTune, model: ModelSettings, folder: Path, *, resume: bool = False) -> Record:
    """Attack a model and save what comes out; an interrupted attack starts again.

    Args:
        settings: an instance of one of `ATTACKS`.
        model: what to attack.
        folder: new, empty, or of the same request.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient is not finite.
    """
    started = time.perf_counter()
    folders.refuse_foreign(folder)
    settings.check()
    examples = settings.gather()
    request = _request("attack", _name_of(settings, ATTACKS), settings, model, {settings.data: examples})
    stage = request.claim(folder, resume=resume)
    if stage.finished:
        return stage.finished
    lineage.remember(examples, folder)
    loaded = loading.load(model)
    with fitting_threads(loaded.model):
        attacked = settings.run(loaded, examples)
    output_hash = _save(attacked.loaded, folder)
    report = {"loss": attacked.loss, "steps": attacked.steps, "tokens": attacked.tokens}
    return request.finish(stage, started, output_hash=output_hash, report=report)


def evaluate(evaluation: Evaluation, model: ModelSettings, folder: Path, *, resume: bool = False) -> Record:
    """Measure a model; answers and verdicts stay beside the record.

    Args:
        evaluation: what to measure; what it leaves open is chosen by the model.
        model: what to measure.
        folder: new, empty, or of the same request.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
    """
    started = time.perf_counter()
    folders.refuse_foreign(folder)
    chosen = evaluation.for_model(is_potionworld=loading.is_potionworld(model))
    chosen = chosen if chosen.paired else replace(chosen, paired=lineage.pairs_of(model.model))
    chosen.check()
    data = chosen.gather()
    lineage.refuse_seen({use: rows for use, rows in data.items() if use != "paired"}, model.model)
    # The pairs count by content: a study's folder may be moved, and its evaluations are still the same.
    request = _request("evaluate", "suite", replace(chosen, paired=""), model, data)
    stage = request.claim(folder, resume=resume)
    if stage.finished:
        return stage.finished
    loaded = loading.load(model)
    with fitting_threads(loaded.model):
        metrics = chosen.run(loaded, data, folder)
    return request.finish(stage, started, metrics=tuple(metrics))


def _request(
    stage: Stage, method: str, settings: Any, model: ModelSettings, data: Mapping[str, Sequence[Example]]
) -> Request:
    return Request(
        stage=stage,
        method=method,
        settings={**as_mapping(settings), "dtype": model.dtype},
        model=_where(model.model),
        model_hash=loading.identity(model),
        data={name: fingerprint(examples) for name, examples in data.items()},
    )


def _where(model: str) -> str:
    """A folder by its whole path, because the next stage may be run from somewhere else; any other name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _save(loaded: LoadedModel, folder: Path) -> str:
    """Save a model and say what its content hash is."""
    save(loaded.model, loaded.tokenizer, folder)
    return loading.folder_hash(folder)


def _name_of(settings: object, family: Mapping[str, type]) -> str:
    return next(name for name, method in family.items() if type(settings) is method)
