"""A study whose stages are put into its store one by one, and a client of the live page."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rupert.cli.viewing.news import News
from rupert.cli.viewing.server import Server
from rupert.cli.viewing.state import Viewer
from rupert.data.examples import Example
from rupert.evaluation.answers import write_answers
from rupert.evaluation.comparison import write_outcomes
from rupert.evaluation.harmfulness import write_verdicts
from rupert.evaluation.judges.judge import Verdict
from rupert.evaluation.outcomes import Outcome
from rupert.records import Metric
from rupert.study.definition.graph import Node, graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.study import describe
from rupert.study.running.launched import ERROR_FILE
from rupert.study.running.progress import file_listener
from rupert.study.running.task import Task, task_for
from rupert.study.store import Store
from rupert.terminal import Progress

STUDY = """
model: potionworld
seeds: [0, 1]
defenses: {none: , seam: {recipe: seam-potionworld, max_steps: 1}}
attacks: {fine_tune: {data: potionworld:attacker, learning_rate: [1e-4, 1e-3], max_steps: 1}}
evaluation: {limit: 4}
"""


class ByHand:
    """A study whose stages are put into its store one by one, without any model."""

    def __init__(self, folder: Path, text: str = STUDY) -> None:
        recipe = folder.with_name("watched.yaml")
        recipe.write_text(text)
        self.study = read_study(recipe)
        self.graph = graph(self.study)
        self.store = Store(folder)
        self.done: dict[Node, Path] = {}
        self.tasks: dict[Node, Task] = {}

    def begin(self) -> None:
        """As `rupert run` begins: the folder is there, and says which study is run."""
        self.store.open(describe(self.study))

    def node(self, kind: str, label: str) -> Node:
        return next(node for node in self.graph.nodes if (node.kind, node.label) == (kind, label))

    def task(self, node: Node) -> Task:
        return self.tasks.setdefault(node, task_for(node, self.study, self.store, self.done, self.tasks))

    def finish(self, node: Node, *, harm: Any = 0.25, ability: Any = 0.5, seconds: float = 2.0) -> None:
        """A stage is done: it stands in its place, with everything that makes it whole."""
        task = self.task(node)
        working = self.store.working(node.kind, task.identity)
        stage = task.work.request().claim(working, resume=True)
        (working / ERROR_FILE).unlink(missing_ok=True)
        (working / "config.json").write_text('{"rupert_world": "potionworld"}')
        metrics: tuple[Metric, ...] = ()
        if node.kind == "defend":
            save_file({"weight": torch.zeros(1)}, working / "model.safetensors")
        elif node.kind == "evaluate":
            leave_answers(working)
            metrics = (Metric("harm", harm, 0.1, 0.4, 60), Metric("ability", ability, 0.4, 0.6, 60))
        started = time.perf_counter() - seconds
        weights = "" if node.kind == "evaluate" else f"weights of {node.label}"
        task.work.request().finish(stage, started, metrics=metrics, output_hash=weights)
        self.done[node] = self.store.publish(working, node.kind, node.label, task.identity)

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


def leave_answers(folder: Path) -> None:
    """The files of an evaluation, with one answer."""
    write_answers([Example("Say it.", "it")], folder / "answers.jsonl", lambda _: [(0, "it")])
    (folder / "verdicts").mkdir(exist_ok=True)
    write_verdicts(folder / "answers.jsonl", lambda _: [Verdict(False, False)], folder / "verdicts" / "oracle.jsonl")
    write_outcomes([Outcome("harm", "0", 0.0)], folder / "outcomes.jsonl")


@contextmanager
def served(folder: Path, look: Callable[[], Any] | None = None, most: int = 64) -> Iterator[Server]:
    news = News(look or Viewer(folder).look, every=0.02, most=most)
    with Server(0, folder, news) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            news.stop()
            server.shutdown()
            thread.join()


class Reply:
    """An answer of the server, read whole."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def ask(server: Server, request: str, *headers: str, host: str | None = None) -> Reply:
    """Send a request as it is written, such as "GET /", and read the answer."""
    lines = [f"{request} HTTP/1.1", f"Host: {host or f'127.0.0.1:{server.port}'}", *headers, "", ""]
    return Reply(exchange(server, "\r\n".join(lines).encode()))


def exchange(server: Server, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw)
        received = b""
        while block := connection.recv(1 << 16):
            received += block
    return received


class Listener:
    """A page that listens to `/events`."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        self.connection.request("GET", "/events")
        self.response = self.connection.getresponse()

    def lines(self) -> Iterator[str]:
        while line := self.response.readline():
            yield line.decode().rstrip("\n")

    def state(self, is_it: Callable[[dict[str, Any]], Any] = lambda _: True) -> dict[str, Any]:
        """The next state of which that is true; the connection's patience is the limit."""
        for line in self.lines():
            if line.startswith("data: ") and is_it(state := json.loads(line.removeprefix("data: "))):
                return dict(state)
        raise AssertionError("the server hung up")

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.connection.close()


def stage(state: dict[str, Any], kind: str, label: str) -> dict[str, Any]:
    return next(one for one in state["stages"] if (one["kind"], one["label"]) == (kind, label))
