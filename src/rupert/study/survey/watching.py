"""A study that goes on, looked at again and again: only what has changed is read anew, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rupert.records import RESULT_FILE, Record, read_record
from rupert.study.definition.graph import Graph, Node, graph
from rupert.study.definition.study import Study
from rupert.study.running.task import Task, task_for
from rupert.study.store import KINDS, STUDY_FILE, Store
from rupert.study.survey.stages import Surveyed
from rupert.study.survey.status import StageStatus, stage_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A study at one moment.

    Attributes:
        study: what is run.
        graph: its stages and models.
        stages: where each stage is, in the order of the graph.
        records: of the stages that are done.
        others: how many folders of finished stages are none of this study's: of another study, of settings that were
            changed, or of another rupert.
    """

    study: Study
    graph: Graph
    stages: Mapping[Node, StageStatus]
    records: Mapping[Node, Record]
    others: int


@dataclass(frozen=True, slots=True)
class _Done:
    """A stage that stands in its place, and the state of its record's file, by which it is known again."""

    place: Path
    state: tuple[int, ...]
    record: Record


@dataclass(frozen=True, slots=True)
class _Ready:
    """A stage whose parents are done, and which ones they were."""

    task: Task
    parents: tuple[_Done, ...]


class Watch:
    """Looks at the study in a folder.

    A stage that was found whole is taken for whole while its record stays the same file: what is damaged beside it
    shows in `rupert status`, which reads everything.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._described: bytes | None = None
        self._forget()

    def look(self) -> Sight | None:
        """The study as it is now; none while the folder holds none yet.

        Raises:
            FolderError: the study, or a record, is damaged, or of another rupert.
            OSError: something cannot be read, or was moved just now.
        """
        try:
            described = (self._store.folder / STUDY_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return None
        if described != self._described:
            self._begin(self._store.study(), described)
        held = self._held()  # before the stages are asked: what is put in its place meanwhile is no stranger
        stages = {node: stage_status(self._surveyed(node), self._store) for node in self._graph.nodes}
        records = {node: self._done[node].record for node in self._graph.nodes if node in self._done}
        damaged = sum(stage.state == "damaged" for stage in stages.values())
        others = len(held - {done.place for done in self._done.values()}) - damaged
        return Sight(study=self._study, graph=self._graph, stages=stages, records=records, others=max(0, others))

    def _held(self) -> set[Path]:
        """The folders of all stages that stand in their places, this study's or not."""
        kinds = (self._store.folder / kind for kind in KINDS)
        return {path for kind in kinds if kind.is_dir() for path in kind.iterdir() if path.is_dir()}

    def _forget(self) -> None:
        self._described = None
        self._ready: dict[Node, _Ready] = {}
        self._done: dict[Node, _Done] = {}

    def _begin(self, study: Study, described: bytes) -> None:
        """Another study is run in the folder, or the same one anew."""
        self._forget()
        self._study, self._graph, self._described = study, graph(study), described

    def _surveyed(self, node: Node) -> Surveyed:
        """Where a stage stands; those that it works on were asked before."""
        if any(parent not in self._done for parent in node.parents):
            self._ready.pop(node, None)
            self._done.pop(node, None)
            return Surveyed(node, task=None, place=None)
        task = self._task(node)
        known = self._done.get(node)
        if known is None or known.state != _state(known.place):
            self._find(node, task)
        return Surveyed(node, task, self._done[node].place if node in self._done else None)

    def _task(self, node: Node) -> Task:
        """How a stage is done; made anew where what it works on is no longer what it was."""
        parents = tuple(self._done[parent] for parent in node.parents)
        known = self._ready.get(node)
        if known is None or known.parents != parents:
            places = {stage: done.place for stage, done in self._done.items()}
            tasks = {stage: ready.task for stage, ready in self._ready.items()}
            known = self._ready[node] = _Ready(task_for(node, self._study, self._store, places, tasks), parents)
            self._done.pop(node, None)
        return known.task

    def _find(self, node: Node, task: Task) -> None:
        """Look whether a stage is done, and read it once."""
        self._done.pop(node, None)
        place = task.place()
        if place:
            state = _state(place)  # before it is read: what is written later is read again
            self._done[node] = _Done(place, state, read_record(place))


def _state(place: Path) -> tuple[int, ...]:
    """What changes with a file; empty where there is none."""
    try:
        found = (place / RESULT_FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
