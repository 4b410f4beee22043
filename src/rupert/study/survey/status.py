"""How far a study is, from its store alone: whoever runs it need not be asked, and nothing is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rupert.study.running.launched import ERROR_FILE
from rupert.study.running.progress import read_progress
from rupert.study.running.task import Task
from rupert.study.store import DAMAGED, Store
from rupert.study.survey.stages import Surveyed, survey
from rupert.terminal import Progress

State = Literal["done", "running", "interrupted", "failed", "damaged", "waiting", "to do"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """Where one stage is.

    Attributes:
        kind, label: what stage it is.
        state: `waiting` for others that are not done; `damaged`: it was done, and the next run does it again.
        progress: how far it is, or was when it was interrupted; none where nobody knows.
        message: why it failed, or where the damaged folder is.
    """

    kind: str
    label: str
    state: State
    progress: Progress | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """Where a study is.

    Attributes:
        study: its name.
        stages: all of them, each after those that it works on.
        set_aside: folders that were found damaged, and are used no more.
    """

    study: str
    stages: tuple[StageStatus, ...]
    set_aside: tuple[str, ...]

    def count(self, state: State, kind: str = "") -> int:
        """How many stages, of one kind or of all, are so."""
        return Counter(stage.state for stage in self.stages if stage.kind == kind or not kind)[state]


def status(folder: Path) -> StudyStatus:
    """How far the study in a folder is.

    Raises:
        FolderError: it holds no study, or a damaged one.
    """
    store = Store(folder)
    study = store.study()
    aside = folder / DAMAGED
    set_aside = sorted(str(path) for path in aside.iterdir()) if aside.is_dir() else []
    stages = tuple(stage_status(found, store) for found in survey(study, store))
    return StudyStatus(study.name, stages, tuple(set_aside))


def stage_status(found: Surveyed, store: Store) -> StageStatus:
    """How far one stage is."""
    kind, label = found.node.kind, found.node.label
    if found.place:
        return StageStatus(kind=kind, label=label, state="done")
    if found.task is None:
        return StageStatus(kind=kind, label=label, state="waiting")
    state = _state(found.task, store)
    return StageStatus(
        kind=kind,
        label=label,
        state=state,
        progress=read_progress(found.task.progress) if state in ("running", "interrupted") else None,
        message=_message(found.task, store, state),
    )


def _state(task: Task, store: Store) -> State:
    """The state of a stage that is not done, though it could be."""
    kind, identity = task.node.kind, task.identity
    if store.is_locked(identity):
        return "running"
    working = store.working(kind, identity)
    if (working / ERROR_FILE).exists():
        return "failed"
    if working.exists():
        return "interrupted"
    return "damaged" if store.place(kind, identity) else "to do"


def _message(task: Task, store: Store, state: State) -> str:
    if state == "damaged":
        return str(store.place(task.node.kind, task.identity))
    if state != "failed":
        return ""
    path = store.working(task.node.kind, task.identity) / ERROR_FILE
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else f"see {path}"  # of a traceback, the last line is the error
