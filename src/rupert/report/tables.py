"""Result rows as tables: the CSV file, the grid of estimates over seeds, and the terminal's summary."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from rupert.errors import DataError
from rupert.records import ResultRow, write_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLUMNS = tuple(field.name for field in dataclasses.fields(ResultRow))
UNATTACKED = "none"
BENIGN = "benign"
UNDEFENDED = "none"

_LEARNING_RATE = re.compile(r"-(\d+(?:\.\d+)?(?:e[-+]?\d+)?)$")
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_TO = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric is named and written.

    Attributes:
        metric: its name in `ResultRow`.
        title: what a column is headed.
        rate: a share of 0 to 1, written in percent; otherwise a mean log-probability per token, in nats.
        in_terminal: what the terminal's table, which has 80 columns, shows of it.
    """

    metric: str
    title: str
    rate: bool = True
    in_terminal: Literal["nothing", "value", "interval"] = "nothing"

    def text(self, value: float) -> str:
        """The value with its unit; a rate that is not quite 0 or 1 is never rounded to it."""
        if not self.rate:
            return _signed(value, 1 if abs(value) >= 10 else 2)
        percent = 100 * value
        whole = percent in (0, 100) or 0.5 <= percent < 99.5
        return f"{percent:.{0 if whole else 1}f}{_THIN_SPACE}%"

    def interval(self, low: float | None, high: float | None) -> str:
        """Both bounds without unit, those of a rate rounded outwards; empty where there is no interval."""
        if low is None or high is None:
            return ""
        if not self.rate:
            return f"{_signed(low, 2)} to {_signed(high, 2)}"
        return f"{math.floor(round(100 * low, 6))}{_TO}{math.ceil(round(100 * high, 6))}"


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", _MINUS)


MEASURES = (
    Measure("harm", "harm", in_terminal="interval"),
    Measure("harm_coherent", "harm, if coherent", in_terminal="interval"),
    Measure("ability", "ability", in_terminal="interval"),
    Measure("refusal", "refusal", in_terminal="value"),
    Measure("over_refusal", "over-refusal"),
    Measure("answers/refusal", "answers: refusal"),
    Measure("answers/irrelevant", "answers: coherent, not harmful"),
    Measure("answers/harmful", "answers: coherent and harmful"),
    Measure("answers/degenerate", "answers: degenerate", in_terminal="value"),
    Measure("logp_paired", "log p, pairs", rate=False),
    Measure("logp_benign", "log p, benign", rate=False),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric of one defense under one attack, over the seeds of the study.

    With one seed it is that seed's row. With several, `value` is the mean over seeds, and `low` and `high` span
    everything from the lowest bound to the highest of any seed (its value, where it has no interval): never narrower
    than one seed's interval or than the range of the seeds. That span is not a confidence interval for further seeds,
    which so few runs cannot give. Answers are not pooled, since every seed is scored on the same questions.

    Attributes:
        n: answers or texts that each seed was scored on (the fewest, where seeds differ).
        seeds: how many seeds.
    """

    value: float
    low: float | None
    high: float | None
    n: int | None
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Grid:
    """A study's rows as estimates.

    Attributes:
        defenses: the undefended model first, then in the order of the rows.
        attacks: no attack, benign fine-tuning, learning rates ascending, then all others in the order of the rows.
        seeds: ascending.
        estimates: (defense, attack, metric) -> the value.
        changes: (defense, attack, metric) -> the value less that of the same defense and seed before the attack.
    """

    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]
    estimates: Mapping[tuple[str, str, str], Estimate]
    changes: Mapping[tuple[str, str, str], Estimate]

    def measures(self) -> list[Measure]:
        """The metrics that were measured anywhere; fine-tuning scores, of which each study has its own, come last."""
        measured = {metric for _, _, metric in self.estimates}
        scores = sorted(metric for metric in measured if metric.startswith("score/"))
        return [
            *(measure for measure in MEASURES if measure.metric in measured),
            *(Measure(metric, f"fine-tuned: {metric.partition('/')[2]}") for metric in scores),
        ]

    def common_n(self, metric: str) -> int | None:
        """The number that every estimate of a metric was measured on; None where they differ or it is not given."""
        counts = {found.n for (_, _, name), found in self.estimates.items() if name == metric}
        return counts.pop() if len(counts) == 1 else None

    def of(self, defense: str, attack: str, metric: str) -> Estimate | None:
        """The estimate; None where it was not measured."""
        return self.estimates.get((defense, attack, metric))


def learning_rate(attack: str) -> float | None:
    """The learning rate at the end of an attack's label; None for a label without one and for benign fine-tuning."""
    found = _LEARNING_RATE.search(attack)
    if found is None or attack.split("-", maxsplit=1)[0] == BENIGN:
        return None
    rate = float(found[1])
    return rate if rate < 1 else None  # `fine_tune-320` is of as many rows


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 2e-5."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def attack_title(attack: str) -> str:
    """An attack's label for people."""
    rate = learning_rate(attack)
    if rate is not None:
        method = _LEARNING_RATE.sub("", attack)
        return f"lr {rate_text(rate)}" if method == "fine_tune" else f"{method}, lr {rate_text(rate)}"
    return {UNATTACKED: "no attack", BENIGN: "benign"}.get(attack, attack)


def defense_title(defense: str) -> str:
    """A defense's name for people."""
    return "undefended" if defense == UNDEFENDED else defense


def collect(rows: Sequence[ResultRow]) -> Grid:
    """Group the rows of one study by cell and take them together over seeds.

    A value that is not finite was not measured, and is left out.

    Raises:
        DataError: there are no rows, they are of more than one study or model, or one cell comes twice.
    """
    if not rows:
        raise DataError("results: no rows; run the study first")
    for field in ("study", "model"):
        names = sorted({getattr(row, field) for row in rows})
        if len(names) > 1:
            raise DataError(f"results: rows of more than one {field}: {', '.join(map(repr, names))}; pass one")
    cells = _by_cell(rows)
    unattacked = {(cell[0], cell[2]): by_seed for cell, by_seed in cells.items() if cell[1] == UNATTACKED}
    changes = {cell: _changes(by_seed, unattacked.get((cell[0], cell[2]), {})) for cell, by_seed in cells.items()}
    return Grid(
        defenses=tuple(sorted(dict.fromkeys(row.defense for row in rows), key=lambda name: name != UNDEFENDED)),
        attacks=tuple(sorted(dict.fromkeys(row.attack for row in rows), key=_attack_order)),
        seeds=tuple(sorted({row.seed for row in rows})),
        estimates={cell: _over_seeds(list(by_seed.values())) for cell, by_seed in cells.items()},
        changes={cell: _over_seeds(found) for cell, found in changes.items() if found},
    )


def _attack_order(attack: str) -> tuple[int, float]:
    rate = learning_rate(attack)
    if rate is not None:
        return 2, rate
    return {UNATTACKED: 0, BENIGN: 1}.get(attack, 3), 0.0


def _by_cell(rows: Iterable[ResultRow]) -> dict[tuple[str, str, str], dict[int, Estimate]]:
    cells: dict[tuple[str, str, str], dict[int, Estimate]] = defaultdict(dict)
    for row in rows:
        cell = (row.defense, row.attack, row.metric)
        if row.seed in cells[cell]:
            raise DataError(
                f"results: {row.metric!r} of {row.defense!r} under {row.attack!r} comes twice for seed {row.seed}"
            )
        cells[cell][row.seed] = Estimate(row.value, row.low, row.high, row.n)
    finite = {
        cell: {seed: found for seed, found in by_seed.items() if math.isfinite(found.value)}
        for cell, by_seed in cells.items()
    }
    return {cell: by_seed for cell, by_seed in finite.items() if by_seed}


def _over_seeds(found: Sequence[Estimate]) -> Estimate:
    if len(found) == 1:
        return found[0]
    counts = [one.n for one in found if one.n is not None]
    return Estimate(
        value=fmean(one.value for one in found),
        low=min(one.value if one.low is None else one.low for one in found),
        high=max(one.value if one.high is None else one.high for one in found),
        n=min(counts, default=None),
        seeds=len(found),
    )


def _changes(attacked: Mapping[int, Estimate], unattacked: Mapping[int, Estimate]) -> list[Estimate]:
    return [_difference(found, unattacked[seed]) for seed, found in attacked.items() if seed in unattacked]


def _difference(after: Estimate, before: Estimate) -> Estimate:
    """After less before, with Zou and Donner's interval of a difference from the intervals of its two parts.

    It takes the two as independent. They are scored on the same texts, so the interval is wider than it need be.
    """
    value = after.value - before.value
    counts = [one.n for one in (after, before) if one.n is not None]
    low = high = None
    if after.low is not None and after.high is not None and before.low is not None and before.high is not None:
        low = value - math.hypot(after.value - after.low, before.high - before.value)
        high = value + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, low, high, min(counts, default=None))


def write_csv(rows: Iterable[ResultRow], path: Path) -> None:
    """Write `results.csv` atomically: one line a row, floats that read back exactly, None as an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    write_text(text.getvalue(), path)


def read_csv(path: Path) -> list[ResultRow]:
    """The rows of a `results.csv`.

    Raises:
        DataError: the file is not there, lacks a column, or holds something that is not a number where one belongs.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; the columns are {', '.join(COLUMNS)}")
            return [_row(fields, f"{path}, line {reader.line_num}") for fields in reader]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; run the study first") from None


def _row(fields: Mapping[str, str | None], place: str) -> ResultRow:
    texts = {column: fields[column] or "" for column in COLUMNS}
    try:
        return ResultRow(
            study=texts["study"],
            model=texts["model"],
            defense=texts["defense"],
            attack=texts["attack"],
            seed=int(texts["seed"]),
            metric=texts["metric"],
            value=float(texts["value"]),
            low=float(texts["low"]) if texts["low"] else None,
            high=float(texts["high"]) if texts["high"] else None,
            n=int(texts["n"]) if texts["n"] else None,
        )
    except ValueError as error:
        raise DataError(f"{place}: {error}; write the file again") from None


def summary_table(rows: Sequence[ResultRow]) -> Table:
    """The study for the terminal: a line for each defense under each attack, a rate with its interval beside it.

    It fits into 80 columns. Several seeds are taken together as `Estimate` says.

    Raises:
        DataError: as `collect` does.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = collect(rows)
    measures = [measure for measure in grid.measures() if measure.in_terminal != "nothing"]
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
        caption=caption(grid),
        caption_justify="left",
    )
    table.add_column("attack", overflow="fold")
    table.add_column("defense", no_wrap=True)
    for measure in measures:
        table.add_column(re.sub("[,:] ", "\n", measure.title), justify="right", no_wrap=True)
    for attack in grid.attacks:
        for number, defense in enumerate(grid.defenses):
            cells = [_terminal_cell(grid.of(defense, attack, measure.metric), measure) for measure in measures]
            heading = "" if number else attack_title(attack)
            last = number == len(grid.defenses) - 1
            table.add_row(Text(heading, style="bold"), Text(defense_title(defense)), *cells, end_section=last)
    return table


def _terminal_cell(estimate: Estimate | None, measure: Measure) -> Text:
    from rich.text import Text

    if estimate is None:
        return Text(_TO, style="dim")
    if measure.in_terminal == "value":
        return Text(measure.text(estimate.value))
    return Text.assemble(measure.text(estimate.value), (f" {measure.interval(estimate.low, estimate.high):<6}", "dim"))


def caption(grid: Grid) -> str:
    """What the intervals of this grid are, in one sentence."""
    if len(grid.seeds) == 1:
        return "Ranges are 95 % intervals of one seed's answers."
    return (
        f"Means over {len(grid.seeds)} seeds. Ranges span the seeds, each with its own 95 % interval: "
        "they are no confidence intervals for further seeds."
    )
