"""What the server of the live page answers, to whom, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.cli.viewing import server as serving
from rupert.cli.viewing.server import Server
from rupert.cli.viewing.state import Viewer

from .view_by_hand import ByHand, Listener, Reply, ask, exchange, served

pytestmark = pytest.mark.usefixtures("at_once")


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
