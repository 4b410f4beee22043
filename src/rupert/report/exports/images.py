"""Figures as SVG and PDF for papers, drawn by kaleido in a browser of this machine that loads nothing from outside."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from rupert.errors import MissingDependency, RunError, UsageError
from rupert.report.figures import Figure, template

ImageFormat = Literal["svg", "pdf"]

WIDTH, HEIGHT = 640, 420  # pixels of one panel: two thirds of a page's width in its usual size
REMEDY = "install Chrome or Chromium, or name one with BROWSER_PATH=/path/to/chromium"


def drawings(figures: Sequence[Figure]) -> dict[str, dict[str, Any]]:
    """Every panel as JSON values, for paper: on white, in a font that every machine has.

    Returns:
        the panel's name -> plotly's data and layout.
    """
    return {
        f"{figure.name}-{number}" if len(figure.panels) > 1 else figure.name: _for_paper(panel)
        for figure in figures
        for number, panel in enumerate(figure.panels, start=1)
    }


def _for_paper(panel: Any) -> dict[str, Any]:
    drawn: dict[str, Any] = json.loads(panel.to_json())
    look = template("light")
    layout = look["layout"] | {"paper_bgcolor": "white", "plot_bgcolor": "white"}
    layout["font"] = layout["font"] | {"family": "Helvetica, Arial, sans-serif"}
    drawn["layout"]["template"] = {**look, "layout": layout}
    return drawn


def images(drawn: Mapping[str, dict[str, Any]], formats: Sequence[ImageFormat]) -> dict[str, bytes]:
    """Each panel in each format: the name of a file -> what goes into it.

    Raises:
        MissingDependency: kaleido is not installed.
        UsageError: there is no browser, or it does not start.
        RunError: the browser stopped, or a figure could not be drawn.
    """
    try:
        import kaleido
        from kaleido import errors
    except ImportError:
        raise MissingDependency("kaleido", "figures") from None
    try:
        # Without mathjax, which would be loaded from the network.
        return asyncio.run(_draw(partial(kaleido.Kaleido, mathjax=False), drawn, formats))
    except (errors.ChromeNotFoundError, errors.BrowserFailedError, FileNotFoundError, PermissionError):
        named = os.environ.get("BROWSER_PATH", "")
        tried = f"BROWSER_PATH: {named!r} is no browser that starts" if named else "no Chrome or Chromium was found"
        raise UsageError(f"--format svg, pdf: {tried}; {REMEDY}") from None
    except (errors.BrowserClosedError, errors.KaleidoError, errors.JavascriptError, TimeoutError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"--format svg, pdf: a figure could not be drawn ({reason}); repeat the command") from None


async def _draw(
    browser: Callable[[], Any], drawn: Mapping[str, dict[str, Any]], formats: Sequence[ImageFormat]
) -> dict[str, bytes]:
    """All in one browser, because starting it takes longest."""
    async with browser() as running:
        return {
            f"{name}.{kind}": await running.calc_fig(panel, {"format": kind, "width": WIDTH, "height": HEIGHT})
            for name, panel in drawn.items()
            for kind in formats
        }
