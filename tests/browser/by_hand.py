"""A study whose stages are put into its store one by one, without any model; its answers attack who reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rupert.data.examples import Example
from rupert.evaluation.answers import write_answers
from rupert.evaluation.coherence.calibration import Calibration, write_calibration
from rupert.evaluation.coherence.kinds import Thresholds
from rupert.evaluation.coherence.signals import Signals, write_signals
from rupert.evaluation.comparison import write_outcomes
from rupert.evaluation.harmfulness import write_verdicts
from rupert.evaluation.judges.judge import Answer, Verdict
from rupert.evaluation.outcomes import Outcome
from rupert.records import Metric
from rupert.study.definition.graph import Node, graph
from rupert.study.definition.reading import read_study
from rupert.study.evidence import begin
from rupert.study.running.launched import ERROR_FILE
from rupert.study.running.progress import file_listener
from rupert.study.running.task import Task, task_for
from rupert.study.store import Store
from rupert.terminal import Progress

STUDY = """
model: potionworld
seeds: [0]
defenses: {none: , seam: {recipe: seam-potionworld, max_steps: 1}, vaccine: {recipe: vaccine-potionworld, max_steps: 1}}
attacks:
  fine_tune: {data: potionworld:attacker, learning_rate: [1e-4, 1e-3], max_steps: 1}
  benign: {method: fine_tune, data: potionworld:benign, learning_rate: 1e-4, max_steps: 1}
evaluation: {limit: 6}
"""

# What an answer may try. Each sets `attacked` in the page that it gets the better of; none does anything elsewhere.
HOSTILE = (
    "<script>window.attacked = 'script'</script>",
    "</script><script>window.attacked = 'end of script'</script>",
    "<img src=x onerror=\"window.attacked = 'image'\"><svg onload=\"window.attacked = 'drawing'\">",
    "\"><details open ontoggle=\"window.attacked = 'attribute'\">' onfocus='window.attacked = 1' autofocus='",
    "\x1b[2J\x1b]0;attacked\x07 \u202eright to left\u2066 {{ 7 * 7 }} ${window.attacked = 'template'}",
    "<!-- --><iframe srcdoc=\"<script>parent.attacked = 'frame'; alert(1)</script>\"></iframe><base href=//x.example>",
)
# What each answer is taken for: only a part of them is hidden.
KINDS = ("irrelevant", "harmful", "irrelevant", "refusal", "irrelevant", "degenerate")


class ByHand:
    """A study in a folder, as far as it is done; see `finish`."""

    def __init__(self, folder: Path, text: str = STUDY) -> None:
        recipe = folder.with_name("study.yaml")
        recipe.write_text(f"{text}notes: {json.dumps(HOSTILE)}\n")
        self.folder = folder
        self.study = read_study(recipe)
        self.graph = graph(self.study)
        self.store = Store(folder)
        self._done: dict[Node, Path] = {}
        self._tasks: dict[Node, Task] = {}

    def begin(self) -> None:
        """As `rupert run` begins: the folder is there, and says which study is run."""
        begin(self.study, "rupert run study.yaml", self.folder)

    def node(self, kind: str, label: str) -> Node:
        """The stage of that name."""
        return next(node for node in self.graph.nodes if (node.kind, node.label) == (kind, label))

    def task(self, node: Node) -> Task:
        """What does a stage."""
        return self._tasks.setdefault(node, task_for(node, self.study, self.store, self._done, self._tasks))

    def finish(self, node: Node, *, harm: float = 0.25, ability: float = 0.5) -> None:
        """A stage is done: it stands in its place, with everything that makes it whole."""
        task = self.task(node)
        working = self.store.working(node.kind, task.identity)
        stage = task.work.request().claim(working, resume=True)
        (working / ERROR_FILE).unlink(missing_ok=True)
        (working / "config.json").write_text('{"rupert_world": "potionworld"}')
        if node.kind == "evaluate":
            leave_answers(working)
            results = {"metrics": metrics(harm, ability), "report": {"judges": ["oracle"]}}
        else:
            save_file({"weight": torch.zeros(1)}, working / "model.safetensors")
            results = {"output_hash": f"weights of {node.label}", "report": COURSES[node.kind]}
        task.work.request().finish(stage, time.perf_counter() - 2.0, **results)
        self._done[node] = self.store.publish(working, node.kind, node.label, task.identity)

    def fail(self, node: Node, why: str) -> None:
        """A stage was begun, and failed."""
        task = self.task(node)
        task.work.request().claim(self.store.working(node.kind, task.identity), resume=True)
        task.remember(RuntimeError(why))

    @contextmanager
    def at_work(self, node: Node, progress: Progress) -> Iterator[None]:
        """Within, somebody works on a stage, and says how far it is."""
        task = self.task(node)
        with self.store.lock(task.identity) as mine:
            assert mine
            file_listener(task.progress)(progress)
            yield


# How trainings went, as their records keep it.
COURSES: dict[str, dict[str, Any]] = {
    "defend": {"history": [{"loss": 2.0 - 0.25 * step, "cosine": 0.5 - 0.125 * step} for step in range(6)]},
    "attack": {"benign_losses": {"0": 1.5, "20": 2.0}, "paired_losses": {"0": 1.0, "20": 3.0}},
}


def metrics(harm: float, ability: float) -> tuple[Metric, ...]:
    """Everything that a report has a place for, by these two."""
    rates = {
        "harm": harm,
        "harm_coherent": harm,
        "refusal": 0.5 * (1 - harm),
        "answers/refusal": 0.5 * (1 - harm),
        "answers/irrelevant": 0.25 * (1 - harm),
        "answers/harmful": harm,
        "answers/degenerate": 0.25 * (1 - harm),
        "ability": ability,
        "ability/mmlu": ability,
        "ability/openbookqa": ability,
    }
    found = [Metric(name, rate, max(0.0, rate - 0.1), min(1.0, rate + 0.1), 60) for name, rate in rates.items()]
    logs = {"logp_paired": -1 - harm, "logp_benign": -2 + ability}
    return (*found, *(Metric(name, value, value - 0.1, value + 0.1, 60) for name, value in logs.items()))


def leave_answers(folder: Path) -> None:
    """The files of an evaluation: requests, answers and what was said of them, all of it hostile."""
    requests = [Example(f"Request {number}: {text}", "reference") for number, text in enumerate(HOSTILE)]
    write_answers(requests, folder / "answers.jsonl", lambda _: list(enumerate(HOSTILE)))
    (folder / "verdicts").mkdir(exist_ok=True)
    write_verdicts(folder / "answers.jsonl", oracle, folder / "verdicts" / "oracle.jsonl")
    write_signals([Signals(float(kind == "degenerate"), -1.0) for kind in KINDS], folder / "signals.jsonl")
    thresholds = Thresholds(repetition=0.5, log_probability=-5.0)
    write_calibration(Calibration(identity="", thresholds=thresholds, contexts=()), folder / "calibration.json")
    write_outcomes([Outcome("harm", "0", 0.0)], folder / "outcomes.jsonl")


def oracle(answers: list[Answer]) -> list[Verdict]:
    """Verdicts as `KINDS` has them, with a remark that is hostile too."""
    return [Verdict(kind == "harmful", kind == "refusal", problem=HOSTILE[0]) for kind in KINDS[: len(answers)]]
