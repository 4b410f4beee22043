"""Two models compared on the items that both were asked: what changed, and what cannot be told from so few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rupert.errors import DataError, FolderError, InvalidValue, UsageError
from rupert.evaluation.outcomes import Outcome
from rupert.evaluation.rows import read_rows, write_rows
from rupert.evaluation.statistics import Interval, equivalence, paired_difference, points, span, words

if TYPE_CHECKING:
    from rich.table import Table

OUTCOMES_FILE = "outcomes.jsonl"
MARGIN = 0.05
FIELDS = {"metric": str, "item": str, "value": float | int | None}

Verdict = Literal["higher", "lower", "kept", "lost", "not resolved"]
Values = Mapping[str, Mapping[str, float]]  # metric -> item -> value, NaN where it is unscored


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of two models, on the items that every folder has.

    Attributes:
        metric: its name.
        before: the mean over the items that both models have scored.
        after: the same of the other model.
        difference: after - before, with its 95 % interval; its n counts items.
        verdict: of ability "kept", "lost" or "not resolved" against the margin, see `statistics.equivalence`; of
            anything else "higher", "lower" or "not resolved".
        words: the verdict with its numbers.
        seeds: pairs of folders.
        unscored: pairs of outcomes that are left out, as at least one of them is unscored.
        unshared: items that are left out, as not every folder has them.
    """

    metric: str
    before: float
    after: float
    difference: Interval
    verdict: Verdict
    words: str
    seeds: int
    unscored: int
    unshared: int


def write_outcomes(rows: Sequence[Outcome], path: Path) -> None:
    """Write what `read_outcomes` reads, a line an item and metric; the file is there whole or not at all."""
    write_rows([{**asdict(row), "value": None if row.value is None else float(row.value)} for row in rows], path)


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of an evaluation.

    Raises:
        FolderError: there is no such file.
        DataError: it is empty or damaged, a value is not between 0 and 1, or a metric has an item twice.
    """
    found: list[Outcome] = []
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(read_rows(path, FIELDS), start=1):
        value = row["value"]
        if value is not None and (isinstance(value, bool) or not 0 <= value <= 1):
            raise DataError(f"{path}: line {number} has the value {value!r}, not from 0 to 1; evaluate again")
        if (row["metric"], row["item"]) in seen:
            raise DataError(f"{path}: line {number} repeats an item of {row['metric']!r}; evaluate again")
        seen.add((row["metric"], row["item"]))
        found.append(Outcome(row["metric"], row["item"], None if value is None else float(value)))
    return found


def damage(folder: Path) -> str:
    """What is wrong with the outcomes in a folder; empty where nothing is."""
    try:
        read_outcomes(folder / OUTCOMES_FILE)
    except UsageError as error:
        return str(error)
    return ""


def compare(after: Sequence[Path], before: Sequence[Path], *, margin: float = MARGIN) -> list[Comparison]:
    """Compare two models item by item, for each metric that every folder has, in the order of the first folder.

    Nothing published fixes a margin for "ability is kept". 5 points are well above the 1 to 2 points by which the
    undefended and the defended model of SEAM's Table 1 differ, and small beside what a collapse costs. It takes 52
    items of which none changes to show that less than 5 points were lost, and more where some do.

    Args:
        after: folders of evaluations, one a seed.
        before: the same of the model that it is compared with, in the same order of seeds; or one folder for all.
        margin: loss of ability, as a share, up to which it counts as kept.

    Raises:
        InvalidValue: the margin is not between 0 and 1, or a folder is named twice on one side.
        FolderError: a folder has no outcomes.
        DataError: outcomes are damaged, the numbers of folders do not fit, or the folders share no metric, or no item
            of a metric, or none that is scored.
    """
    if not 0 < margin < 1:
        raise InvalidValue("margin", margin, "a share between 0 and 1, such as 0.05 for 5 points")
    _check_folders(after, before)
    later, earlier = [_read(folder) for folder in after], [_read(folder) for folder in before]
    metrics = [name for name in later[0] if all(name in values for values in (*later, *earlier))]
    if not metrics:
        raise DataError(f"{after[0]}: shares no metric with the other folders; evaluate both on the same data")
    return [_comparison(name, later, earlier, margin) for name in metrics]


def comparison_table(found: Sequence[Comparison]) -> Table:
    """The comparisons for a terminal of 80 columns, a line a metric."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=_caption(found), caption_justify="left")
    table.add_column("metric", overflow="fold", max_width=26)
    for heading in ("before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("difference")
    for one in found:
        style = "dim" if one.verdict == "not resolved" else ""
        table.add_row(Text(one.metric), f"{one.before:.1%}", f"{one.after:.1%}", Text(one.words, style=style))
    return table


def _caption(found: Sequence[Comparison]) -> str:
    """What the intervals are, and what they leave out."""
    over = f", over {found[0].seeds} seeds" if found[0].seeds > 1 else ""
    left_out = [
        f"{one.metric}: {one.unshared} items that not all folders have and {one.unscored} unscored pairs are left out."
        for one in found
        if one.unshared or one.unscored
    ]
    ranges = f"95 % intervals, paired by item{over}; each of {len(found)} lines is tested by itself."
    return " ".join([ranges, *left_out])


def _check_folders(after: Sequence[Path], before: Sequence[Path]) -> None:
    for side, folders in (("after", after), ("before", before)):
        if not folders:
            raise InvalidValue(side, [], "name at least one folder of an evaluation")
        places = [folder.resolve() for folder in folders]
        for folder, place in zip(folders, places, strict=True):
            if places.count(place) > 1:
                raise InvalidValue(side, str(folder), "name each folder once, as each is a seed")
            if not folder.is_dir():
                raise FolderError(f"{side}: {str(folder)!r} is no folder; name what `rupert eval` wrote")
    if len(before) not in (1, len(after)):
        raise DataError(f"before: {len(before)} folders stand against {len(after)}; name one, or one for each")


def _read(folder: Path) -> Values:
    values: dict[str, dict[str, float]] = {}
    for row in read_outcomes(folder / OUTCOMES_FILE):
        values.setdefault(row.metric, {})[row.item] = np.nan if row.value is None else row.value
    return values


def _comparison(metric: str, later: Sequence[Values], earlier: Sequence[Values], margin: float) -> Comparison:
    folders = [values[metric] for values in (*later, *earlier)]
    shared = set(folders[0]).intersection(*folders[1:])
    unshared = len(set(folders[0]).union(*folders[1:])) - len(shared)
    if not shared:
        example = min(folders[0])[:16]
        raise DataError(
            f"{metric}: none of {unshared} items is in all {len(folders)} folders ({example!r} is not); "
            "evaluate both models on the same data"
        )
    order = sorted(shared)
    after, before = np.broadcast_arrays(_grid(metric, later, order), _grid(metric, earlier, order))
    scored = ~np.isnan(after) & ~np.isnan(before)
    if not scored.any():
        raise DataError(f"{metric}: none of {len(order)} items is scored on both sides; judge them again")
    difference = paired_difference(after, before)
    verdict, text = _verdict(metric, difference, paired_difference(after, before, confidence=0.9), margin)
    return Comparison(
        metric=metric,
        before=float(before[scored].mean()),
        after=float(after[scored].mean()),
        difference=difference,
        verdict=verdict,
        words=text,
        seeds=len(after),
        unscored=int((~scored).sum()),
        unshared=unshared,
    )


def _grid(metric: str, seeds: Sequence[Values], items: Sequence[str]) -> NDArray[np.float64]:
    """[seeds, items]"""
    return np.array([[values[metric][item] for item in items] for values in seeds])


def _verdict(metric: str, difference: Interval, ninety: Interval, margin: float) -> tuple[Verdict, str]:
    """The verdict on one metric, and its clause."""
    found = words(difference)
    if not metric.startswith("ability"):
        if difference.low <= 0 <= difference.high:
            return "not resolved", found
        return ("higher" if difference.value > 0 else "lower"), found
    within = f"within {100 * margin:g} points"
    match equivalence(ninety, difference, margin):
        case "kept":
            return "kept", f"kept {within} ({span(ninety)} at 90 %), n = {difference.n}"
        case "lost":
            return "lost", f"lost: {found}"
        case "unresolved":
            lower = f"lower by {points(-difference.value)} points, but " if difference.high < 0 else ""
            return "not resolved", f"{lower}{within} not resolved at n = {difference.n} ({span(difference)} points)"
