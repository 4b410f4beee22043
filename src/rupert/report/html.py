"""What every page shares: one HTML file that loads nothing, runs its own scripts only and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from rupert.errors import MissingDependency
from rupert.report.figures import Figure, plotly_script, template


def render(name: str, drawn: Sequence[Figure], **facts: Any) -> str:
    """A page as HTML.

    Args:
        name: of the template, which extends `frame.html`.
        drawn: the figures that it shows.
        facts: what else the template speaks of.

    Raises:
        MissingDependency: plotly or jinja2 is not installed.
    """
    scripts = {"plotly": plotly_script(), "page": _source("page.js")}
    return str(
        _environment()
        .get_template(name)
        .render(
            figures=drawn,
            style=_source("page.css"),
            scripts=scripts,
            policy=_policy(scripts.values()),
            drawings=_drawings(drawn),
            **facts,
        )
    )


def duration(seconds: float) -> str:
    """Wall time for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingDependency("jinja2", "report") from None
    return Environment(
        loader=PackageLoader("rupert.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
        {"id": f"{figure.name}-{number}", **json.loads(panel.to_json())}
        for figure in drawn
        for number, panel in enumerate(figure.panels)
    ]
    text = json.dumps({"panels": panels, "templates": {"light": template("light"), "dark": template("dark")}})
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
