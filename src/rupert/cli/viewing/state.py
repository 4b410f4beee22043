"""What the live page tells of a study, in JSON values: text is written so that no character of it acts."""

from __future__ import annotations

import dataclasses
import math
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rupert.errors import RupertError
from rupert.records import Metric, Record
from rupert.report.tables import MEASURES, Grid, attack_title, collect, defense_title
from rupert.study.definition.graph import UNATTACKED, Model, Node
from rupert.study.running.run import Cell, result_rows
from rupert.study.store import KINDS
from rupert.study.survey.status import STATES, StageStatus
from rupert.study.survey.watching import Sight, Watch
from rupert.terminal import Progress, printable

SHOWN = ("harm", "ability")
LONGEST = 500  # characters of a message
REPORT = "report.html"
BETWEEN = 5.0  # seconds that may pass between the end of one stage and the beginning of the next
# What a folder can hold that no rupert wrote: a record with another shape, numbers that are text, and the like.
UNREADABLE = (RupertError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError)
# Of a cell's stages, the first of these that one of them is in is the cell's state.
CELL_STATES = ("failed", "running", "interrupted", "waiting")


class Viewer:
    """Tells how the study in a folder is, each time it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watch = Watch(folder)
        self._last: dict[str, Any] = {"phase": "reading", "folder": text(folder.absolute())}
        self._failed = 0
        self._worked_on: float | None = None  # when a stage was last seen at work

    def look(self) -> dict[str, Any]:
        """The state; what cannot be read leaves the last one, with `trouble` where it happens twice in a row."""
        try:
            sight = self._watch.look()
            told = self._told(sight) if sight else {"phase": "waiting"}
        except UNREADABLE as error:
            self._failed += 1  # a folder may have been moved while it was read
            reason = str(error) if isinstance(error, RupertError) else f"{type(error).__name__}: {error}"
            return self._last | ({"trouble": text(reason)} if self._failed > 1 else {})
        self._failed = 0
        self._last = {"folder": text(self._folder.absolute()), **told, "report": _written(self._folder / REPORT)}
        return self._last

    def _told(self, sight: Sight) -> dict[str, Any]:
        stages = [_stage(status, sight.records.get(node)) for node, status in sight.stages.items()]
        return {
            "phase": self._phase(sight.stages.values()),
            "study": text(sight.study.name),
            "model": text(sight.study.model.model),
            "seeds": list(sight.study.seeds),
            "states": list(STATES),
            "kinds": _counts(sight.stages.values()),
            "stages": stages,
            "others": sight.others,
            "seconds": sum(stage["seconds"] or 0.0 for stage in stages),
            "defenses": [{"name": text(name), "title": text(defense_title(name))} for name in sight.study.defenses],
            "attacks": [{"name": text(name), "title": text(attack_title(name))} for name in _attacks(sight)],
            "cells": list(_cells(sight)),
        }

    def _phase(self, stages: Iterable[StageStatus]) -> str:
        """Whether somebody works on it; the moment between two stages is no pause."""
        states = {stage.state for stage in stages}
        if states <= {"done"}:
            return "ended"
        if "running" in states:
            self._worked_on = time.monotonic()
        is_going_on = self._worked_on is not None and time.monotonic() - self._worked_on < BETWEEN
        return "running" if is_going_on else "paused"


def text(value: object) -> str:
    """A string of the study, of bounded length, without characters that act on who shows it."""
    shown = printable(str(value))
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def _attacks(sight: Sight) -> list[str]:
    return [UNATTACKED, *sight.study.attacks]


def _written(path: Path) -> float | None:
    """When a report was written, in seconds since 1970; none where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _counts(stages: Iterable[StageStatus]) -> list[dict[str, Any]]:
    """How many stages of each kind are in which state; kinds that the study does not have are left out."""
    found = list(stages)
    counted = Counter((stage.kind, stage.state) for stage in found)
    kinds = [kind for kind in KINDS if any(stage.kind == kind for stage in found)]
    return [{"kind": kind, **{state: counted[kind, state] for state in STATES}} for kind in kinds]


def _stage(status: StageStatus, record: Record | None) -> dict[str, Any]:
    """As `rupert status --json` has it, and how long it took."""
    return {
        "kind": status.kind,
        "label": text(status.label),
        "state": status.state,
        "progress": _progress(status.progress) if status.progress else None,
        "message": text(status.message),
        "seconds": _number(record.seconds) if record else None,
    }


def _progress(progress: Progress) -> dict[str, Any]:
    told = dataclasses.asdict(progress)
    return {name: text(value) if isinstance(value, str) else _number(value) for name, value in told.items()}


def _number(value: object) -> float | None:
    """A number that JSON has; none otherwise."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _cells(sight: Sight) -> Iterator[dict[str, Any]]:
    """Each defense under each attack, its seeds together, as the report takes them together."""
    models: dict[tuple[str, str], list[Model]] = {}
    for model in sight.graph.models:
        models.setdefault((model.defense, model.attack), []).append(model)
    grid = _grid(sight)
    for (defense, attack), group in models.items():
        done = [model for model in group if _is_done(model, sight)]
        records = [sight.records[stage] for stage in dict.fromkeys(stage for model in done for stage in model.stages)]
        yield {
            "defense": text(defense),
            "attack": text(attack),
            "done": len(done),
            "seeds": len(group),
            **_going_on(group, sight),
            **{metric: _estimate(grid, (defense, attack), metric) for metric in SHOWN},
            "seconds": sum(_number(record.seconds) or 0.0 for record in records) if done else None,
        }


def _is_done(model: Model, sight: Sight) -> bool:
    return all(stage in sight.records for stage in model.stages)


def _going_on(group: Sequence[Model], sight: Sight) -> dict[str, Any]:
    """The state of a cell, and of which stage it is: "done" where all its models are measured."""
    missing = [model for model in group if not _is_done(model, sight)]
    if not missing:
        return {"state": "done", "stage": None}
    stages = {stage: _for_cell(stage, model, sight) for model in missing for stage in _needed(model.stages)}
    state = next(state for state in CELL_STATES if state in stages.values())
    at = next(stage for stage, its in stages.items() if its == state)
    place = list(sight.stages).index(at)
    return {"state": state, "stage": place if state != "waiting" else None}


def _for_cell(stage: Node, model: Model, sight: Sight) -> str:
    """What a stage that a model needs means for it: of those before its own, only that they failed."""
    state = sight.stages[stage].state
    if state == "failed" or (state in CELL_STATES and stage in model.stages):
        return state
    return "done" if state == "done" else "waiting"


def _needed(stages: Iterable[Node]) -> list[Node]:
    """Stages, and all that they work on, each once."""
    found: dict[Node, None] = {}
    left = list(stages)
    while left:
        stage = left.pop(0)
        found[stage] = None
        left += [parent for parent in stage.parents if parent not in found]
    return list(found)


def _grid(sight: Sight) -> Grid | None:
    """The numbers of the models that are done; none where there are none."""
    cells = [
        Cell(model.seed, model.defense, model.attack, _metrics(sight.records[model.evaluation]))
        for model in sight.graph.models
        if _is_done(model, sight)
    ]
    rows = result_rows(sight.study, cells)
    return collect(rows) if rows else None


def _metrics(record: Record) -> list[Metric]:
    """What the page shows of an evaluation, as far as it is numbers."""
    return [
        Metric(metric.name, value, _number(metric.low), _number(metric.high), _count(metric.n))
        for metric in record.metrics
        if metric.name in SHOWN and (value := _number(metric.value)) is not None
    ]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _estimate(grid: Grid | None, cell: tuple[str, str], metric: str) -> Mapping[str, Any] | None:
    found = grid.of(*cell, metric) if grid else None
    if found is None:
        return None
    measure = next(measure for measure in MEASURES if measure.metric == metric)
    interval = measure.interval(found.low, found.high)
    return {"value": found.value, "text": measure.text(found.value), "interval": interval, "n": found.n}
