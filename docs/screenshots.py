"""Makes the pictures of a page for docs and README, in both themes: docs/NAME.png and docs/NAME-dark.png.

`python docs/screenshots.py rupert-demo/report.html` takes the top of the demo's page as docs/demo-page.png;
`--part "figure:has(#harm-and-ability-0)" --name demo` one part of it. It needs Playwright, which `make setup` installs,
and a Chromium: one that is on the path, or the one that BROWSER_PATH names. Nothing is loaded from the network.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
THEMES: dict[Any, str] = {"light": "", "dark": "-dark"}
# Figures may be drawn when they come into sight: all are visited, and then the page is shown from its top again.
DRAWN = """
async () => {
  const later = (milliseconds) => new Promise((go) => setTimeout(go, milliseconds));
  for (const plot of document.querySelectorAll(".plot")) {
    if (!plot.checkVisibility()) continue;
    plot.scrollIntoView();
    for (let left = 500; left && !plot.querySelector(".main-svg"); left -= 1) await later(20);
  }
  scrollTo(0, 0);
  await document.fonts.ready;
}
"""


def main() -> None:
    """Take one picture a theme, and say where it is."""
    parser = argparse.ArgumentParser(description="Makes the pictures of a page for docs and README, in both themes.")
    parser.add_argument("page", type=Path, help="report.html, or another page of rupert")
    parser.add_argument("--name", default="demo-page", help="of the files (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1200, help="of the window, in pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=1800, help="from the top; 0: all of it (default: %(default)s)")
    parser.add_argument("--part", metavar="SELECTOR", help="take the first element that CSS finds so, and not the top")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        # Without its sandbox, which needs rights that a container does not have: the page is our own.
        browser = playwright.chromium.launch(executable_path=_executable(), args=["--no-sandbox", "--disable-gpu"])
        for theme, ending in THEMES.items():
            size: Any = {"width": arguments.width, "height": arguments.height or 1800}
            page = browser.new_page(viewport=size, color_scheme=theme, reduced_motion="reduce")
            page.goto(arguments.page.resolve(strict=True).as_uri())
            page.evaluate(DRAWN)
            path = FOLDER / f"{arguments.name}{ending}.png"
            _take(page, path, part=arguments.part, whole=not arguments.height)
            page.close()
            print(path)
        browser.close()


def _take(page: Page, path: Path, *, part: str | None, whole: bool) -> None:
    if part:
        page.locator(part).first.screenshot(path=path)
    else:
        page.screenshot(path=path, full_page=whole)


def _executable() -> str:
    found = os.environ.get("BROWSER_PATH", "") or next(filter(None, map(shutil.which, BROWSERS)), "")
    if not found:
        raise SystemExit("no Chromium was found; install one, or name it with BROWSER_PATH=/path/to/chromium")
    return found


if __name__ == "__main__":
    main()
