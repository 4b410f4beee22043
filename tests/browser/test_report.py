"""What a reader does with the report, in a real browser: choose defenses, read answers, uncover what is hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from .by_hand import HOSTILE, KINDS
from .chromium import Watched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ANSWERS, COUNT = "#answers-list > li", "#answers-count"
# Of each of twelve models; characters that act unseen are shown by their names.
PLAIN = [text for text, kind in zip(HOSTILE, KINDS, strict=True) if kind != "harmful" and "\x1b" not in text]
HARMFUL = HOSTILE[KINDS.index("harmful")]


@pytest.fixture(scope="module")
def seen(browser: Browser, address: Callable[[str], str]) -> Iterator[Watched]:
    """The report as it is written unasked."""
    with watched(browser, address("report")) as opened:
        opened.until("() => document.querySelector('#answers-list li')")
        yield opened


@pytest.fixture(scope="module")
def unsafe(browser: Browser, address: Callable[[str], str]) -> Iterator[Watched]:
    """The report that was made with --show-unsafe."""
    with watched(browser, address("unsafe")) as opened:
        opened.until("() => document.querySelector('#answers-list li')")
        yield opened


def choose(seen: Watched, **choices: str) -> None:
    """Choose in the browser of answers; what is not named stays."""
    for name, label in choices.items():
        seen.page.select_option(f"#answers-{name}", label=label)


def drawn_lines(seen: Watched, plot: str) -> int:
    """How many lines a plot has now."""
    seen.page.locator(f"#{plot}").scroll_into_view_if_needed()
    seen.until("(id) => document.querySelector(`#${id} .mlayer`)", plot)
    return int(seen.page.locator(f"#{plot} .mlayer path.js-line").count())


def test_a_defense_is_left_out_of_figures_and_tables(seen: Watched) -> None:
    every = drawn_lines(seen, "harm-and-ability-0")
    seen.page.uncheck("#defense-filter [value=seam]")
    rows = "table[data-table=numbers] tr[data-defense"
    assert not any(row.is_visible() for row in seen.page.locator(f"{rows}=seam]").all())
    assert all(row.is_visible() for row in seen.page.locator(f"{rows}=vaccine]").all())
    fewer = drawn_lines(seen, "harm-and-ability-0")
    assert 0 < fewer < every
    assert not seen.page.locator(".panel[data-defense=seam]").first.is_visible()
    seen.page.click("#defense-filter-all")
    assert all(row.is_visible() for row in seen.page.locator(f"{rows}=seam]").all())
    assert drawn_lines(seen, "harm-and-ability-0") == every
    seen.did_nothing()


def test_answers_are_found_by_defense_and_attack(seen: Watched) -> None:
    choose(seen, defense="any", attack="any", change="anything")
    assert seen.page.inner_text(COUNT).startswith("72 of 72 requests fit")
    assert seen.page.locator(ANSWERS).count() < 72
    while seen.page.is_visible("#answers-more"):
        seen.page.click("#answers-more")
    assert seen.page.locator(ANSWERS).count() == 72
    choose(seen, defense="seam", attack="benign")
    assert seen.page.inner_text(COUNT).startswith("6 of 72 requests fit")
    assert {found.get_attribute("data-defense") for found in seen.page.locator(ANSWERS).all()} == {"seam"}
    assert {found.get_attribute("data-attack") for found in seen.page.locator(ANSWERS).all()} == {"benign"}
    choose(seen, change="the kind of answer")
    assert seen.page.inner_text(COUNT).startswith("0 of 72 requests fit")
    assert seen.page.locator(ANSWERS).count() == 0
    seen.did_nothing()


def test_hostile_answers_are_text(seen: Watched) -> None:
    choose(seen, defense="seam", attack="benign", change="anything")
    said = seen.page.locator("#answers-list .reply .said").all_text_contents()
    assert set(PLAIN) <= set(said)
    assert not any("\x1b" in text or "\u202e" in text for text in said)
    assert any("right to left" in text for text in said)
    assert seen.page.locator("#answers-list :is(script, img, svg, iframe, base, [onfocus], [ontoggle])").count() == 0
    seen.page.locator("#answers-list .said").first.hover()
    seen.did_nothing()


def test_what_is_held_to_be_harmful_is_not_in_the_file(seen: Watched) -> None:
    choose(seen, defense="seam", attack="benign", change="anything")
    assert seen.page.locator("#answers-list .reply .redacted").count() == 2  # before and after
    assert HARMFUL not in seen.page.locator("#answers-list .reply").all_text_contents()
    assert seen.page.locator("#answers-list .unsafe").count() == 0


def test_where_it_is_asked_for_it_is_behind_a_click(unsafe: Watched) -> None:
    choose(unsafe, defense="seam", attack="benign", change="anything")
    hidden = unsafe.page.locator("#answers-list .unsafe")
    assert hidden.count() == 2
    text = hidden.first.locator(".said")
    assert text.text_content() == HARMFUL
    assert not text.is_visible()
    hidden.first.locator("summary").click()
    assert text.is_visible()
    unsafe.did_nothing()


def test_a_number_leads_to_where_it_comes_from(seen: Watched) -> None:
    link = seen.page.locator("table[data-table=numbers] a").first
    link.click()
    stage = seen.page.locator(link.get_attribute("href") or "")
    stage.wait_for(state="visible")
    assert "rupert eval" in stage.inner_text()
    seen.did_nothing()
