"""The one way to load data: a named source, any Hub dataset, or a local file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from rupert.data import files, filtering, hub, parsing, potionworld
from rupert.data.catalogue import SOURCES
from rupert.data.examples import Example, fingerprint, require
from rupert.data.files import Row
from rupert.data.parsing import Parser
from rupert.data.source import Source, Split
from rupert.errors import DataError, InvalidValue, UnknownName
from rupert.records import content_hash, file_hash

__all__ = ["SOURCES", "Source", "Split", "check", "check_all", "identities", "listing", "load", "load_enough"]

_EMBEDDED = Path(__file__).parent / "embedded"
_SPEC = re.compile(r"(?P<name>[\w./-]+)(@(?P<revision>[\w./-]+))?(:(?P<split>[\w.-]+))?")
_FORMS = "write NAME, NAME:SPLIT, OWNER/NAME@REVISION:SPLIT, or the path of a .json, .jsonl, .csv or .parquet file"
_MAPPING = "write FILE?instruction=COLUMN&answer=COLUMN, or for requests FILE?instruction=COLUMN"


@dataclass(frozen=True, slots=True)
class _NamedSplit:
    source: Source
    split: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class _HubDataset:
    hub_id: str
    split: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class _LocalFile:
    path: Path


def load(
    spec: str, columns: Mapping[str, str] | None = None, field: str = "data", *, answered: bool = True
) -> list[Example]:
    """All examples that `spec` names, in their order.

    A row of a named source that lacks a prompt or an answer is passed over: corpora have some. In a file or another Hub
    dataset it is an error, because it is more likely a mistake. Without `answered` a prompt is all that a row needs.

    Args:
        spec: `NAME`, `NAME:SPLIT` or `NAME@REVISION:SPLIT` of `SOURCES` (the bare name means its first split), the path
            of a .json, .jsonl, .csv or .parquet file, or `OWNER/NAME@REVISION:SPLIT` of the Hub (split "train" and the
            newest revision unless named). `?instruction=COLUMN&answer=COLUMN` after it is the same as `columns`.
        columns: which column holds `instruction` and `answer`, and possibly `input` and `category`; without it the
            usual names are recognized: TRL's prompt/completion, messages, instruction/input/output, prompt/response,
            question/answer; for requests also prompt, instruction, question or request alone.
        field: what the user calls this setting, for the messages.
        answered: whether each row needs an answer; requests, which a model is only asked, need none.

    Raises:
        UnknownName: no such source, split or column.
        InvalidValue: a spec that cannot be read, or columns where they do not apply.
        DataError: missing, empty, malformed or out of reach; requests where answers are needed.
        DiskFullError: no space left for a download.
    """
    check(spec, field, columns, answered=answered)
    spec, columns = _split_columns(spec, columns, field)
    request = _resolve(spec, field)
    if isinstance(request, _NamedSplit):
        examples = _named_examples(request, answered=answered)
    elif isinstance(request, _LocalFile):
        examples = _mapped_examples(files.read_rows(request.path), columns, request.path.name, answered=answered)
    else:
        rows = hub.read_split(request.hub_id, request.split, request.revision)
        examples = _mapped_examples(rows, columns, request.hub_id, answered=answered)
    require(examples, 1, spec, answered=answered)
    return examples


def check(spec: str, field: str = "data", columns: Mapping[str, str] | None = None, *, answered: bool = True) -> None:
    """Make sure that `load` would know what to read, without reading it and without the network.

    Raises:
        UnknownName, InvalidValue, DataError: as `load`, as far as names and paths tell.
    """
    spec, columns = _split_columns(spec, columns, field)
    request = _resolve(spec, field)
    if answered and isinstance(request, _NamedSplit) and not request.source.answered:
        raise DataError(
            f"{field}: {request.source.name} has requests only, without answers; name a source with answers"
        )
    if columns is None:
        return
    if isinstance(request, _NamedSplit):
        raise InvalidValue(
            f"{field} columns", dict(columns), f"{request.source.name} has a schema of its own; omit them"
        )
    for name in columns:
        if name not in parsing.FIELDS:
            raise UnknownName(f"{field} columns", name, parsing.FIELDS)
    if "instruction" not in columns or (answered and "answer" not in columns):
        needed = "one for instruction and one for answer" if answered else "one for instruction"
        raise InvalidValue(f"{field} columns", dict(columns), f"name {needed}")


def check_all(specs: Mapping[str, str]) -> None:
    """`check` each of several datasets, by the setting that names it."""
    for field, spec in specs.items():
        check(spec, field)


def load_enough(
    specs: Mapping[str, str], needed: Mapping[str, int], at_most: Mapping[str, int] | None = None
) -> dict[str, list[Example]]:
    """Several datasets, by the setting that names each.

    Args:
        specs: the setting -> what `load` takes.
        needed: the setting -> rows that it has to have.
        at_most: the setting -> rows from its beginning that are used; all of one that is not named.

    Raises:
        DataError: one cannot be loaded, or has fewer rows than are needed of it.
    """
    loaded = {field: load(spec, field=field) for field, spec in specs.items()}
    found = {field: examples[: (at_most or {}).get(field)] for field, examples in loaded.items()}
    for field, examples in found.items():
        require(examples, needed[field], f"{field}: {specs[field]}")
    return found


def identities(specs: Mapping[str, str]) -> dict[str, str]:
    """What each dataset is known by, without reading a corpus: two that are equal hold the same rows.

    A file and what comes with rupert are known by their content, a dataset of the Hub by its pinned revision. One of
    the Hub without a revision may change, so that it has to be read.

    Args:
        specs: what a dataset is for -> what `load` takes.

    Raises:
        UsageError: as `check`; as `load` for a dataset of the Hub without a revision.
    """
    return {use: _identity(spec, use) for use, spec in specs.items()}


def _identity(spec: str, field: str) -> str:
    name, columns = _split_columns(spec, None, field)
    request = _resolve(name, field)
    if isinstance(request, _LocalFile):
        return content_hash([file_hash([request.path]), columns])
    if isinstance(request, _NamedSplit) and request.source.offline:
        return _embedded_identity(name)
    if isinstance(request, _NamedSplit):
        return content_hash([request.source.hub_id, request.revision, request.split])
    if request.revision is None:
        return fingerprint(load(spec, field=field, answered=False))
    return content_hash([request.hub_id, request.revision, request.split, columns])


@cache
def _embedded_identity(spec: str) -> str:
    return fingerprint(load(spec, answered=False))


def listing() -> list[dict[str, Any]]:
    """One row a source, in plain values, for a table or JSON."""
    return [
        {
            "name": source.name,
            "about": source.about,
            "splits": list(source.splits),
            "size": _size(source),
            "licence": source.licence,
            "gated": source.gated,
            "offline": source.offline,
            "answered": source.answered,
            "hub_id": source.hub_id or None,
            "revision": source.revision,
        }
        for source in SOURCES.values()
    ]


def _size(source: Source) -> int | None:
    if not source.offline:
        return source.size
    return sum(len(load(f"{source.name}:{split}")) for split in source.splits)


def _split_columns(spec: str, columns: Mapping[str, str] | None, field: str) -> tuple[str, Mapping[str, str] | None]:
    """The spec without the columns that stand after its question mark, and the columns."""
    name, mark, mapping = spec.partition("?")
    if not mark:
        return spec, columns
    pairs = [pair.partition("=") for pair in mapping.split("&")]
    if columns is not None or not all(key and value for key, _, value in pairs):
        raise InvalidValue(field, spec, _MAPPING)
    return name, {key: value for key, _, value in pairs}


def _resolve(spec: str, field: str) -> _NamedSplit | _HubDataset | _LocalFile:
    path = Path(spec)
    if files.is_data_file(path):
        if not path.is_file():
            raise DataError(f"{field}: there is no file {spec!r}; check the path")
        return _LocalFile(path)
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise InvalidValue(field, spec, _FORMS)
    if parts["name"] in SOURCES:
        return _resolve_named(parts, spec, field)
    if path.exists():
        raise InvalidValue(field, spec, "name a .json, .jsonl, .csv or .parquet file")
    if parts["name"].count("/") == 1:
        return _HubDataset(parts["name"], parts["split"] or "train", parts["revision"])
    raise UnknownName(field, parts["name"], SOURCES)


def _resolve_named(parts: re.Match[str], spec: str, field: str) -> _NamedSplit:
    source = SOURCES[parts["name"]]
    split = parts["split"] or next(iter(source.splits))
    if split not in source.splits:
        raise UnknownName(f"{field}, split of {source.name}", split, source.splits)
    revision = parts["revision"] or source.revision
    if source.offline and revision:
        raise InvalidValue(
            field, spec, f"{source.name} comes with rupert and has no revision; write {source.name}:{split}"
        )
    if not source.offline and revision is None:
        raise InvalidValue(field, spec, f"no revision of it is pinned; name one: {source.name}@COMMIT:{split}")
    return _NamedSplit(source, split, revision)


def _named_examples(request: _NamedSplit, *, answered: bool) -> list[Example]:
    found = _parsed(request)
    examples = [e for e in found if e.instruction.strip() and (e.answer.strip() or not answered)]
    held_out = request.source.splits[request.split].held_out
    if not held_out:
        return examples
    return filtering.without(examples, chain.from_iterable(load(spec, answered=False) for spec in held_out))


def _parsed(request: _NamedSplit) -> Iterator[Example]:
    source, split = request.source, request.source.splits[request.split]
    if not split.files:
        yield from potionworld.examples(request.split)
    for file, parse in split.files.items():
        if source.hub_id:
            rows = hub.read_file(source.hub_id, file, request.revision, split.columns)
        else:
            rows = files.read_rows(_EMBEDDED / file)
        yield from parsing.parse_rows(rows, parse, source.name)


def _mapped_examples(
    rows: Iterable[Row], columns: Mapping[str, str] | None, name: str, *, answered: bool
) -> list[Example]:
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return []
    parser = _parser(first, columns, name, answered=answered)
    return list(parsing.parse_rows(chain([first], remaining), parser, name))


def _parser(row: Row, columns: Mapping[str, str] | None, name: str, *, answered: bool) -> Parser:
    if columns is not None:
        for column in columns.values():
            if column not in row:
                raise UnknownName(f"{name}, column", column, row)
        return parsing.columns_parser(columns, answered=answered)
    parser = parsing.usual_parser(row) if answered else parsing.usual_request_parser(row)
    if parser is None:
        found = "requests only, in " if parsing.usual_request_parser(row) else ""
        found += "columns " + ", ".join(map(repr, row))
        mapping = "?instruction=COLUMN&answer=COLUMN" if answered else "?instruction=COLUMN"
        raise DataError(f"{name}: has {found}; say which: {name}{mapping}")
    return parser
