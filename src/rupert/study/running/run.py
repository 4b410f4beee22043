"""Runs a study: every stage whose parents are done goes to an executor; the same call again goes on."""

from __future__ import annotations

import errno
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from rupert.errors import DiskFullError, FolderError, RupertError, WorkerDied
from rupert.evidence import MeasuredCell
from rupert.records import Metric, ResultRow, read_record
from rupert.study.definition.checking import check
from rupert.study.definition.graph import UNATTACKED, Model, Node, graph
from rupert.study.definition.study import Study, describe
from rupert.study.executors import Executor
from rupert.study.running.task import Runtime, Task, task_for
from rupert.study.store import RUNS, Store

METRICS = (
    "harm",
    "harm_coherent",
    "ability",
    "refusal",
    "answers/refusal",
    "answers/irrelevant",
    "answers/harmful",
    "answers/degenerate",
    "over_refusal",
    "logp_paired",
    "logp_benign",
)
SCORE = "score/"  # how the names of fine-tuning scores begin
RETRIES = 2  # of a stage whose process died
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
POLL = 0.5  # seconds until a stage that somebody else works on is looked at again


@dataclass(frozen=True, slots=True)
class Cell:
    """One model of a study, measured.

    Attributes:
        metrics: what was measured, of which `result_rows` keeps what reports show.
        seconds: wall time of making and measuring it.
        error: why it could not be measured; empty where it was.
    """

    seed: int
    defense: str
    attack: str
    metrics: Sequence[Metric] = ()
    seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Board:
    """Where a study is, for whoever shows it.

    Attributes:
        total: stages of the study.
        done: stages that are done.
        running: label of each stage that is worked on -> the file that says how far it is.
    """

    total: int = 0
    done: int = 0
    running: dict[str, Path] = field(default_factory=dict)


def run(
    study: Study,
    folder: Path,
    executor: Executor,
    *,
    runtime: Runtime | None = None,
    board: Board | None = None,
) -> Iterator[Cell]:
    """Run what is not done yet, and yield each model as it is measured, or cannot be.

    Several calls, in several processes and on several machines, may run on one folder: each stage is done once. A stage
    that fails takes with it what builds on it; everything else goes on.

    Args:
        study: what to run.
        folder: new, empty, or of any study: what this one shares with it is not done again.
        executor: where stages run.
        runtime: how they run.
        board: kept up to date.

    Raises:
        UsageError: something that the study asks for cannot be.
        DiskFullError: no space is left for any stage.
    """
    check(study)
    store = Store(folder)
    store.open(describe(study))
    with store.lock(RUNS, shared=True) as nothing_is_deleted:
        if not nothing_is_deleted:
            raise FolderError(f"--output-dir: `rupert gc` deletes in {str(folder)!r} just now; repeat the command")
        yield from _Run(study, store, executor, runtime or Runtime(), board or Board()).cells()


def result_rows(study: Study, cells: Sequence[Cell]) -> list[ResultRow]:
    """The study's numbers, one row for each model and metric, in the order of the grid."""
    return [
        result_row(study.name, study.model.model, cell, metric)
        for cell in sorted(cells, key=_order(study))
        for metric in cell.metrics
        if metric.name in METRICS or metric.name.startswith(SCORE)
    ]


def result_row(study: str, model: str, cell: Cell | MeasuredCell, metric: Metric) -> ResultRow:
    """One number of a study's model, as a row."""
    return ResultRow(
        study=study,
        model=model,
        defense=cell.defense,
        attack=cell.attack,
        seed=cell.seed,
        metric=metric.name,
        value=metric.value,
        low=metric.low,
        high=metric.high,
        n=metric.n,
    )


def _order(study: Study) -> Callable[[Cell], tuple[int, int, int]]:
    """Where in the grid a cell stands: several executors finish them in any order."""
    defenses, attacks = list(study.defenses), [UNATTACKED, *study.attacks]
    return lambda cell: (study.seeds.index(cell.seed), defenses.index(cell.defense), attacks.index(cell.attack))


class _Run:
    """What is done, what is going on, and what failed."""

    def __init__(self, study: Study, store: Store, executor: Executor, runtime: Runtime, board: Board) -> None:
        self._study = study
        self._store = store
        self._executor = executor
        self._runtime = runtime
        self._board = board
        self._graph = graph(study)
        self._order = {node: number for number, node in enumerate(self._graph.nodes)}
        self._children: dict[Node, list[Node]] = {node: [] for node in self._graph.nodes}
        self._tasks: dict[Node, Task] = {}
        self._ready: list[tuple[int, Node]] = []  # a heap: what comes first in the graph is run first
        self._running: dict[Future[Path | None], Node] = {}
        self._elsewhere: list[tuple[float, Node]] = []  # what somebody else works on, and when to look again
        self._places: dict[Node, Path] = {}
        self._errors: dict[Node, str] = {}
        self._deaths: Counter[Node] = Counter()
        for node in self._graph.nodes:
            for parent in node.parents:
                self._children[parent].append(node)
        board.total = len(self._graph.nodes)

    def cells(self) -> Iterator[Cell]:
        """Each model when its last stage is done, or when it is known that it never will be."""
        for node in self._graph.nodes:
            if not node.parents:
                self._open(node)
        waiting = list(self._graph.models)
        while True:
            finished = [model for model in waiting if self._is_finished(model)]
            waiting = [model for model in waiting if model not in finished]
            yield from map(self._cell, finished)
            if not waiting:
                return
            self._submit()
            self._collect()

    def _open(self, node: Node) -> None:
        """All parents of a stage are done: so is it, or it is ready to be run."""
        self._tasks[node] = task_for(node, self._study, self._store, self._places, self._tasks, runtime=self._runtime)
        place = self._tasks[node].place()
        if place:
            self._settle(node, place)
        else:
            heapq.heappush(self._ready, (self._order[node], node))

    def _submit(self) -> None:
        """Give the executor as many stages as it can run."""
        now = time.monotonic()
        due = [node for moment, node in self._elsewhere if moment <= now]
        self._elsewhere = [(moment, node) for moment, node in self._elsewhere if moment > now]
        for node in due:
            heapq.heappush(self._ready, (self._order[node], node))
        while self._ready and len(self._running) < self._executor.slots:
            _, node = heapq.heappop(self._ready)
            self._board.running[node.label] = self._tasks[node].progress
            self._running[self._executor.submit(Task.perform, self._tasks[node])] = node

    def _collect(self) -> None:
        """Wait until something has ended, and see how."""
        if not self._running:
            time.sleep(POLL)
            return
        ended, _ = wait(self._running, timeout=POLL if self._elsewhere else None, return_when=FIRST_COMPLETED)
        for future in ended:
            node = self._running.pop(future)
            self._board.running.pop(node.label, None)
            error = future.exception()
            if error:
                self._fail(node, error)
            elif place := future.result():
                self._settle(node, place)
            else:
                self._elsewhere.append((time.monotonic() + POLL, node))

    def _settle(self, node: Node, place: Path) -> None:
        """A stage is done: others may be able to begin, and weights may have served their purpose."""
        self._places[node] = place
        self._board.done += 1
        for child in self._children[node]:
            if child not in self._tasks and all(parent in self._places for parent in child.parents):
                self._open(child)
        made_by = node.model
        if made_by and made_by.kind == "attack" and all(child in self._places for child in self._children[made_by]):
            self._tasks[made_by].drop_weights()

    def _fail(self, node: Node, error: BaseException) -> None:
        """A stage failed, and with it all that builds on it; one whose process died is tried again."""
        if isinstance(error, WorkerDied) and self._deaths[node] < RETRIES:
            self._deaths[node] += 1
            heapq.heappush(self._ready, (self._order[node], node))
            return
        if _concerns_all(error):
            raise error
        message = self._told(node, error)
        failed = [node]
        while failed:
            self._errors[failed[-1]] = message
            failed += [child for child in self._children[failed.pop()] if child not in self._errors]

    def _told(self, node: Node, error: BaseException) -> str:
        """What is said of a failure; the stage's folder has it too."""
        path = self._tasks[node].remember(error)
        if isinstance(error, RupertError):
            return f"{node.kind} {node.label}: {error}"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{node.kind} {node.label}: {type(error).__name__}: {first}; see {path}"

    def _is_finished(self, model: Model) -> bool:
        return all(stage in self._places or stage in self._errors for stage in model.stages)

    def _cell(self, model: Model) -> Cell:
        cell = Cell(model.seed, model.defense, model.attack)
        errors = [self._errors[stage] for stage in model.stages if stage in self._errors]
        if errors:
            return replace(cell, error=errors[0])
        records = [read_record(self._places[stage]) for stage in model.stages]
        scores = {label: read_record(self._places[stage]) for label, stage in model.scores.items()}
        return replace(
            cell,
            metrics=[
                *read_record(self._places[model.evaluation]).metrics,
                *(replace(record.metric("score"), name=f"{SCORE}{label}") for label, record in scores.items()),
            ],
            seconds=sum(record.seconds for record in records),
        )


def _concerns_all(error: BaseException) -> bool:
    """Whether no other stage could do better: no space, no permission, or Ctrl-C."""
    of_the_disk = isinstance(error, OSError) and error.errno in OF_THE_DISK
    return of_the_disk or isinstance(error, DiskFullError) or not isinstance(error, Exception)
