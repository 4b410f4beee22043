"""What every page shares: one HTML file that loads nothing, runs its own scripts only and takes no text for markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from html import unescape
from importlib.resources import files
from typing import Any

from rupert.report.figures import Figure, plotly_script, template


def render(name: str, drawn: Sequence[Figure], scripts: Sequence[str] = (), **facts: Any) -> str:
    """A page as HTML.

    Args:
        name: of the template, which extends `frame.html`.
        drawn: the figures that it shows.
        scripts: files of templates that it runs beside those of every page.
        facts: what else the template speaks of.
    """
    plotly = plotly_script()
    sources = [_source(script) for script in ("page.js", *scripts)]
    return str(
        _environment()
        .get_template(name)
        .render(
            figures=drawn,
            style=_source("page.css"),
            plotly=_packed_script(plotly),
            scripts=sources,
            policy=_policy([plotly, *sources]),
            drawings=_drawings(drawn),
            **facts,
        )
    )


def duration(seconds: float) -> str:
    """Wall time for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def packed(value: Any) -> str:
    """A value as JSON, compressed, in letters that mean nothing to HTML; the same value gives the same letters."""
    return _packed(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


@cache
def _packed_script(script: str) -> str:
    return _packed(script)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 9, mtime=0)).decode()


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rupert.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = unescape  # what plotly takes for markup, as words
    return environment


def _source(name: str) -> str:
    return files("rupert.report").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """A content security policy under which these scripts run, no other does, and nothing is loaded from anywhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _drawings(drawn: Sequence[Figure]) -> str:
    """The figures as JSON that cannot end the script element that holds it."""
    panels = [
        {"id": f"{figure.name}-{number}", **_bare(json.loads(panel.to_json()))}
        for figure in drawn
        for number, panel in enumerate(figure.panels)
    ]
    themes = {"light": template("light"), "dark": template("dark")}
    text = json.dumps({"panels": panels, "templates": themes}, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _bare(panel: dict[str, Any]) -> dict[str, Any]:
    """Without its template: the page has each theme's once."""
    panel["layout"].pop("template", None)
    return panel
