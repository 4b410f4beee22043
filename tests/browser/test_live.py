"""The page of `rupert view`, in a real browser: it follows a study as it goes on, and outlives its server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rupert.cli.viewing import news as telling
from rupert.cli.viewing.news import News
from rupert.cli.viewing.server import Server
from rupert.cli.viewing.state import Viewer
from rupert.study.running.progress import file_listener
from rupert.terminal import Progress

from .by_hand import HOSTILE, ByHand
from .checks import fits_a_phone, holds_against_what_is_injected, is_accessible, is_reached_by_keyboard
from .chromium import Watched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHOWS = """
([id, text]) => {
  const found = document.getElementById(id);
  return found.checkVisibility() && found.innerText.includes(text);
}
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking does not wait for its share of the time."""
    monkeypatch.setattr(telling, "PATIENCE", 0.0)


@pytest.fixture
def running(tmp_path: Path) -> ByHand:
    """A study that has not begun."""
    return ByHand(tmp_path / "s")


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[Server]:
    """The server of `rupert view`, within."""
    news = News(Viewer(folder).look, every=0.02)
    with Server(port, folder, news) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            news.stop()
            server.shutdown()
            thread.join()


@pytest.fixture
def seen(browser: Browser, running: ByHand) -> Iterator[Watched]:
    """The page of that study, open."""
    with served(running.folder) as server, watched(browser, server.address) as opened:
        opened.tell("window.unchanged = true")  # which a page that is loaded again would not know
        opened.tell("spoken.every = 50")  # milliseconds in which a screen reader is told nothing more
        yield opened


def shows(seen: Watched, **expected: str) -> None:
    """Wait until elements, by their ids, show these texts."""
    for name, text in expected.items():
        seen.until(SHOWS, [name, text])


def test_a_study_is_followed_from_before_its_beginning_to_its_end(seen: Watched, running: ByHand) -> None:
    shows(seen, headline="Waiting for the study to begin.", connection="connected")
    running.begin()
    shows(seen, headline="0 of 24 stages are done.", study="study", model="potionworld, seed 0", cells="undefended")
    hardening = running.node("defend", "none")
    with running.at_work(hardening, Progress("hardening", 3, 20, "loss 1.25")):
        shows(seen, works="hardening 3 of 20, loss 1.25")
        file_listener(running.task(hardening).progress)(Progress("hardening", 4, 20, ""))
        shows(seen, works="hardening 4 of 20")
        assert seen.tell("document.querySelector('#works [role=progressbar]').ariaValueNow") == "20"
    for number, node in enumerate(running.graph.nodes, start=1):
        running.finish(node, harm=0.9 if "fine_tune" in node.label else 0.0)
        if number in (1, 12):
            shows(seen, headline=f"{number} of 24 stages are done.")
    shows(seen, headline="All 24 stages are done.", cells="90", news="All stages are done.")
    assert seen.tell("document.querySelectorAll('#cells td.done').length") == 12
    assert seen.tell("window.unchanged")
    seen.did_nothing()


def test_what_is_chosen_stays_while_the_study_goes_on(seen: Watched, running: ByHand) -> None:
    running.begin()
    first, second, third, *_ = running.graph.nodes
    running.finish(first)
    running.fail(second, "out of memory")
    shows(seen, failed="out of memory")
    seen.page.select_option("#filter", "done")
    shows(seen, filtered="1 of 24 stages")
    seen.page.focus("#filter")
    running.finish(third)
    shows(seen, filtered="2 of 24 stages")
    assert set(seen.page.locator("#stages td.state").all_inner_texts()) == {"done"}
    assert seen.tell("document.activeElement.id") == "filter"
    assert seen.page.input_value("#filter") == "done"
    running.finish(second)
    seen.until("() => document.getElementById('failures-section').hidden")
    seen.did_nothing()


def test_it_outlives_its_server(browser: Browser, running: ByHand) -> None:
    running.begin()
    with ExitStack() as until_the_end:
        with served(running.folder) as server:
            seen = until_the_end.enter_context(watched(browser, server.address))
            shows(seen, connection="connected", headline="0 of 24")
        shows(seen, connection="not connected since", headline="0 of 24")
        running.finish(running.graph.nodes[0])
        with served(running.folder, server.port):
            shows(seen, connection="connected", headline="1 of 24")
        assert seen.dialogs == seen.outside == []  # the console tells of the connection that was refused


def hostile(running: ByHand) -> None:
    """Text that attacks, wherever a study can hold any."""
    running.begin()
    path = running.folder / "study.json"
    described = json.loads(path.read_text())
    described["study"] = HOSTILE[0]
    path.write_text(json.dumps(described))
    for node, text in zip(running.graph.nodes[1:], HOSTILE[3:5], strict=False):
        running.fail(node, text)


def test_hostile_text_is_shown_as_text(seen: Watched, running: ByHand) -> None:
    hostile(running)
    with running.at_work(running.graph.nodes[0], Progress(HOSTILE[2], 1, 2, HOSTILE[1])):
        shows(seen, study=HOSTILE[0], failed=HOSTILE[3], works=f"{HOSTILE[2]} 1 of 2, {HOSTILE[1]}")
        shows(seen, failed="\\x1b[2J\\x1b]0;attacked\\x07 \\u202eright to left\\u2066")
        seen.page.hover("#cells td")
        assert seen.tell("document.querySelectorAll('#failed script, #works img, h1 script, iframe, base').length") == 0
        seen.did_nothing()


def test_everybody_can_use_it_in_each_of_its_states(seen: Watched, running: ByHand) -> None:
    def is_usable() -> None:
        is_accessible(seen)
        fits_a_phone(seen)
        is_reached_by_keyboard(seen)

    shows(seen, headline="Waiting for the study to begin.")
    is_accessible(seen)
    hostile(running)
    running.finish(running.graph.nodes[0])
    with running.at_work(running.node("evaluate", "none-none"), Progress("answering", 1, None, "")):
        shows(seen, works="answering", failed="ontoggle")
        is_usable()
    for node in running.graph.nodes[1:]:
        running.finish(node)
    (running.folder / "report.html").write_text("<!doctype html>")
    shows(seen, headline="All 24 stages are done.", report="Open the report")
    is_usable()
    seen.did_nothing()


def test_the_report_is_opened_from_it(browser: Browser, study: ByHand, address: Callable[[str], str]) -> None:
    address("report")
    with served(study.folder) as server, watched(browser, server.address) as seen:
        seen.page.click("text=Open the report")
        seen.page.wait_for_url("**/report")
        seen.page.locator(".plot").first.scroll_into_view_if_needed()
        seen.until("() => document.querySelectorAll('.plot .mlayer path').length > 0")
        assert seen.tell("origin") == "null"  # a stranger to the live page, whoever wrote it
        seen.did_nothing()


def test_the_policy_holds_against_what_is_injected(seen: Watched) -> None:
    shows(seen, connection="connected")
    holds_against_what_is_injected(seen)
