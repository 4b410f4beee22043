"""The numbers of a study, tidy: `results.csv` and `results.parquet`, one row for each cell and metric."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.errors import FolderError
from rupert.records import ResultRow
from rupert.report.tables import COLUMNS, write_csv

if TYPE_CHECKING:
    from pandas import DataFrame

CSV_FILE, PARQUET_FILE = "results.csv", "results.parquet"
INTEGERS, NUMBERS = ("seed", "n"), ("value", "low", "high")  # all others are text


def write_results(rows: Sequence[ResultRow], folder: Path) -> None:
    """Write the rows as `results.csv` and `results.parquet`; a crash leaves each old or new, never a part."""
    write_csv(rows, folder / CSV_FILE)
    _write_parquet(rows, folder / PARQUET_FILE)


def read_results(folder: Path) -> DataFrame:
    """The rows that were written into a folder, one a line, with the columns of `ResultRow`.

    "none" is text, and what was not measured is missing: NaN as a number, NA as a count.

    Raises:
        FolderError: there are none, or they are damaged.
    """
    from pyarrow import ArrowInvalid  # type: ignore[import-untyped]
    from pyarrow.parquet import read_table  # type: ignore[import-untyped]

    path = folder / PARQUET_FILE
    try:
        frame: DataFrame = read_table(path, columns=list(COLUMNS)).to_pandas()
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{str(folder)!r} holds no {PARQUET_FILE}; name the folder of `rupert run`") from None
    except (ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FolderError(f"{path}: damaged ({reason}); repeat the `rupert run` command that wrote it") from None
    return frame.astype({"seed": "int64", "n": "Int64"})


def _write_parquet(rows: Sequence[ResultRow], path: Path) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    table = Table.from_pydict({name: [getattr(row, name) for row in rows] for name in COLUMNS}, schema=_schema())
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _schema() -> Any:
    """Types that do not depend on the rows: a column may hold nothing but None."""
    import pyarrow

    types = dict.fromkeys(INTEGERS, pyarrow.int64()) | dict.fromkeys(NUMBERS, pyarrow.float64())
    return pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in COLUMNS])
