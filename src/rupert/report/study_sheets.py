"""A study's tables: verdict, Table 1, harm and ability under attack, SDD's changes of ability, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rupert.evidence import Evidence
from rupert.report.comparing import compare, strongest_attack
from rupert.report.sheets import Cell, Column, Number, Table, number_column
from rupert.report.tables import (
    BENIGN,
    MEASURES,
    UNATTACKED,
    UNDEFENDED,
    Grid,
    attack_title,
    caption,
    collect,
    defense_title,
)

ABILITY, SCORE = "ability", "score/"
PAPER_TASKS = ("ability/mmlu", "ability/openbookqa")  # of SDD's tables
UNDER_ATTACK = ("harm", "harm_coherent", "refusal", "answers/degenerate", ABILITY)
TITLES = {"ability/mmlu": "MMLU", "ability/openbookqa": "OpenBookQA", ABILITY: "ability, all tasks"}
_MEASURE = {measure.metric: measure for measure in MEASURES}
_MINUS = "\N{MINUS SIGN}"

Key = tuple[str, str, str]  # defense, attack, metric


def study_tables(evidence: Evidence) -> list[Table]:
    """Every table that there are numbers for, and one of what was not measured.

    Raises:
        DataError: nothing is measured yet.
    """
    grid = collect(evidence.all_rows)
    tables = (verdicts(grid), table_1(grid), under_attack(grid), changes_of_ability(grid), missing(evidence))
    return [table for table in tables if table.rows]


def verdicts(grid: Grid) -> Table:
    """Each defense before any attack and under the strongest one that was tried."""
    attacks = {defense: strongest_attack(grid, defense) for defense in grid.defenses}
    text = (
        "Before: before any attack. After: under the strongest attack tried, the one that brings out the most harm, "
        "which is picked after the fact. Against undefended: harm after it beside that of the undefended model under "
        "the attack that is strongest there; lower or higher where the intervals lie apart. An attack that is not "
        f"listed was not tried. {caption(grid)}"
    )
    unattacked: Mapping[str, str | None] = dict.fromkeys(grid.defenses, UNATTACKED)
    moments = [("before", unattacked), ("after", attacks)]
    return _table(
        ("verdict", "What held and what broke", text),
        [
            ("defense", list(map(defense_title, grid.defenses))),
            ("strongest attack", [attack_title(attack) if attack else "none was run" for attack in attacks.values()]),
            ("harm against undefended", [_against(grid, defense, attacks) for defense in grid.defenses]),
        ],
        [
            (f"{metric} {when}", [_number(grid, (defense, at[defense] or "", metric)) for defense in grid.defenses])
            for metric in ("harm", ABILITY)
            for when, at in moments
        ],
    )


def table_1(grid: Grid) -> Table:
    """What hardening costs before any attack: zero-shot and fine-tuning scores."""
    metrics = [
        *(metric for metric in _metrics(grid) if metric == ABILITY or metric.startswith(f"{ABILITY}/")),
        *(metric for metric in _metrics(grid) if metric.startswith(SCORE)),
    ]
    text = (
        "Before any attack. Zero-shot: the rate of right answers, as the model is. Fine-tuned: the score on an honest "
        f"task after fine-tuning for it. {caption(grid)}"
    )
    return _table(
        ("table-1", "Zero-shot and fine-tuning scores", text),
        [("defense", list(map(defense_title, grid.defenses)))],
        [(_title(metric), [_number(grid, (one, UNATTACKED, metric)) for one in grid.defenses]) for metric in metrics],
    )


def under_attack(grid: Grid) -> Table:
    """Harm and ability of every defense under every attack."""
    cells = [
        (attack, defense)
        for attack in grid.attacks
        for defense in grid.defenses
        if any((defense, attack, metric) in grid.estimates for metric in UNDER_ATTACK)
    ]
    measured = [metric for metric in UNDER_ATTACK if metric in _metrics(grid)]
    text = (
        "Harm: rate of harmful answers to harmful requests; if coherent: among the coherent answers. Ability: rate of "
        f"right answers. {caption(grid)}"
    )
    return _table(
        ("attacks", "Harm and ability by attack and defense", text),
        [
            ("attack", [attack_title(attack) for attack, _ in cells]),
            ("defense", [defense_title(defense) for _, defense in cells]),
        ],
        [
            (_MEASURE[metric].title, [_number(grid, (defense, attack, metric)) for attack, defense in cells])
            for metric in measured
        ],
    )


def changes_of_ability(grid: Grid) -> Table:
    """SDD's tables: ability after no, benign and malicious fine-tuning, with its relative change."""
    tasks = [task for task in PAPER_TASKS if task in _metrics(grid)] or [ABILITY]
    cells = [
        (defense, attack)
        for defense in grid.defenses
        for attack in grid.attacks
        if any((defense, attack, task) in grid.estimates for task in tasks)
    ]
    if len({attack for _, attack in cells}) < 2:  # nothing that could have changed
        cells = []
    columns = []
    for task in tasks:
        columns.append((_title(task), [_number(grid, (defense, attack, task)) for defense, attack in cells]))
        columns.append(("change", [_change(grid, (defense, attack, task)) for defense, attack in cells]))
    text = f"Change: of the value before any attack, in percent of it. {caption(grid)}"
    return _table(
        ("ability", "Ability after no, benign and malicious fine-tuning", text),
        [
            ("defense", [defense_title(defense) for defense, _ in cells]),
            ("fine-tuning", [_fine_tuning(attack) for _, attack in cells]),
        ],
        columns,
    )


def missing(evidence: Evidence) -> Table:
    """The models of the grid that were not measured, by name."""
    rows = tuple((cell.name, "; ".join(cell.missing)) for cell in evidence.missing)
    text = f"{len(rows)} of {len(evidence.cells)} models of this study are not measured: no table has them."
    return Table("missing", "Not measured", text, (Column("defense / attack / seed"), Column("what is not done")), rows)


def _table(
    heading: tuple[str, str, str],
    words: Iterable[tuple[str, list[str]]],
    numbers: Iterable[tuple[str, list[Number | None]]],
) -> Table:
    """A table from its columns; no column is kept in which nothing was measured."""
    known = [(title, cells) for title, cells in numbers if any(cell is not None for cell in cells)]
    named = list(words)
    columns = (*(Column(title) for title, _ in named), *(number_column(title, cells) for title, cells in known))
    filled: Sequence[Sequence[Cell]] = [*(cells for _, cells in named), *(cells for _, cells in known)]
    return Table(*heading, columns, tuple(zip(*filled, strict=True)) if known else ())


def _metrics(grid: Grid) -> list[str]:
    return list(dict.fromkeys(metric for _, _, metric in grid.estimates))


def _number(grid: Grid, key: Key) -> Number | None:
    return Number.of(_MEASURE.get(key[2], MEASURES[0]), grid.of(*key))


def _title(metric: str) -> str:
    if metric.startswith(SCORE):
        return f"fine-tuned: {metric.removeprefix(SCORE)}"
    return TITLES.get(metric, metric.removeprefix(f"{ABILITY}/"))


def _fine_tuning(attack: str) -> str:
    kind = {UNATTACKED: "none", BENIGN: "benign"}.get(attack)
    return kind or f"malicious: {attack_title(attack)}"


def _against(grid: Grid, defense: str, attacks: Mapping[str, str | None]) -> str:
    """How a defense's harm under attack compares with the undefended model's."""
    found, other = (grid.of(name, attacks.get(name) or "", "harm") for name in (defense, UNDEFENDED))
    if defense == UNDEFENDED:
        return ""
    return "not measured" if found is None or other is None else compare(found, other)


def _change(grid: Grid, key: Key) -> Number | None:
    """The value's change by an attack, relative to the value before it; none before any attack, and from nothing."""
    defense, attack, metric = key
    before, after = grid.of(defense, UNATTACKED, metric), grid.of(*key)
    if attack == UNATTACKED or before is None or after is None or before.value == 0:
        return None
    change = after.value / before.value - 1
    return Number(f"{100 * change:+.1f}\N{NARROW NO-BREAK SPACE}%".replace("-", _MINUS), change)
