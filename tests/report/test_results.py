"""The numbers of a study as files and as a table: the same in each, typed, and whole."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pyarrow.parquet
import pytest

import rupert
from rupert.errors import FolderError
from rupert.records import ResultRow
from rupert.report.results import CSV_FILE, PARQUET_FILE, read_results, write_results
from rupert.report.tables import COLUMNS, read_csv


def row(attack: str = "none", value: float = 0.5, **changes: object) -> ResultRow:
    made = ResultRow(
        study="demo",
        model="potionworld",
        defense="none",
        attack=attack,
        seed=0,
        metric="harm",
        value=value,
        low=0.1,
        high=0.9,
        n=66,
    )
    return dataclasses.replace(made, **changes)


ROWS = [
    row(value=0.1 + 0.2),
    row("fine_tune-2e-05", value=1 / 3, low=None, high=None, n=None, seed=7),
    row("benign", value=-12.345678901234567, metric="logp_paired", model='odd, "name"\nof a model'),
]


def test_both_files_have_every_row(tmp_path: Path) -> None:
    write_results(ROWS, tmp_path)
    assert read_csv(tmp_path / CSV_FILE) == ROWS
    assert pyarrow.parquet.read_table(tmp_path / PARQUET_FILE).to_pylist() == [dataclasses.asdict(one) for one in ROWS]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CSV_FILE, PARQUET_FILE]


def test_columns_are_typed(tmp_path: Path) -> None:
    write_results(ROWS, tmp_path)
    frame = rupert.results(str(tmp_path))
    assert tuple(frame.columns) == COLUMNS
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert {types.pop(name) for name in ("value", "low", "high")} == {"float64"}
    assert (types.pop("seed"), types.pop("n")) == ("int64", "Int64")
    assert set(types.values()) <= {"str", "object", "string"}
    assert list(frame["defense"]) == ["none"] * 3
    assert list(frame["value"]) == [one.value for one in ROWS]
    assert math.isnan(frame["low"][1])
    assert list(frame["n"].dropna()) == [66, 66]


def test_types_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    write_results([row(low=None, high=None, n=None)], tmp_path)
    unmeasured = read_results(tmp_path).dtypes
    write_results([], tmp_path)
    none = read_results(tmp_path)
    write_results(ROWS, tmp_path)
    assert len(none) == 0
    assert list(none.dtypes) == list(unmeasured) == list(read_results(tmp_path).dtypes)


def test_a_crash_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(ROWS[:1], tmp_path)

    def crash(table: object, file: object) -> None:
        file.write(b"PAR1 half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", crash)
    with pytest.raises(OSError, match="No space left"):
        write_results(ROWS, tmp_path)
    assert len(read_results(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [CSV_FILE, PARQUET_FILE]


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"holds no results\.parquet; name the folder of `rupert run`"):
        rupert.results(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 400])
def test_a_damaged_file_is_told(tmp_path: Path, keep: int) -> None:
    write_results(ROWS, tmp_path)
    path = tmp_path / PARQUET_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FolderError, match=r"damaged .* repeat the `rupert run` command that wrote it"):
        read_results(tmp_path)
