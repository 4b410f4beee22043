"""What holds for every page, whoever made it: it can be read, reached and heard, and does nothing unasked."""

from __future__ import annotations

from typing import Any

from .chromium import Watched

NARROW, WIDE = 400, 1200
SERIOUS = ("serious", "critical")
# Nothing but colours is another in the dark.
THEMES: dict[Any, dict[str, Any]] = {
    "light": {},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}},
}

# What a user can act on, but for what is not shown; of a group of radio buttons the keyboard reaches the chosen one.
CONTROLS = """
() => {
  window.controls = [...document.querySelectorAll("body *")].filter((one) =>
    one.tabIndex >= 0 && !one.disabled && one.checkVisibility({ visibilityProperty: true })
    && !(one.type === "radio" && !one.checked && document.querySelector(`input[name="${one.name}"]:checked`)));
  document.activeElement.blur();
  return window.controls.length;
}
"""
# Some appear slowly, and so are waited for.
MARKED = """
() => {
  const style = getComputedStyle(document.activeElement);
  let opacity = 1;
  for (let one = document.activeElement; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
  return (style.outlineStyle !== "none" || style.boxShadow !== "none") && opacity > 0;
}
"""


def is_accessible(seen: Watched) -> None:
    """Assert that axe-core finds nothing serious, in both themes."""
    from axe_playwright_python.sync_playwright import Axe

    for theme, rules in THEMES.items():
        seen.page.emulate_media(color_scheme=theme)
        found = Axe().run(seen.page, options={"resultTypes": ["violations"], **rules}).response["violations"]
        assert [told(one) for one in found if one["impact"] in SERIOUS] == [], theme
    seen.page.emulate_media(color_scheme="light")


def told(violation: dict[str, Any]) -> tuple[str, list[str]]:
    """What is wrong, and where."""
    return violation["help"], [f"{node['html'][:200]}: {node['failureSummary']}" for node in violation["nodes"][:5]]


def fits_a_phone(seen: Watched) -> None:
    """Assert that nothing but tables has to be scrolled sideways in a narrow window."""
    seen.page.set_viewport_size({"width": NARROW, "height": 800})
    seen.until("() => document.documentElement.scrollWidth <= innerWidth")
    seen.page.set_viewport_size({"width": WIDE, "height": 800})
    seen.until("() => document.documentElement.scrollWidth <= innerWidth")


def is_reached_by_keyboard(seen: Watched) -> None:
    """Assert that Tab comes to everything that a user can act on, and that one sees where it is."""
    count = seen.tell(CONTROLS)
    missed = set(range(count))
    for _ in range(count + 20):  # what scrolls is reached too
        seen.page.keyboard.press("Tab")
        place = seen.tell("controls.indexOf(document.activeElement)")
        missed.discard(place)
        if place >= 0:
            seen.until(MARKED)
    assert count
    assert [seen.tell("(place) => controls[place].outerHTML.slice(0, 120)", place) for place in missed] == []


# What a page that was broken into would do next. The browser tells a little later what the policy forbids.
BREACH = """
async (address) => {
  const broken = [];
  const note = (event) => broken.push(event.effectiveDirective);
  document.addEventListener("securitypolicyviolation", note);
  const add = (name, given) => document.body.append(Object.assign(document.createElement(name), given));
  add("script", { textContent: "window.attacked = 'script'" });
  add("script", { src: `${address}/a.js` });
  add("img", { src: `${address}/a.png` });
  add("iframe", { src: `${address}/a.html` });
  add("link", { rel: "stylesheet", href: `${address}/a.css` });
  document.body.insertAdjacentHTML("beforeend", "<b onclick='window.attacked = 1' class='attack'></b>");
  document.querySelector(".attack").click();
  await fetch(`${address}/a.json`).catch(() => null);
  const expected = ["script-src-elem", "img-src", "frame-src", "style-src-elem", "script-src-attr", "connect-src"];
  for (let left = 250; left && !expected.every((one) => broken.includes(one)); left -= 1)
    await new Promise((later) => setTimeout(later, 20));
  return expected.filter((one) => !broken.includes(one));
}
"""


def holds_against_what_is_injected(seen: Watched) -> None:
    """Assert that the policy lets no script run and nothing load, whatever gets into the page; it is spent then."""
    assert seen.tell(BREACH, "http://rupert.example") == []
    assert seen.tell("window.attacked") is None
    assert seen.outside == []
