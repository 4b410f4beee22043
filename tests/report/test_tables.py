"""The CSV file, the grid of estimates, and the terminal's table."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from rupert.errors import DataError
from rupert.records import ResultRow
from rupert.report.tables import (
    COLUMNS,
    MEASURES,
    Estimate,
    attack_title,
    caption,
    collect,
    learning_rate,
    read_csv,
    summary_table,
    write_csv,
)

HARM, LOGP = MEASURES[0], MEASURES[-2]


def row(attack: str = "none", value: float = 0.5, **changes: object) -> ResultRow:
    made = ResultRow(
        study="demo",
        model="potionworld",
        defense="sdd",
        attack=attack,
        seed=0,
        metric="harm",
        value=value,
        low=max(0.0, value - 0.1),
        high=min(1.0, value + 0.1),
        n=66,
    )
    return dataclasses.replace(made, **changes)


def test_csv_reads_back_exactly(tmp_path: Path) -> None:
    rows = [
        row(value=0.1 + 0.2),
        row("fine_tune-2e-05", value=1 / 3, low=None, high=None, n=None),
        row("benign", value=-12.345678901234567, metric="logp_paired", model='odd, "name"\nof a model'),
    ]
    write_csv(rows, tmp_path / "results.csv")
    assert read_csv(tmp_path / "results.csv") == rows


def test_csv_has_the_columns_of_the_format(tmp_path: Path) -> None:
    write_csv([row(low=None)], tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines == [
        "study,model,defense,attack,seed,metric,value,low,high,n",
        "demo,potionworld,sdd,none,0,harm,0.5,,0.6,66",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "results.csv"]


def test_csv_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("study,model,defense,attack,seed,metric,value,low\n")
    with pytest.raises(DataError, match="no column high, n; the columns are study, model"):
        read_csv(path)


@pytest.mark.parametrize("cell", ["demo,m,sdd,none,0,harm,much,,,", "demo,m,sdd,none,0,harm", "d,m,s,none,x,harm,1,,,"])
def test_csv_with_something_else_than_a_number_names_the_line(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + f"\n{cell}\n")
    with pytest.raises(DataError, match=r"results\.csv, line 2: .*; write the file again"):
        read_csv(path)


def test_csv_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_csv(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("attack", "rate"),
    [
        ("fine_tune-2e-05", 2e-5),
        ("fine_tune-0.0001", 1e-4),
        ("fine_tune_lora-1e-3", 1e-3),
        ("none", None),
        ("benign", None),
        ("benign-0.0001", None),
        ("layer-ablation", None),
    ],
)
def test_learning_rate_of_a_label(attack: str, rate: float | None) -> None:
    assert learning_rate(attack) == rate


@pytest.mark.parametrize(
    ("attack", "title"),
    [
        ("none", "no attack"),
        ("benign", "benign"),
        ("fine_tune-2e-05", "lr 2e-5"),
        ("fine_tune-0.00025", "lr 2.5e-4"),
        ("lora-0.001", "lora, lr 1e-3"),
        ("ablation", "ablation"),
    ],
)
def test_title_of_an_attack(attack: str, title: str) -> None:
    assert attack_title(attack) == title


def test_attacks_and_defenses_are_in_the_readers_order() -> None:
    attacks = ["fine_tune-0.001", "ablation", "fine_tune-2e-05", "benign", "fine_tune-0.0001", "none"]
    grid = collect([row(attack, defense=defense) for defense in ("sdd", "aaa", "none") for attack in attacks])
    assert grid.attacks == ("none", "benign", "fine_tune-2e-05", "fine_tune-0.0001", "fine_tune-0.001", "ablation")
    assert grid.defenses == ("none", "sdd", "aaa")


def test_one_seed_keeps_its_own_interval() -> None:
    grid = collect([row(value=0.5, low=0.4, high=0.6)])
    assert grid.of("sdd", "none", "harm") == Estimate(0.5, 0.4, 0.6, 66, seeds=1)
    assert caption(grid) == "Ranges are 95 % intervals of one seed's answers."


def test_several_seeds_give_their_mean_and_the_span_of_their_intervals() -> None:
    grid = collect(
        [
            row(seed=0, value=0.1, low=0.05, high=0.2, n=66),
            row(seed=1, value=0.3, low=0.2, high=0.4, n=60),
            row(seed=2, value=0.8, low=None, high=None, n=None),
        ]
    )
    found = grid.of("sdd", "none", "harm")
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high, found.n, found.seeds) == (0.05, 0.8, 60, 3)
    assert "3 seeds" in caption(grid)
    assert "no confidence intervals for further seeds" in caption(grid)


def test_change_is_taken_seed_by_seed_with_the_interval_of_a_difference() -> None:
    grid = collect(
        [
            row("none", metric="logp_paired", value=-1.0, low=-1.3, high=-0.6),
            row("fine_tune-2e-05", metric="logp_paired", value=-3.0, low=-3.4, high=-2.7),
            row("fine_tune-2e-05", metric="logp_paired", value=-9.0, seed=1),
        ]
    )
    change = grid.changes["sdd", "fine_tune-2e-05", "logp_paired"]
    assert change.value == -2.0
    assert change.low == pytest.approx(-2.0 - math.hypot(0.4, 0.4))
    assert change.high == pytest.approx(-2.0 + math.hypot(0.3, 0.3))
    assert change.seeds == 1


@pytest.mark.parametrize("without", ["none", "fine_tune-2e-05"])
def test_a_change_has_no_interval_where_one_of_its_parts_has_none(without: str) -> None:
    rows = [row("none", metric="logp_paired", value=-1.0), row("fine_tune-2e-05", metric="logp_paired", value=-3.0)]
    grid = collect([dataclasses.replace(one, low=None, high=None) if one.attack == without else one for one in rows])
    change = grid.changes["sdd", "fine_tune-2e-05", "logp_paired"]
    assert (change.value, change.low, change.high) == (-2.0, None, None)


def test_a_value_that_is_not_finite_was_not_measured() -> None:
    grid = collect([row(value=math.nan), row("benign", value=0.5)])
    assert grid.of("sdd", "none", "harm") is None
    assert grid.of("sdd", "benign", "harm") is not None


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="no rows; run the study first"):
        collect([])
    with pytest.raises(DataError, match="rows of more than one model: 'potionworld', 'smollm2'; pass one"):
        collect([row(), row("benign", model="smollm2")])
    with pytest.raises(DataError, match="'harm' of 'sdd' under 'none' comes twice for seed 0"):
        collect([row(), row()])


def test_numbers_are_never_rounded_to_a_certainty() -> None:
    assert HARM.text(0.0) == "0\N{NARROW NO-BREAK SPACE}%"
    assert HARM.text(0.002) == "0.2\N{NARROW NO-BREAK SPACE}%"
    assert HARM.text(0.998) == "99.8\N{NARROW NO-BREAK SPACE}%"
    assert HARM.text(0.454) == "45\N{NARROW NO-BREAK SPACE}%"
    assert HARM.interval(0.296, 0.291 + 0.1) == "29\N{EN DASH}40"
    assert HARM.interval(0.29, 0.29) == "29\N{EN DASH}29"
    assert LOGP.text(-1.234) == "\N{MINUS SIGN}1.23"
    assert LOGP.interval(None, None) == ""


def printed(rows: list[ResultRow], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(rows))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_terminals_table_of_any_number_of_defenses_fits_into_80_columns() -> None:
    attacks, defenses = ["none", "benign", "fine_tune-2e-05", "fine_tune-0.001"], ["none", "sdd", "seam"]
    rows = [
        row(attack, value=1.0 if measure.rate else -12.3456, defense=defense, metric=measure.metric)
        for defense in defenses
        for attack in attacks
        for measure in MEASURES
    ]
    lines = printed(rows, width=80)
    filled = [line.split() for line in lines if "100" in line and "%" in line]
    assert [words[0] for words in filled[::3]] == ["no", "benign", "lr", "lr"]
    assert [words[0] for words in filled[1::3]] == ["sdd"] * 4
    assert [words[0] for words in filled[2::3]] == ["seam"] * 4
    assert sum(line.count("90\N{EN DASH}100") for line in lines) == len(attacks) * len(defenses) * 3
    assert not any("…" in line for line in lines)


def test_a_long_name_of_an_attack_costs_no_other_column_its_words() -> None:
    rows = [row("benign-fine-tuning-0.0001", value=1.0, metric=measure.metric) for measure in MEASURES]
    rows += [row("benign-fine-tuning-0.0001", value=1.0, defense="none", metric=measure.metric) for measure in MEASURES]
    lines = printed(rows, width=80)
    assert not any("…" in line for line in lines)
    assert any("undefended" in line for line in lines)
    assert "benign-fine-tuning" in "".join(
        line.split()[0] for line in lines if line.startswith(("benign", "-", "f", "t"))
    )


def test_terminal_table_leaves_a_gap_where_nothing_was_measured() -> None:
    lines = printed([row("none", value=0.25), row("benign", defense="none", value=0.5)], width=80)
    place = next(number for number, line in enumerate(lines) if line.startswith("no attack"))
    assert lines[place].split()[-1] == "\N{EN DASH}"
    assert lines[place + 1].split()[:3] == ["sdd", "25", "%"]
    assert not any("refusal" in line for line in lines)
