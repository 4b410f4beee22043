"""The attacks of a ladder, each done in a folder of its own that its identity names, and found again there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rupert.attacks import Attacker
from rupert.errors import FolderError
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import Point, Stop, Stopped
from rupert.models.loading import ModelSettings
from rupert.records import Record, write_json
from rupert.study import stage
from rupert.study.ladder.rungs import Ladder
from rupert.study.stage.attempting import Attempt, attempt, points

TRIALS, STOPPED, HELD_OUT, BEFORE = "trials", "stopped", "held_out", "before"


@dataclass(frozen=True, slots=True)
class Found:
    """What an attack did.

    Attributes:
        points: looks at the model under attack, the last of a finished attack at what came out.
        seconds: that it took, with its measurement.
        folder: of its record, relative to the ladder's; empty for one that was stopped.
    """

    points: tuple[Point, ...]
    seconds: float
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Trials:
    """Attacks on one model, in the folder of a ladder."""

    ladder: Ladder
    model: ModelSettings
    folder: Path

    def before(self, half: Literal["selection", "held_out"]) -> Record:
        """The model before any attack, measured on a half."""
        return stage.evaluate(self._evaluation(half), self.model, self.folder / BEFORE / half, resume=True)

    def select(self, attack: Attacker, label: str, stop: Stop) -> Found:
        """An attack, scored on the half that attacks are chosen on.

        Args:
            attack: its settings.
            label: what its folder's name begins with.
            stop: asked at each look; of an attack that was done before, it is told of the looks of then.
        """
        evaluation, eval_steps = self._evaluation("selection"), self.ladder.eval_steps
        name = _name(Attempt(settings=attack, model=self.model, evaluation=evaluation, eval_steps=eval_steps), label)
        ended = self.folder / STOPPED / f"{name}.json"
        if ended.exists():
            return _told(_read_stopped(ended), stop)
        heard = _Heard(stop)
        started = time.perf_counter()
        try:
            record = attempt(
                attack,
                self.model,
                evaluation,
                self.folder / TRIALS / name,
                eval_steps=eval_steps,
                stop=heard,
                resume=True,
            )
        except Stopped:
            found = Found(tuple(heard.points), time.perf_counter() - started)
            _write_stopped(found, ended)
            return found
        found = Found(tuple(points(record)), record.seconds, f"{TRIALS}/{name}")
        return found if heard.points else _told(found, stop)

    def held_out(self, attack: Attacker, label: str) -> Found:
        """An attack, scored on the other half."""
        evaluation, eval_steps = self._evaluation("held_out"), self.ladder.eval_steps
        name = _name(Attempt(settings=attack, model=self.model, evaluation=evaluation, eval_steps=eval_steps), label)
        folder = self.folder / HELD_OUT / name
        record = attempt(attack, self.model, evaluation, folder, eval_steps=eval_steps, resume=True)
        return Found(tuple(points(record)), record.seconds, f"{HELD_OUT}/{name}")

    def _evaluation(self, half: Literal["selection", "held_out"]) -> Evaluation:
        return replace(self.ladder.evaluation, half=half)


@dataclass(slots=True)
class _Heard:
    """Passes looks on, and keeps them."""

    stop: Stop
    points: list[Point] = field(default_factory=list)

    def __call__(self, point: Point) -> bool:
        self.points.append(point)
        return self.stop(point)


def _told(found: Found, stop: Callable[[Point], bool]) -> Found:
    """Tell of the looks on the way, as when they were new; the last of a finished attack is at what came out."""
    for point in found.points[:-1] if found.folder else found.points:
        stop(point)
    return found


def _name(work: Attempt, label: str) -> str:
    return f"{label}-{work.request().identity[:16]}"


def _write_stopped(found: Found, path: Path) -> None:
    """An attack that was stopped has no record: its looks are kept, so that it need not be done again."""
    path.parent.mkdir(exist_ok=True)
    write_json({"seconds": found.seconds, "points": [point.row() for point in found.points]}, path)


def _read_stopped(path: Path) -> Found:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Found(tuple(map(Point.from_row, raw["points"])), float(raw["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path}: damaged ({error}); delete it, and its attack is done again") from None
