"""The stage that attacks a model and measures what comes out, keeping no weights: one of many attempts."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rupert.attacks import Attacker
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import Point, Stopped
from rupert.models.loading import ModelSettings
from rupert.records import Record

@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A model is attacked in memory and measured."""

    settings: Attacker
    model: ModelSettings
    evaluation: Evaluation
    eval_steps: float = 0.0
    stop: Callable[[Point], bool] | None = None
    mends: ClassVar[bool] = True


def attempt(
    settings: Attacker,
    model: ModelSettings,
    evaluation: Evaluation,
    folder: Path,
    *,
    eval_steps: float = 0.0,
    stop: Callable[[Point], bool] | None = None,
    resume: bool = False,
) -> Record:
    """Signature is final; the body follows in minutes. Raises `Stopped` when pruned, leaving no record."""
    raise Stopped  # being written


def points(record: Record) -> list[Point]:
    """The points of an attempt's trajectory, the last of which is the attacked model."""
    return []
