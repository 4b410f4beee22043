"""The Chromium of this machine, and pages in it that tell everything that they tried to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--no-sandbox",  # which needs rights that a container does not have; the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PACKAGES = ("playwright", "axe_playwright_python")
SIZE: Any = {"width": 1200, "height": 800}


def executable() -> str:
    """The browser that is run; empty where there is none. `BROWSER_PATH` names one, as for figures."""
    return os.environ.get("BROWSER_PATH", "") or next(filter(None, map(shutil.which, NAMES)), "")


def hindrance() -> str:
    """Why these tests cannot be run here; empty where they can."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return f"{missing[0]} is not installed; `make setup` installs it"
    return "" if executable() else "no Chromium was found; install one, or name it with BROWSER_PATH=/path/to/chromium"


@dataclass
class Watched:
    """A page, and what it did beside being shown.

    Attributes:
        page: Playwright's.
        own: the address that it may load, with all below it.
        errors: what the console shows in red, and errors that nobody caught.
        outside: addresses that it asked for and did not get.
        dialogs: what was said in dialogs, and addresses of windows that were opened.
    """

    page: Page
    own: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def refuse(self, route: Route) -> None:
        """Nothing is loaded but what is the page's own."""
        if route.request.url.startswith(self.own):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def dismiss(self, dialog: Dialog) -> None:
        """A dialog is noted, and holds nothing up."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def did_nothing(self) -> None:
        """Assert that it only showed what it is to show."""
        assert (self.errors, self.outside, self.dialogs) == ([], [], [])
        assert self.page.evaluate("window.attacked") is None

    def tell(self, script: str, argument: Any = None) -> Any:
        """What a script says in the page."""
        return self.page.evaluate(script, argument)

    def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a function of JavaScript says so.

        Playwright's own waiting evaluates text within the page, which a content security policy forbids.
        """
        self.page.evaluate(WAITING.replace("CONDITION", condition), argument)


WAITING = """
(argument) => new Promise((found, failed) => {
  const condition = CONDITION;
  const look = (left) => {
    if (condition(argument)) found();
    else if (left) setTimeout(look, 20, left - 1);
    else failed(new Error(`never came true: ${condition}`));
  };
  look(500);
})
"""


@contextmanager
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    """A page that is open within, in a profile of its own; it may load what begins with its address."""
    context = browser.new_context(viewport=SIZE, color_scheme="light", accept_downloads=True, reduced_motion="reduce")
    page = context.new_page()
    seen = Watched(page, address)
    context.route("**/*", seen.refuse)
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("dialog", seen.dismiss)
    context.on("page", lambda opened: seen.dialogs.append(opened.url))
    try:
        page.goto(address)
        yield seen
    finally:
        context.close()
