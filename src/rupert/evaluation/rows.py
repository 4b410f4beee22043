"""JSON lines between the steps of an evaluation: written whole, read strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rupert.errors import DataError, FolderError
from rupert.records import write_text

Kinds = Mapping[str, Any]  # field -> the type, or union of types, that its value must have


def line(row: Mapping[str, Any]) -> str:
    """One row as a line of ASCII: a model can say anything, and a lone surrogate or line separator must survive."""
    return json.dumps(row) + "\n"


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a file that is there whole or not at all."""
    write_text("".join(map(line, rows)), path)


def read_rows(path: Path, fields: Kinds) -> list[dict[str, Any]]:
    """The named fields of every line.

    Raises:
        FolderError: there is no such file.
        DataError: it is empty or damaged.
    """
    rows = []
    for number, row in enumerate(sound_rows(path, fields), start=1):
        if isinstance(row, str):
            raise DataError(f"{path}: line {number} is damaged ({row}); remove the file and run its step again")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows; remove it and run its step again")
    return rows


def sound_rows(path: Path, fields: Kinds, optional: Kinds = MappingProxyType({})) -> Iterator[dict[str, Any] | str]:
    """The named fields of each line, and of the optional ones those that it has; for a damaged line, what is wrong.

    Raises:
        FolderError: there is no such file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FolderError(f"{path}: there is no such file; run the step that writes it first") from None
    for text in content.splitlines():
        yield _sound_row(text, fields, optional)


def _sound_row(text: bytes, fields: Kinds, optional: Kinds) -> dict[str, Any] | str:
    try:
        row = json.loads(text.decode("ascii"))
    except UnicodeDecodeError:
        return "not ASCII"
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return "not a JSON object"
    kinds = {**fields, **{name: kind for name, kind in optional.items() if name in row}}
    for name, kind in kinds.items():
        if name not in row or not isinstance(row[name], kind):
            return f"field {name!r}"
    return {name: row[name] for name in kinds}
