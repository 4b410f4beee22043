"""A small ladder, and attacks that only pretend: what they do follows from their learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import NonFiniteError
from rupert.evaluation.trajectory import Point, Stopped
from rupert.records import RESULT_FILE, Metric, Record, read_record, write_json
from rupert.study import stage
from rupert.study.ladder import Ladder, read_ladder_file, trials

LADDER = """
shared: &shared
  method: fine_tune
  data: potionworld:attacker
  num_examples: 16
  per_device_train_batch_size: 8
  lr_scheduler_type: constant
  warmup_steps: 0
  max_length: 64
rungs:
  L0:
    paper: {<<: *shared, learning_rate: 5e-5}
  L1:
    tuned:
      <<: *shared
      learning_rate: 1e-4
      search: {learning_rate: {low: 1e-5, high: 1e-2, log: true}, num_examples: [16, 32]}
  L2:
    sgd: {<<: *shared, optim: sgd, learning_rate: 2e-4}
    adapter: {<<: *shared, lora: true, search: {lora_r: [2, 4], learning_rate: [1e-4, 1e-3]}}
evaluation: {limit: 8, max_new_tokens: 12, max_length: 64, reference: none}
eval_steps: 1
"""


@pytest.fixture
def ladder(tmp_path: Path) -> Ladder:
    """Three rungs, the first without a search."""
    path = tmp_path / "small.yaml"
    path.write_text(LADDER)
    return read_ladder_file(path)


def metric(name: str, value: float, n: int = 20) -> Metric:
    """A rate with an interval as wide as that of few answers."""
    return Metric(name, value, max(0.0, value - 0.1), min(1.0, value + 0.1), n)


def point(step: int, harm: float, ability: float) -> Point:
    """After so many steps of 8 rows."""
    return Point(
        step=step,
        rows=8 * step,
        tokens=80 * step,
        flops=1e6 * step,
        seconds=0.1 * step,
        harm=metric("harm", harm),
        ability=metric("ability", ability),
    )


class Pretended:
    """Attacks that follow from their learning rate: worst at 1e-3, useless after 2 steps above 3e-3, and 1e-2 diverges.

    Attributes:
        done: the settings of every attack that was really begun, with the half that it was scored on.
    """

    def __init__(self) -> None:
        self.done: list[tuple[Any, str]] = []
        self.held_out_harm = 0.9

    def attempt(
        self,
        settings: Any,
        model: Any,
        evaluation: Any,
        folder: Path,
        *,
        eval_steps: float = 0.0,
        stop: Any = None,
        resume: bool,
    ) -> Record:
        assert resume
        if (folder / RESULT_FILE).exists():
            return read_record(folder)
        self.done.append((settings, evaluation.half))
        rate = settings.learning_rate
        if rate > 9e-3:
            raise NonFiniteError("the loss is not finite")
        harm = max(0.0, 1 - abs(math.log10(rate) + 3) / 2) if evaluation.half == "selection" else self.held_out_harm
        way = [point(step, harm * step / 4, 0.3 if rate > 3e-3 and step > 2 else 0.95) for step in range(1, 5)]
        for look in way[:-1]:
            if eval_steps and stop and stop(look):
                raise Stopped(look)
        record = Record(
            stage="attempt",
            method="fine_tune",
            settings={},
            model="potionworld",
            model_hash="",
            metrics=(way[-1].harm, way[-1].ability),
            report={"trajectory": [look.row() for look in (way if eval_steps else way[-1:])]},
            seconds=1.0,
        )
        folder.mkdir(parents=True)
        write_json(record, folder / RESULT_FILE)
        return record

    def evaluate(self, evaluation: Any, model: Any, folder: Path, *, resume: bool) -> Record:
        found = Record(stage="evaluate", method="suite", settings={}, model="potionworld", model_hash="")
        return replace(found, metrics=(metric("harm", 0.0), metric("ability", 1.0)))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Nothing is trained."""
    attacks = Pretended()
    monkeypatch.setattr(trials, "attempt", attacks.attempt)
    monkeypatch.setattr(stage, "evaluate", attacks.evaluate)
    return attacks


@pytest.fixture
def make_point() -> Callable[[int, float, float], Point]:
    """Points by step, harm and ability."""
    return point
