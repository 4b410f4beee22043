"""Tests in a real browser; where a machine has none, pytest says at its end that they were not run, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pytest

from .by_hand import ByHand
from .chromium import ARGUMENTS, executable, hindrance
from .pages import break_cost_page, geometry_page, report_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HINDRANCE = hindrance()
collect_ignore_glob = ["test_*.py"] if HINDRANCE else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Not in the header, which is not shown with -q."""
    if HINDRANCE:
        terminalreporter.write_line(f"tests/browser was not run: {HINDRANCE}", yellow=True)


# Of the package and not of the session: as long as Playwright runs, no other test could run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="package")
def study(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """A study that is done, and whose answers are hostile."""
    made = ByHand(tmp_path_factory.mktemp("browser") / "s")
    made.begin()
    for node in made.graph.nodes:
        broken = "fine_tune" in node.label
        made.finish(node, harm=0.9 if broken else 0.0, ability=0.1 if broken and node.seed is not None else 0.8)
    return made


@pytest.fixture(scope="package")
def address(study: ByHand, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Gives the address of a page that is a file, by its name; it is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("pages")
    makers = {
        "report": lambda: report_page(study.folder, study.folder / "report.html"),
        "unsafe": lambda: report_page(study.folder, folder / "unsafe.html", show_unsafe=True),
        "geometry": lambda: geometry_page(folder),
        "break-cost": lambda: break_cost_page(folder),
    }
    return cache(lambda name: makers[name]().as_uri())
