"""Where the stages of a study stand that are done, also where what tells them apart exactly is on another machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES
from rupert.errors import FolderError, UsageError
from rupert.evaluation.fine_tuning_score import TASKS
from rupert.folders import REQUEST_FILE
from rupert.plugins import name_of
from rupert.records import RESULT_FILE, Record, read_record
from rupert.settings import as_mapping, fields_of
from rupert.study.definition.graph import Node
from rupert.study.definition.study import Study
from rupert.study.running.task import Task, task_for
from rupert.study.stage import UNDEFENDED
from rupert.study.store import KINDS, Store

# What an evaluation records by content, because names and folders change.
BY_CONTENT = ("paired", "reference", "judges")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage stands.

    Attributes:
        folder: its own.
        record: of it.
        request: what defined it, with its identity.
        is_current: `rupert run` would take it as it is; otherwise it was found by its record.
    """

    folder: Path
    record: Record
    request: Mapping[str, Any]
    is_current: bool = False


def places(study: Study, store: Store, nodes: Sequence[Node], *, is_here: bool = True) -> dict[Node, Place]:
    """The stages that are done.

    A stage is found by its identity. Where there is none so, because rupert has changed since, or because it cannot be
    told here, without the model or the data, it is found by its record: method, settings, the content of the model that
    went in, and that of the data if it can be told. Of several such, the one with the study's label counts, and then
    the newest.

    Args:
        study: that was run.
        store: of the study.
        nodes: of its graph.
        is_here: whether the study's model is on this machine.
    """
    recorded = {kind: list(_recorded(store.folder / kind)) for kind in KINDS}
    found: dict[Node, Place] = {}
    tasks: dict[Node, Task] = {}
    for node in nodes:
        if any(parent not in found for parent in node.parents):
            continue
        tasks[node] = task_for(node, study, store, {one: place.folder for one, place in found.items()}, tasks)
        exact, data = _exact(tasks[node]) if is_here else (None, None)
        place = exact or _by_record(node, recorded[node.kind], found, data)
        if place:
            found[node] = place
    return found


def _exact(task: Task) -> tuple[Place | None, Mapping[str, str] | None]:
    """Where a stage stands by its identity, and its data by content; none of what cannot be told."""
    try:
        folder, data = task.place(), task.work.request().data
        exact = Place(folder, read_record(folder), _request(folder), is_current=True) if folder else None
    except UsageError:
        return None, None
    return exact, data


def _by_record(
    node: Node, recorded: Sequence[Place], found: Mapping[Node, Place], data: Mapping[str, str] | None
) -> Place | None:
    fitting = [place for place in recorded if _fits(node, place, found, data)]
    return max(fitting, key=lambda place: _rank(place, node.label), default=None)


def _recorded(folder: Path) -> Iterator[Place]:
    """The stages of one kind whose record and request can be read; the others are as if they were not done."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(FolderError, OSError, ValueError):
            yield Place(place, read_record(place), _request(place))


def _request(place: Path) -> Mapping[str, Any]:
    found = json.loads((place / REQUEST_FILE).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "identity" not in found:
        raise ValueError(f"{place / REQUEST_FILE}: damaged")
    return found


def _rank(place: Place, label: str) -> tuple[bool, int]:
    return place.folder.name.rpartition("-")[0] == label, (place.folder / RESULT_FILE).stat().st_mtime_ns


def _fits(node: Node, place: Place, found: Mapping[Node, Place], data: Mapping[str, str] | None) -> bool:
    record = place.record
    if node.model and found[node.model].record.output_hash != record.model_hash:
        return False
    if data is not None and place.request.get("data") != data:
        return False
    if node.settings is None:
        return record.method == UNDEFENDED
    named = name_of(type(node.settings), DEFENSES, ATTACKS, TASKS)
    return record.method == (named or record.method) and _agree(node, dict(record.settings))


def _agree(node: Node, recorded: dict[str, Any]) -> bool:
    """Whether recorded settings are those that are asked for.

    Of an evaluation, what is left empty is chosen later. A setting that was not recorded is one that is newer than the
    record, or one that changes nothing as it is: it has to be at its default.
    """
    wanted = as_mapping(node.settings)
    if node.kind == "evaluate":
        wanted = {name: value for name, value in wanted.items() if value not in ("", []) and name not in BY_CONTENT}
    defaults = {field.name: field.default for field in fields_of(type(node.settings))}
    known = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()} | recorded
    return all(known[name] == value for name, value in wanted.items())
