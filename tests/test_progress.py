"""How far a piece of work is: one bar on standard error, or news to who listens, here or in another process."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rupert import terminal
from rupert.study.running.progress import file_listener, read_progress
from rupert.terminal import Progress, bar, listening, progress_console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; it stands still unless a test moves it."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def heard(clock: list[float]) -> Iterator[list[Progress]]:
    """What a listener is told for the time of a test."""
    news: list[Progress] = []
    with listening(news.append):
        yield news


def test_a_listener_hears_the_beginning_and_the_end(heard: list[Progress]) -> None:
    with bar("judging", 3, done=1) as shown:
        assert heard == [Progress("judging", 1, 3)]
        shown.advance()
        shown.update(note="slow")
        shown.advance()
    assert heard == [Progress("judging", 1, 3), Progress("judging", 3, 3, "slow")]


def test_a_listener_hears_four_times_a_second_at_most(heard: list[Progress], clock: list[float]) -> None:
    with bar("training", 100) as shown:
        for _ in range(100):
            clock[0] += 0.0625
            shown.advance()
    assert [news.done for news in heard] == [0, *range(4, 101, 4), 100]


def test_a_listener_hears_how_far_a_work_that_failed_was(heard: list[Progress]) -> None:
    with contextlib.suppress(ZeroDivisionError), bar("training", 3) as shown:
        shown.advance()
        shown.update(done=1 / 0)
    assert heard[-1] == Progress("training", 1, 3)


def test_a_total_may_become_known_later(heard: list[Progress]) -> None:
    with bar("training", None) as shown:
        shown.update(done=2, total=8)
    assert heard == [Progress("training", 0, None), Progress("training", 2, 8)]


def test_who_is_silent_is_not_heard(heard: list[Progress]) -> None:
    with bar("training", 3, silent=True) as shown:
        shown.advance()
    assert shown.progress.done == 1
    assert heard == []


def test_the_innermost_listener_hears(heard: list[Progress]) -> None:
    inner: list[Progress] = []
    with listening(inner.append), bar("inner", 1):
        pass
    with bar("outer", 1):
        pass
    assert {news.title for news in inner} == {"inner"}
    assert {news.title for news in heard} == {"outer"}


def test_another_thread_has_a_listener_of_its_own(heard: list[Progress]) -> None:
    others: list[Progress] = []

    def work() -> None:
        with listening(others.append), bar("elsewhere", 1):
            pass

    thread = threading.Thread(target=work)
    with bar("here", 1):
        thread.start()
        thread.join()
    assert {news.title for news in heard} == {"here"}
    assert {news.title for news in others} == {"elsewhere"}


@pytest.mark.usefixtures("terminal", "heard")
def test_who_is_heard_draws_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("judging", 3) as shown:
        shown.advance()
    assert capfd.readouterr() == ("", "")


def test_what_is_no_terminal_gets_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("judging", 3) as shown:
        shown.advance()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("terminal")
def test_a_bar_says_title_count_and_note(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("gradients of [bold]", 8, done=1) as shown:
        shown.update(done=3, note="loss [0.5]")
    output, errors = capfd.readouterr()
    assert output == ""
    assert "gradients of [bold]" in errors
    assert "3/8" in errors
    assert "loss [0.5]" in errors


@pytest.mark.usefixtures("terminal")
def test_a_bar_is_seen_while_others_are_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    hidden = io.StringIO()
    with bar("training", 3) as shown, contextlib.redirect_stderr(hidden):
        print("theirs", file=sys.stderr)
        with bar("looking back", 5):
            pass
        shown.advance()
        progress_console().print("a notice")
        before = capfd.readouterr().err
    assert hidden.getvalue() == "theirs\n"
    assert [text for text in ("training", "looking back", "a notice") if text not in before] == []


@pytest.mark.usefixtures("terminal")
def test_the_console_finds_standard_error_anew_after_a_bar() -> None:
    with bar("training", 3):
        pass
    elsewhere = io.StringIO()
    with contextlib.redirect_stderr(elsewhere):
        progress_console().print("a notice", highlight=False)
    assert "a notice" in elsewhere.getvalue()


def test_news_are_left_in_a_file(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    with listening(file_listener(path)), bar("ünïcödé", None) as shown:
        assert read_progress(path) == Progress("ünïcödé", 0, None)
        clock[0] += 1
        shown.update(done=0.5, total=2, note="half")
        assert read_progress(path) == Progress("ünïcödé", 0.5, 2, "half")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"title": "a"}', '{"title": "a", "done": [], "total": 1, "note": ""}', "\xff"]
)
def test_news_that_are_damaged_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(text.encode("latin-1"))
    assert read_progress(path) is None


def test_a_work_goes_on_where_news_cannot_be_left(tmp_path: Path) -> None:
    with listening(file_listener(tmp_path / "nowhere" / "progress.json")), bar("training", 1) as shown:
        shown.advance()
    assert shown.progress.done == 1
