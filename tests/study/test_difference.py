"""What differs between two studies or two stages, wherever they are named from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.cli.main import main
from rupert.errors import UsageError
from rupert.records import RESULT_FILE, Metric, Record, ResultRow, write_json
from rupert.report.results import write_results
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study, describe
from rupert.study.evidence.difference import (
    MISSING,
    Difference,
    NumberDifference,
    differences,
    stage_side,
    study_side,
)
from rupert.study.store import Store

RECORD = Record(
    stage="attack",
    method="fine_tune",
    settings={"learning_rate": 1e-4, "seed": 0},
    model="/one/defend/sdd",
    model_hash="a" * 64,
    data={"potionworld:attacker": "b" * 64},
    metrics=(Metric("harm", 0.25), Metric("ability", 1.0)),
    environment={"torch": "2.13.0"},
    seconds=3.0,
)


def study(*overrides: str) -> Study:
    return read_study(find_recipe("demo"), overrides)


def rows(harm: float, *, more: bool = False) -> list[ResultRow]:
    first = ResultRow(
        study="demo",
        model="potionworld",
        defense="sdd",
        attack="none",
        seed=0,
        metric="harm",
        value=harm,
        low=None,
        high=None,
        n=None,
    )
    second = replace(first, metric="ability", value=1.0)
    return [first, second, replace(first, seed=1)] if more else [first, second]


def store(folder: Path, kept: Study, measured: list[ResultRow]) -> str:
    Store(folder).open(describe(kept))
    write_results(measured, folder)
    return str(folder)


def stage(folder: Path, record: Record) -> str:
    folder.mkdir()
    write_json(record, folder / RESULT_FILE)
    return str(folder)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["diff", *words]) == 0
    return capsys.readouterr().out.splitlines()


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(printed(capsys, *words, "--json")))
    return found


def test_settings_that_differ_are_named_in_full() -> None:
    found = differences(study_side(study("defenses.sdd.max_steps=3", "seeds=[0,1]"), []), study_side(study(), []))
    assert found.facts == (
        Difference("seeds", [0, 1], [0]),
        Difference("defenses.sdd.max_steps", 3, study().defenses["sdd"].max_steps),
    )


def test_what_one_side_lacks_is_told_once_with_all_of_it() -> None:
    (missing,) = differences(study_side(study("defenses.seam=drop"), []), study_side(study(), [])).facts
    assert (missing.name, missing.a, missing.b["method"]) == ("defenses.seam", MISSING, "seam")
    (more,) = differences(study_side(study(), []), study_side(study("scores={potionworld: {}}"), [])).facts
    assert (more.name, more.a) == ("scores.potionworld", MISSING)


def test_numbers_are_held_against_each_other_by_cell_and_metric() -> None:
    found = differences(study_side(study(), rows(0.25)), study_side(study(), rows(0.75, more=True)))
    cell = "sdd / none / seed "
    assert found.numbers == (
        NumberDifference(f"{cell}0", "harm", 0.25, 0.75),
        NumberDifference(f"{cell}1", "harm", None, 0.75),
    )
    assert [one.change for one in found.numbers] == [0.5, None]
    assert found.equal == 1


def test_a_study_that_was_not_run_lacks_no_numbers() -> None:
    found = differences(study_side(study(), rows(0.25)), study_side(study(), []))
    assert (found.facts, found.numbers, found.equal) == ((), (), 0)


def test_what_is_no_number_on_both_sides_is_equal() -> None:
    both = [study_side(study(), rows(math.nan)) for _ in range(2)]
    assert differences(*both).numbers == ()


def test_stages_differ_in_what_went_in_and_not_in_where_they_lie() -> None:
    moved = replace(RECORD, model="/other/defend/sdd", seconds=99.0)
    assert differences(stage_side(RECORD), stage_side(moved)).facts == ()
    other = replace(
        RECORD,
        settings={"learning_rate": 3e-4},
        model_hash="c" * 64,
        data={"potionworld:attacker": "d" * 64},
        environment={"torch": "2.14.0"},
        metrics=(Metric("harm", 0.5), Metric("ability", 1.0)),
    )
    found = differences(stage_side(RECORD), stage_side(other))
    assert [(one.name, one.a, one.b) for one in found.facts] == [
        ("settings.learning_rate", 1e-4, 3e-4),
        ("settings.seed", 0, MISSING),
        ("model_hash", "a" * 64, "c" * 64),
        ("data.potionworld:attacker", "b" * 64, "d" * 64),
        ("environment.torch", "2.13.0", "2.14.0"),
    ]
    assert found.numbers == (NumberDifference("", "harm", 0.25, 0.5),)


def test_a_study_is_no_stage() -> None:
    with pytest.raises(UsageError, match="a study cannot be compared with a stage; name two studies or two stages"):
        differences(study_side(study(), []), stage_side(RECORD))


def test_a_folder_and_the_recipe_that_it_was_run_from_do_not_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(tmp_path / "s", study(), rows(0.25))
    assert printed(capsys, folder, "demo") == ["no difference"]
    assert printed(capsys, folder, folder) == ["equal numbers: 2", "no difference"]


def test_two_folders_are_two_tables_of_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = store(tmp_path / "first", study("defenses.seam=drop"), rows(0.25))
    second = store(tmp_path / "second", study("evaluation.limit=7"), rows(0.5))
    lines = printed(capsys, first, second)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "defenses.seam" in text
    assert "(missing)" in text
    assert [line.split() for line in lines if line.startswith("evaluation.limit")] == [
        ["evaluation.limit", "null", "7"]
    ]
    assert [line.split()[-4:] for line in lines if "harm" in line] == [["harm", "0.25", "0.5", "0.25"]]
    assert lines[-1] == "equal numbers: 1"


def test_json_leaves_out_what_a_side_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = stage(tmp_path / "a", RECORD), stage(tmp_path / "b", replace(RECORD, settings={"seed": 1}))
    assert as_json(capsys, first, second) == {
        "facts": [{"name": "settings.learning_rate", "a": 1e-4}, {"name": "settings.seed", "a": 0, "b": 1}],
        "numbers": [],
        "equal_numbers": 2,
    }


def test_a_long_hash_is_shortened_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = stage(tmp_path / "a", RECORD), stage(tmp_path / "b", replace(RECORD, model_hash="c" * 64))
    assert any(
        line.split() == ["model_hash", "a" * 12 + "…", "c" * 12 + "…"] for line in printed(capsys, first, second)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'nothing' is unknown"),
        ("gone.yaml", "'gone.yaml' does not exist; name a YAML file"),
        (".", "'.' holds no study.json and no result.json; name a study or a stage that is done"),
    ],
)
def test_what_is_neither_is_told(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["diff", "demo", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
