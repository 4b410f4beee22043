"""The report: one HTML file, verdict first, then tables and figures, every answer and number, and whence they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rupert.evidence import Evidence
from rupert.report import html
from rupert.report.answers import answers
from rupert.report.comparing import Paired, points, strongest_attack
from rupert.report.figures import Figure, styles
from rupert.report.provenance import provenance
from rupert.report.sheets import Number, Table, shown_n
from rupert.report.study_figures import study_figures
from rupert.report.study_sheets import study_tables
from rupert.report.tables import UNDEFENDED, Grid, attack_title, caption, collect, defense_title
from rupert.report.verdict import STANDINGS, verdict

# What comes where between the verdict and the answers: figures and tables by name, as far as there are any.
ORDER = (
    "table-1",
    "harm-and-ability",
    "attack-grid",
    "ability",
    "data-volume",
    "safe-or-broken",
    "cost-of-attacks",
    "cost-of-searches",
    "break-cost",
    "scatter",
    "along",
    "mechanism",
    "refusal",
    "training",
)
SHOWN_WHOLE = 3  # defenses whose findings are all open


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed of a defense and what came out, in words; see `rupert verify`."""

    text: str
    source: str
    claimed: str
    ours: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What the page says that a study's own evidence does not hold.

    Attributes:
        claims: what was held against the numbers.
        paired: differences that were taken item by item.
        untried: attacks by name that this study did not run.
        figures, tables: of other measurements, such as of ladders and of gradients.
        notes: what a reader has to know of them.
        show_unsafe: put also the texts into the file that are hidden where nobody asked to see them.
    """

    claims: Sequence[Claim] = ()
    paired: Paired = field(default_factory=dict)
    untried: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    show_unsafe: bool = False


def render(found: Evidence, beside: Beside | None = None) -> str:
    """The report as HTML, which loads nothing from outside.

    Raises:
        DataError: nothing is measured yet.
    """
    beside = beside or Beside()
    grid = collect(found.rows)
    drawn = [*study_figures(found), *beside.figures]
    told = answers(found, show_unsafe=beside.show_unsafe)
    return html.render(
        "page.html",
        drawn,
        scripts=["answers.js"] if told.data else [],
        evidence=found,
        beside=beside,
        grid=grid,
        verdict=verdict(grid, beside.paired),
        standings=STANDINGS,
        sections=_ordered([*drawn, *study_tables(found), *beside.tables]),
        told=told,
        answers=html.packed(told.data) if told.data else "",
        provenance=provenance(found),
        command=found.command or "\n".join(origin.command for origin in found.origins if origin.command),
        duration=html.duration(found.seconds),
        seconds=html.duration,
        notes=[*found.notes, *told.problems, *beside.notes, *_doubts(found)],
        looks=styles(grid),
        caption=caption(grid),
        brief=len(grid.defenses) > SHOWN_WHOLE + 1,
        filtered=len(grid.defenses) > 2,
        attack_title=attack_title,
        defense_title=defense_title,
        strongest_attack=strongest_attack,
        is_number=lambda cell: isinstance(cell, Number),
        shown_n=shown_n,
        missing=list(_missing(found, grid)),
        lost=[f"Not measured: {cell.name} ({'; '.join(cell.missing)})." for cell in found.missing],
        points=points,
        measures=[measure for measure in grid.measures() if measure.metric in ("harm", "ability")],
    )


def _ordered(found: Sequence[Figure | Table]) -> list[Figure | Table]:
    """As a reader needs them; what has no place among them is shown elsewhere on the page."""

    def place(one: Figure | Table) -> int:
        return ORDER.index(_kind(one))

    return sorted((one for one in found if _kind(one) in ORDER), key=place)


def _kind(one: Figure | Table) -> str:
    return "scatter" if one.name.startswith("scatter-") else one.name


def _missing(found: Evidence, grid: Grid) -> Iterator[str]:
    """What of the study is not measured, in as few lines as say it by name."""
    if UNDEFENDED not in grid.defenses:
        yield "The undefended model beside the others"
    whole = [seed for seed in found.seeds if all(cell.missing for cell in found.cells if cell.seed == seed)]
    for seed in whole:
        yield f"Seed {seed}: nothing of it is measured yet"
    lost: dict[tuple[str, int], list[str]] = {}
    for cell in found.missing:
        if cell.seed not in whole:
            lost.setdefault((cell.defense, cell.seed), []).append(attack_title(cell.attack))
    every = len({cell.attack for cell in found.cells})
    for (defense, seed), attacks in lost.items():
        named = "; ".join(attacks) if len(attacks) < every else "nothing of it is measured yet"
        yield f"{defense_title(defense)}, seed {seed}: {named}"


def _doubts(found: Evidence) -> list[str]:
    """What a reader has to know of the evidence itself."""
    older = [origin for origin in found.origins if not origin.is_current]
    if not older:
        return []
    return [
        f"{len(older)} of {len(found.origins)} stages are shown as their records have them: their model or data "
        "are not on the machine that wrote this page, or rupert has changed since and `rupert run` would do them "
        "again."
    ]
