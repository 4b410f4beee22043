"""Which stages of a study stand in its store: found from the store alone, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rupert.study.definition.graph import Node, graph
from rupert.study.definition.study import Study
from rupert.study.running.task import Task, task_for
from rupert.study.store import Store


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One stage of a study, and where it stands.

    Attributes:
        node: what it is.
        task: how it is done; none while its parents are not, because it has no identity yet.
        place: where it stands, done and whole; none otherwise.
    """

    node: Node
    task: Task | None
    place: Path | None


def survey(study: Study, store: Store) -> Iterator[Surveyed]:
    """Every stage of a study, each after those that it works on."""
    done: dict[Node, Path] = {}
    tasks: dict[Node, Task] = {}
    for node in graph(study).nodes:
        if any(parent not in done for parent in node.parents):
            yield Surveyed(node, task=None, place=None)
            continue
        tasks[node] = task_for(node, study, store, done, tasks)
        place = tasks[node].place()
        if place:
            done[node] = place
        yield Surveyed(node, tasks[node], place)
