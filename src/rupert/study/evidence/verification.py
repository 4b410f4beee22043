"""Holds the results of a study against targets: pass, fail, or why it cannot be said.

A verdict is about the estimate; the interval beside it says how sure that is. A claim that does not hold at this size
fails: no tolerance is there to make it pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from rupert.records import ResultRow
from rupert.study.evidence.targets import Target

VERIFICATION_FILE = "verification.json"

Outcome = Literal["pass", "fail", "not measured", "not run here"]


@dataclass(frozen=True, slots=True)
class Ours:
    """What was measured: the mean over seeds, and the ends of all seeds' 95 % intervals; None where one has none."""

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A target, what was measured of it, and what that says; `reason` is why nothing was measured."""

    target: Target
    ours: Ours | None
    outcome: Outcome
    reason: str = ""


def verify(claims: Sequence[Target], rows: Sequence[ResultRow], *, study: str, model: str) -> list[Verified]:
    """Hold each claim against a study's results.

    Args:
        claims: of one defense.
        rows: what was measured.
        study: its name.
        model: its model.

    Returns:
        one verdict a claim: "not run here" where it is about another study or model, "not measured" where the study is
        the right one and has no such cell.
    """
    return [_verified(claim, rows, study, model) for claim in claims]


def _verified(target: Target, rows: Sequence[ResultRow], study: str, model: str) -> Verified:
    if target.model != model or target.recipe not in ("", study):
        needed = target.model if target.model == "potionworld" else f"{target.model} and the Hub"
        recipe = f": rupert run {target.recipe}" if target.recipe else ""
        return Verified(target, None, "not run here", f"needs {needed}{recipe}")
    ours = _ours(target, rows)
    if ours is None:
        return Verified(target, None, "not measured", f"no {target.metric} of {target.defense} under {target.attack}")
    return Verified(target, ours, "pass" if target.holds(ours.value) else "fail")


def _ours(target: Target, rows: Sequence[ResultRow]) -> Ours | None:
    """The cell, or the difference of two, over all seeds that have it."""
    cells = {(row.seed, row.defense, row.attack): row for row in rows if row.metric == target.metric}
    found = [_of_seed(target, cells.get, seed) for seed in sorted({row.seed for row in rows})]
    measured = [one for one in found if one is not None and math.isfinite(one.value)]
    if not measured:
        return None
    lows, highs = [one.low for one in measured], [one.high for one in measured]
    return Ours(
        fmean(one.value for one in measured),
        None if None in lows else min(low for low in lows if low is not None),
        None if None in highs else max(high for high in highs if high is not None),
        len(measured),
    )


def _of_seed(target: Target, find: Callable[[tuple[int, str, str]], ResultRow | None], seed: int) -> Ours | None:
    cell = find((seed, target.defense, target.attack))
    if cell is None:
        return None
    if not (target.minus_defense or target.minus_attack):
        return Ours(cell.value, cell.low, cell.high, 1)
    less = find((seed, target.minus_defense or target.defense, target.minus_attack or target.attack))
    return _difference(cell, less) if less else None


def _difference(cell: ResultRow, less: ResultRow) -> Ours:
    """With Zou and Donner's interval from those of the two cells, taken as independent: wider than it need be."""
    value = cell.value - less.value
    if cell.low is None or cell.high is None or less.low is None or less.high is None:
        return Ours(value, None, None, 1)
    low = value - math.hypot(cell.value - cell.low, less.high - less.value)
    high = value + math.hypot(cell.high - cell.value, less.value - less.low)
    return Ours(value, low, high, 1)
