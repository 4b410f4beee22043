"""The course of a training, as far as its record has it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rupert.evidence import Curve
from rupert.records import Record


def curves(record: Record) -> tuple[Curve, ...]:
    """What a record says step by step: a hardening's metrics, and the losses that an attack keeps."""
    return tuple(curve for curve in _found(record.report) if curve.steps)


def _found(report: Mapping[str, Any]) -> Iterator[Curve]:
    """`history` has a mapping a step; `..._losses` maps a step to its value."""
    history = report.get("history", [])
    for name in dict.fromkeys(name for metrics in history for name in metrics):
        yield _curve(name, [(step, metrics.get(name)) for step, metrics in enumerate(history, start=1)])
    for name, by_step in report.items():
        if name.endswith("_losses"):
            yield _curve(name.removesuffix("es"), [(int(step), value) for step, value in by_step.items()])


def _curve(name: str, points: Sequence[tuple[int, Any]]) -> Curve:
    finite = [(step, float(value)) for step, value in points if isinstance(value, int | float) and math.isfinite(value)]
    return Curve(name, tuple(step for step, _ in finite), tuple(value for _, value in finite))
