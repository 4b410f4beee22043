"""The live page's server: what it tells while a study goes on, and everything that it refuses."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rupert.cli.main import main
from rupert.cli.viewing import news as telling
from rupert.cli.viewing import server as serving
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
from rupert.study.graph import Node, graph
from rupert.study.launched import ERROR_FILE
from rupert.study.progress import file_listener
from rupert.study.reading import read_study
from rupert.study.store import Store
from rupert.study.study import describe
from rupert.study.survey import survey
from rupert.study.task import Task, task_for
from rupert.terminal import Progress

STUDY = """
model: potionworld
seeds: [0, 1]
defenses: {none: , seam: {recipe: seam-potionworld, max_steps: 1}}
attacks: {fine_tune: {data: potionworld:attacker, learning_rate: [1e-4, 1e-3], max_steps: 1}}
evaluation: {limit: 4}
"""
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e"
WRITTEN_OUT = "</script><img src=x onerror=alert(1)>\\x1b[2J\\u202e"


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


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking does not wait for its share of the time."""
    monkeypatch.setattr(telling, "PATIENCE", 0.0)


@pytest.fixture
def by_hand(tmp_path: Path) -> ByHand:
    return ByHand(tmp_path / "s")


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


@pytest.fixture
def server(by_hand: ByHand) -> Iterator[Server]:
    with served(by_hand.store.folder) as running:
        yield running


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


def cell(state: dict[str, Any], defense: str, attack: str) -> dict[str, Any]:
    return next(one for one in state["cells"] if (one["defense"], one["attack"]) == (defense, attack))


def test_a_study_is_followed_from_before_its_beginning_to_its_end(server: Server, by_hand: ByHand) -> None:
    with Listener(server) as page:
        assert page.response.headers["Content-Type"] == "text/event-stream"
        assert page.state()["phase"] == "waiting"
        by_hand.begin()
        state = page.state(lambda state: state["phase"] != "waiting")
        assert (state["phase"], state["study"], state["model"]) == ("paused", "watched", "potionworld")
        assert [attack["title"] for attack in state["attacks"]] == ["no attack", "lr 1e-4", "lr 1e-3"]
        assert [defense["title"] for defense in state["defenses"]] == ["undefended", "seam"]
        # Two seeds of the undefended model are one stage, and so are their evaluations.
        assert [(kind["kind"], sum(kind[name] for name in state["states"])) for kind in state["kinds"]] == [
            ("defend", 3),
            ("attack", 8),
            ("evaluate", 11),
        ]
        for node in by_hand.graph.nodes:
            by_hand.finish(node)
            state = page.state(lambda state, node=node: stage(state, node.kind, node.label)["state"] == "done")
            assert stage(state, node.kind, node.label)["seconds"] == pytest.approx(2, abs=0.2)
        assert state["phase"] == "ended"
        assert {one["state"] for one in state["cells"]} == {"done"}
        assert state["seconds"] == pytest.approx(2 * 22, abs=1)


def test_work_on_a_stage_is_shown_as_it_goes_on(server: Server, by_hand: ByHand) -> None:
    by_hand.begin()
    hardening = by_hand.node("defend", "seam-seed1")
    with Listener(server) as page:
        with by_hand.at_work(hardening, Progress("hardening", 3, 20, "loss 1.25")):
            found = page.state(lambda state: stage(state, "defend", "seam-seed1")["progress"])
            assert found["phase"] == "running"
            progress = {"title": "hardening", "done": 3.0, "total": 20.0, "note": "loss 1.25"}
            assert stage(found, "defend", "seam-seed1")["progress"] == progress
            assert cell(found, "seam", "none")["state"] == "running"
            assert found["stages"][cell(found, "seam", "none")["stage"]]["label"] == "seam-seed1"
            assert cell(found, "seam", "fine_tune-1e-4")["state"] == "waiting"
            file_listener(by_hand.task(hardening).progress)(Progress("hardening", 4, 20, ""))
            page.state(lambda state: stage(state, "defend", "seam-seed1")["progress"]["done"] == 4)
        state = page.state(lambda state: stage(state, "defend", "seam-seed1")["state"] != "running")
        assert state["phase"] == "running"  # between two stages nobody works, and that is no pause


def test_numbers_of_seeds_are_taken_together_as_the_report_does(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    for label in ("seam-seed0", "seam-seed1"):
        by_hand.finish(by_hand.node("defend", label))
    by_hand.finish(by_hand.node("evaluate", "seam-none-seed0"), harm=0.2)
    half = cell(viewer.look(), "seam", "none")
    assert (half["state"], half["done"], half["seeds"]) == ("waiting", 1, 2)
    assert half["harm"] == {
        "value": 0.2,
        "text": "20\N{NARROW NO-BREAK SPACE}%",
        "interval": "10\N{EN DASH}40",
        "n": 60,
    }
    by_hand.finish(by_hand.node("evaluate", "seam-none-seed1"), harm=0.4)
    both = cell(viewer.look(), "seam", "none")
    assert (both["state"], both["done"], both["harm"]["value"]) == ("done", 2, pytest.approx(0.3))
    assert both["seconds"] == pytest.approx(8, abs=0.5)
    assert cell(viewer.look(), "none", "none")["harm"] is None
    # What both seeds share was done once, and took its time once.
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"))
    assert cell(viewer.look(), "none", "none")["seconds"] == pytest.approx(4, abs=0.5)


def test_a_failure_takes_with_it_what_builds_on_it_and_is_over_when_it_is_done(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    hardening = by_hand.node("defend", "seam-seed0")
    by_hand.fail(hardening, "out of memory")
    state = viewer.look()
    assert stage(state, "defend", "seam-seed0")["message"] == "RuntimeError: out of memory"
    assert [cell(state, "seam", attack["name"])["state"] for attack in state["attacks"]] == ["failed"] * 3
    assert [cell(state, "none", attack["name"])["state"] for attack in state["attacks"]] == ["waiting"] * 3
    by_hand.finish(hardening)
    assert cell(viewer.look(), "seam", "none")["state"] == "waiting"


def test_a_look_finds_what_a_whole_survey_finds(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)

    def both() -> tuple[list[str], list[str]]:
        surveyed = [found.node.label for found in survey(by_hand.study, by_hand.store) if found.place]
        return surveyed, [one["label"] for one in viewer.look()["stages"] if one["state"] == "done"]

    for node in by_hand.graph.nodes[:12]:
        by_hand.finish(node)
    whole, seen = both()
    assert whole == seen
    assert len(seen) == 12
    # A hardening is set aside: nothing that was made from it counts any more.
    by_hand.store.set_aside(by_hand.done[by_hand.node("defend", "seam-seed0")])
    whole, seen = both()
    assert whole == seen
    assert len(seen) < 11


def test_a_damaged_stage_is_said_to_be_damaged(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    hardening = by_hand.node("defend", "seam-seed0")
    by_hand.finish(hardening)
    assert stage(viewer.look(), "defend", "seam-seed0")["state"] == "done"
    (by_hand.done[hardening] / "result.json").write_text("{")
    state = viewer.look()
    assert stage(state, "defend", "seam-seed0")["state"] == "damaged"
    assert (state["others"], "trouble" in state) == (0, False)
    assert cell(state, "seam", "none")["state"] == "waiting"


def test_another_study_in_the_folder_is_shown_in_its_place(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    assert viewer.look()["seeds"] == [0, 1]
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("defend", "seam-seed0"))
    assert viewer.look()["others"] == 0
    ByHand(by_hand.store.folder, STUDY.replace("[0, 1]", "[7]")).begin()
    state = viewer.look()
    assert state["seeds"] == [7]
    assert stage(state, "defend", "none")["state"] == "done"  # which both studies share
    assert state["others"] == 1


def test_what_is_damaged_is_said_and_the_last_state_stays(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    before = viewer.look()
    (by_hand.store.folder / "study.json").write_text("{")
    assert viewer.look() == before  # once may be a moment at which it was written
    assert re.match(r".*study\.json: damaged", viewer.look()["trouble"])
    assert viewer.look()["stages"] == before["stages"]
    by_hand.begin()
    assert viewer.look() == before


@pytest.mark.parametrize("content", ["[]", '{"study": 1}', '{"stage": ' * 9999, "\ud800", "null"])
def test_a_study_that_is_something_else_ends_nothing(by_hand: ByHand, content: str) -> None:
    by_hand.begin()
    (by_hand.store.folder / "study.json").write_text(content, errors="surrogatepass")
    viewer = Viewer(by_hand.store.folder)
    viewer.look()
    assert viewer.look()["trouble"]


def test_hostile_text_comes_out_as_data(server: Server, by_hand: ByHand) -> None:
    by_hand.begin()
    path = by_hand.store.folder / "study.json"
    described = json.loads(path.read_text())
    described["study"] = HOSTILE
    path.write_text(json.dumps(described))
    by_hand.fail(by_hand.node("defend", "seam-seed0"), f"{HOSTILE}\n\ndata: {{}}\n\n{HOSTILE}{'x' * 900}")
    with (
        by_hand.at_work(by_hand.node("defend", "seam-seed1"), Progress(HOSTILE, float("nan"), float("inf"), HOSTILE)),
        Listener(server) as page,
    ):
        lines = page.lines()
        assert next(lines) == "retry: 2000"
        assert next(lines) == ""
        state = page.state(lambda state: state.get("stages"))
    assert state["study"] == WRITTEN_OUT
    assert stage(state, "defend", "seam-seed0")["message"].startswith(WRITTEN_OUT)
    assert len(stage(state, "defend", "seam-seed0")["message"]) <= 501
    progress = {"title": WRITTEN_OUT, "done": None, "total": None, "note": WRITTEN_OUT}
    assert stage(state, "defend", "seam-seed1")["progress"] == progress


@pytest.mark.parametrize("value", [HOSTILE, None, [1], {"a": 1}])
def test_what_should_be_a_number_and_is_none_damages_its_stage(by_hand: ByHand, value: Any) -> None:
    by_hand.begin()
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"), harm=value)
    state = Viewer(by_hand.store.folder).look()
    assert stage(state, "evaluate", "none-none")["state"] == "damaged"
    assert cell(state, "none", "none")["done"] == 0
    assert cell(state, "none", "none")["harm"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_left_out(by_hand: ByHand, value: Any) -> None:
    by_hand.begin()
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"), harm=value)
    found = cell(Viewer(by_hand.store.folder).look(), "none", "none")
    assert found["harm"] is None
    assert found["ability"]["value"] == 0.5


def test_nothing_is_written(by_hand: ByHand) -> None:
    by_hand.begin()
    for node in by_hand.graph.nodes[:6]:
        by_hand.finish(node)
    folder = by_hand.store.folder
    paths = [folder, *folder.rglob("*")]
    before = {path: path.lstat().st_mtime_ns for path in paths}
    modes = {path: path.lstat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with served(folder) as server, Listener(server) as page:
            state = page.state(lambda state: state.get("stages"))
            assert "trouble" not in state
            assert sum(one["state"] == "done" for one in state["stages"]) == 6
            ask(server, "GET /report")
        assert {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_nothing_is_read_while_nobody_listens(tmp_path: Path) -> None:
    looks: list[int] = []

    def look() -> dict[str, int]:
        looks.append(1)
        return {"looks": len(looks)}

    with served(tmp_path, look) as server:
        ask(server, "GET /")
        assert not looks
        with Listener(server) as page:
            first = page.state()["looks"]
            assert page.state()["looks"] > first
        for _ in range(200):  # the server notices when it next tells something
            count = len(looks)
            time.sleep(0.1)
            if len(looks) == count:
                return
    raise AssertionError("it looks on though nobody listens")


def test_only_what_changed_is_told_and_a_heartbeat_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEARTBEAT", 0.1)
    with served(tmp_path, lambda: {"the": "same"}) as server, Listener(server) as page:
        lines = page.lines()
        told = [line for line in (next(lines) for _ in range(10)) if line]
    assert told[:2] == ["retry: 2000", 'data: {"the": "same"}']
    assert set(told[2:]) == {": still here"}


def test_who_comes_back_is_told_the_last_state_at_once(tmp_path: Path) -> None:
    with served(tmp_path, lambda: {"the": "same"}) as server:
        for _ in range(3):
            with Listener(server) as page:
                assert page.state() == {"the": "same"}


def test_many_listen_and_one_that_stalls_or_goes_away_holds_nobody_up(tmp_path: Path) -> None:
    number = iter(range(10**9))
    with served(tmp_path, lambda: {"number": next(number), "long": "x" * 100_000}) as server:
        stalled, gone = Listener(server), Listener(server)
        gone.__exit__()
        silent = socket.create_connection(("127.0.0.1", server.port))  # says nothing at all
        pages = [Listener(server) for _ in range(20)]
        try:
            for page in pages:
                first = page.state()["number"]
                assert page.state(lambda state, first=first: state["number"] > first + 2)
            assert ask(server, "GET /").status == 200
        finally:
            silent.close()
            for page in [stalled, *pages]:
                page.__exit__()


def test_more_than_enough_listeners_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, dict, most=1) as server, Listener(server) as page:
        assert page.state() == {}
        assert ask(server, "GET /events").status == 503
        assert ask(server, "GET /").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "localhost:{port}.evil.example",
        "127.0.0.1:{port}@evil.example",
        "evil.example\r\nHost: 127.0.0.1:{port}",
        "127.0.0.1:{port}\r\nHost: evil.example",
        "0.0.0.0:{port}",
        "[::1]:{port}",
        " ",
    ],
)
@pytest.mark.parametrize("address", ["/", "/events", "/report", "/elsewhere"])
def test_other_names_are_refused(server: Server, host: str, address: str) -> None:
    reply = ask(server, f"GET {address}", host=host.format(port=server.port))
    assert reply.status == 421
    assert reply.body == b"Misdirected Request\n"


def test_no_name_at_all_is_refused(server: Server) -> None:
    assert Reply(exchange(server, b"GET / HTTP/1.0\r\n\r\n")).status == 421


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LocalHost:{port}"])
def test_its_own_names_are_answered(server: Server, host: str) -> None:
    assert ask(server, "GET /", host=host.format(port=server.port)).status == 200


def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert server.socket.getsockname() == ("127.0.0.1", server.port)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_origins_are_refused_but_for_links(server: Server, site: str) -> None:
    for mode in ("cors", "no-cors"):
        for address in ("/events", "/view.js", "/report"):
            assert ask(server, f"GET {address}", f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}").status == 403
    assert ask(server, "GET /", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate").status == 200
    assert ask(server, "GET /view.js", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors").status == 200


SECRET = "a file outside"


@pytest.mark.parametrize(
    "address",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "/report/../../secret.txt",
        "/report/",
        "/report.html",
        "/s/report.html",
        "/study.json",
        "/link.txt",
        "/{root}/secret.txt",
        "//{root}/secret.txt",
        "{root}/secret.txt",
        "file://{root}/secret.txt",
        "/view.js/../page.html",
        "/templates/page.html",
        "/page.html",
        "/view.html",
        "/%00",
        "/report%00",
        "*",
        "http://127.0.0.1/../secret.txt",
    ],
)
def test_no_address_leads_into_the_file_system(server: Server, by_hand: ByHand, tmp_path: Path, address: str) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    by_hand.begin()
    (by_hand.store.folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    reply = ask(server, f"GET {address.format(root=tmp_path)}")
    assert (reply.status, reply.body) == (404, b"Not Found\n")


def test_the_report_is_served_when_it_is_there(server: Server, by_hand: ByHand) -> None:
    assert ask(server, "GET /report").status == 404
    by_hand.begin()
    assert ask(server, "GET /report").status == 404
    page = b"<!doctype html><title>the report</title>" + b"x" * 200_000
    (by_hand.store.folder / "report.html").write_bytes(page)
    reply = ask(server, "GET /report")
    assert (reply.status, reply.body) == (200, page)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert re.search(r"sandbox (?!.*allow-same-origin)", policy)
    with Listener(server) as listener:
        state = listener.state(lambda state: state.get("report"))
    assert state["report"] == pytest.approx(time.time(), abs=60)


def test_a_report_that_is_no_plain_file_is_not_there(server: Server, by_hand: ByHand, tmp_path: Path) -> None:
    by_hand.begin()
    (tmp_path / "secret.txt").write_text(SECRET)
    report = by_hand.store.folder / "report.html"
    makers: list[Callable[[], object]] = [
        lambda: report.symlink_to(tmp_path / "secret.txt"),
        lambda: os.mkfifo(report),
        report.mkdir,
    ]
    for make in makers:
        make()
        reply = ask(server, "GET /report")
        assert (reply.status, reply.body) == (404, b"Not Found\n")
        assert Viewer(by_hand.store.folder).look()["report"] is None
        report.rmdir() if report.is_dir() else report.unlink()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "SHATTER"])
def test_nothing_can_be_asked_but_to_tell(server: Server, method: str) -> None:
    for address in ("/", "/events", "/report", "/<script>"):
        reply = ask(server, f"{method} {address}", "Content-Length: 0")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert reply.body == b"Method Not Allowed\n"


def test_a_head_has_no_body(server: Server, by_hand: ByHand) -> None:
    by_hand.begin()
    (by_hand.store.folder / "report.html").write_text("the report")
    for address in ("/", "/events", "/report", "/view.css"):
        reply = ask(server, f"HEAD {address}")
        assert (reply.status, reply.body) == (200, b"")
    assert (ask(server, "HEAD /nothing").status, ask(server, "HEAD /nothing").body) == (404, b"")


def test_a_body_is_not_taken_for_another_request(server: Server) -> None:
    inner = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
    outer = f"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(inner)}\r\n\r\n"
    assert exchange(server, (outer + inner).encode()).count(b"HTTP/1.0 ") == 1


@pytest.mark.parametrize("raw", [b"\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_request_ends_nothing(server: Server, raw: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    received = exchange(server, raw)
    assert b"Traceback" not in received
    assert ask(server, "GET /").status == 200
    assert capfd.readouterr().err == ""


def test_every_answer_keeps_browsers_from_doing_more(server: Server) -> None:
    for request in ("GET /", "GET /view.js", "GET /nothing", "HEAD /events", "GET /report", "POST /"):
        headers = ask(server, request).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control-")]
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
    icon = ask(server, "GET /favicon.ico")
    assert (icon.status, icon.body) == (204, b"")


def test_nothing_of_a_question_comes_back(server: Server) -> None:
    for request in ("GET /?q=shatter", "GET /shatter", "SHATTER /shatter", "GET /report?shatter=1"):
        lines = f"{request} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nReferer: shatter\r\nCookie: shatter\r\n\r\n"
        assert b"shatter" not in exchange(server, lines.encode()).lower()
    assert ask(server, "GET /?q=shatter").body == ask(server, "GET /").body


class Loaded(HTMLParser):
    """What a page loads, and what in it would run or style by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []
        self.ids += [given["id"]] if "id" in given else []


def test_the_page_loads_from_its_own_server_only_and_runs_nothing_inline(server: Server) -> None:
    page = Loaded()
    page.feed(ask(server, "GET /").body.decode())
    assert page.inline == []
    assert page.addresses == ["/page.css", "/view.css", "/view.js", "/report"]
    for address in page.addresses[:-1]:
        reply = ask(server, f"GET {address}")
        assert reply.status == 200
        assert not re.search(rb"https?://|@import|url\(", reply.body)
    script = ask(server, "GET /view.js").body.decode()
    assert ask(server, "GET /view.js").headers["content-type"].startswith("text/javascript")
    assert set(re.findall(r"(?:\$|show)\(\"([\w-]+)\"", script)) <= set(page.ids)


def test_the_script_makes_text_and_never_markup() -> None:
    script = files("rupert.report").joinpath("templates", "view.js").read_text(encoding="utf-8")
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function", script
    )


def test_the_command_refuses_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["view", str(tmp_path / "file"), "--no-browser"]) == 2
    assert capsys.readouterr().err == f"rupert: {str(tmp_path / 'file')!r} is a file; name the folder of `rupert run`\n"
    assert main(["view", str(tmp_path), "--port", "70000", "--no-browser"]) == 2
    assert "--port: 70000 is not valid" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(tmp_path), "--port", str(port), "--no-browser"]) == 2
    assert f"--port: {port} is not valid; somebody listens there" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told: list[bytes] = []

    def listen_and_interrupt() -> None:
        with connected(port) as page:
            page.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            while b'"waiting"' not in b"".join(told):
                told.append(page.recv(1 << 16))
                assert told[-1]
            told.append(str(time.monotonic()).encode())
            os.kill(os.getpid(), signal.SIGINT)
            page.recv(1)  # the connection stays until the server goes

    thread = threading.Thread(target=listen_and_interrupt)
    thread.start()
    assert main(["view", str(tmp_path / "not-there"), "--no-browser", "--port", str(port)]) == 0
    assert time.monotonic() - float(told[-1]) < 5
    thread.join()
    page = f"page  http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
    assert capfd.readouterr() == (f"{page}\nended; the study is left as it is\n", "")
    assert not (tmp_path / "not-there").exists()


def connected(port: int) -> socket.socket:
    """A connection to a server that may not listen yet."""
    for _ in range(200):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        time.sleep(0.05)
    raise AssertionError("nobody listens")
