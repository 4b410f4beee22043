"""The pages that are files, in a real browser: they draw, do nothing unasked, and everybody can use them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .by_hand import HOSTILE
from .checks import fits_a_phone, holds_against_what_is_injected, is_accessible, is_reached_by_keyboard
from .chromium import Watched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("report", "geometry", "break-cost")
# Shapes of some extent among a plot's marks: a plot of nothing has axes, and none of these.
DRAWN = """
(id) => {
  const plot = document.getElementById(id);
  plot.scrollIntoView();
  const marks = [...plot.querySelectorAll(".mlayer path, .mlayer image")];
  return marks.some((mark) => mark.getBoundingClientRect().width + mark.getBoundingClientRect().height > 1);
}
"""
# Labels of axes are bright on a dark ground, and dark on a bright one.
INK = """
(theme) => {
  const labels = [...document.querySelectorAll(".plot :is(.xtick, .ytick) text")];
  const bright = (label) => Math.max(...getComputedStyle(label).fill.match(/[0-9.]+/g).slice(0, 3)) > 128;
  return labels.length > 0 && labels.every((label) => bright(label) === (theme === "dark"));
}
"""


@pytest.fixture(scope="module", params=NAMES)
def seen(request: pytest.FixtureRequest, browser: Browser, address: Callable[[str], str]) -> Iterator[Watched]:
    """Each page in turn, opened once for all tests of it."""
    with watched(browser, address(request.param)) as opened:
        yield opened


def plots(seen: Watched) -> list[str]:
    """The identifiers of the plots that the page has; all of them are shown then."""
    for choice in seen.page.locator("select[data-figure]").all():
        choice.select_option("")
    drawings = json.loads(seen.page.locator("#drawings").text_content() or "")
    return [panel["id"] for panel in drawings["panels"]]


def test_every_figure_draws(seen: Watched) -> None:
    found = plots(seen)
    assert found
    assert found == seen.tell("[...document.querySelectorAll('.plot')].map((one) => one.id)")
    for plot in found:
        seen.until(DRAWN, plot)
    seen.did_nothing()


def test_figures_follow_the_theme(seen: Watched) -> None:
    for theme in ("dark", "light"):
        seen.page.emulate_media(color_scheme=theme)
        seen.until(INK, theme)
    seen.did_nothing()


def test_nothing_is_wider_than_a_phone(seen: Watched) -> None:
    fits_a_phone(seen)
    seen.did_nothing()


def test_the_keyboard_reaches_everything(seen: Watched) -> None:
    is_reached_by_keyboard(seen)
    seen.did_nothing()


def test_axe_finds_nothing_serious(seen: Watched) -> None:
    is_accessible(seen)


def test_paper_is_white_in_both_themes(seen: Watched) -> None:
    seen.page.emulate_media(color_scheme="dark")
    seen.until(INK, "dark")
    assert seen.page.pdf().startswith(b"%PDF")  # for which the page draws on white, and then again for the screen
    seen.until(INK, "dark")
    seen.page.emulate_media(color_scheme="dark", media="print")
    style = "getComputedStyle(document.body).backgroundColor"
    assert seen.tell(style) == "rgb(255, 255, 255)"
    assert not any(control.is_visible() for control in seen.page.locator(".modebar, button, select, input").all())
    seen.page.emulate_media(color_scheme="light", media="screen")
    seen.did_nothing()


def test_hostile_names_are_shown_as_text(seen: Watched) -> None:
    text = seen.tell("document.body.innerText")
    shown = [hostile for hostile in HOSTILE if " ".join(hostile.split()) in " ".join(text.split())]
    assert shown
    assert seen.page.locator("[onerror], [onload], [ontoggle], [onfocus], iframe, base").count() == 0
    seen.did_nothing()


def test_figures_are_downloaded(seen: Watched, tmp_path: Path) -> None:
    """Of one plot a figure: a browser asks before a page saves more than ten files."""
    for number, plot in enumerate(name for name in plots(seen) if name.endswith("-0")):
        for kind in ("csv",) if number else ("csv", "svg", "png"):
            button = f"button[data-panel='{plot}'][data-format='{kind}']"
            content = downloaded(seen, button, tmp_path / f"{plot}.{kind}")
            assert content.startswith({"csv": b"panel,", "svg": b"<svg", "png": b"\x89PNG"}[kind])
            if kind == "csv":
                assert len(content.splitlines()) > 1
    seen.did_nothing()


def downloaded(seen: Watched, button: str, path: Path) -> bytes:
    """What a button gives, which is to be called as the path is."""
    with seen.page.expect_download() as waiting:
        seen.page.click(button)
    assert waiting.value.suggested_filename == path.name
    waiting.value.save_as(path)
    return path.read_bytes()


def test_the_policy_holds_against_what_is_injected(seen: Watched) -> None:
    """The last one, because the page is spent."""
    holds_against_what_is_injected(seen)
