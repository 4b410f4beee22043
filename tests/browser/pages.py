"""The pages that are files, made by the code that makes them for users, of hostile text where it can hold any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rupert.cli.study_page import study_page
from rupert.records import Metric, Record
from rupert.report import break_cost, geometry
from rupert.report.break_cost import TITLES, Fall, Line
from rupert.report.geometry import COSINES, NORMS, Point
from rupert.report.page import Beside
from rupert.study.evidence import evidence

from .by_hand import HOSTILE

MODELS = (HOSTILE[1], HOSTILE[2])


def report_page(study: Path, path: Path, *, show_unsafe: bool = False) -> Path:
    """Of a study in a folder."""
    path.write_text(study_page(evidence(study), study, beside=Beside(show_unsafe=show_unsafe)), encoding="utf-8")
    return path


def geometry_page(folder: Path) -> Path:
    """Two models before and along an attack."""
    places = [(model, step) for model in MODELS for step in (0, 10)]
    metrics = [
        Metric(f"{name}/{model}/{step}", value, value - 0.05, value + 0.05, 6)
        for model, step in places
        for name, value in dict(zip((*COSINES, *NORMS), (-0.5, 0.25, 0.125, 0.5, 2.0, 3.0), strict=True)).items()
    ]
    settings: dict[str, Any] = {"num_batches": 3, "batch_size": 4, "components": [2, 3], "at": [0, 10]}
    settings |= {"harmful": HOSTILE[3], "dtypes": dict.fromkeys(MODELS, "float32"), "attack": {"seed": 0}}
    found = [{"model": model, "attack_step": step, "explained": [0.125, 0.0625]} for model, step in places]
    record = Record(
        stage="geometry",
        method="gram",
        settings=settings,
        model="both",
        model_hash="",
        metrics=tuple(metrics),
        report={"models": dict.fromkeys(MODELS, HOSTILE[0]), "measurements": found},
        seconds=61.0,
        environment={"python": HOSTILE[5]},
    )
    points = [
        Point(model, step, group, batch, batch + 0.5, -batch)
        for model, step in places
        for group in ("harmful", "benign")
        for batch in range(3)
    ]
    geometry.write_page(record, points, HOSTILE[4], folder / "geometry.html")
    return folder / "geometry.html"


def break_cost_page(folder: Path) -> Path:
    """One model that breaks, and one that does not within what was spent."""
    lines = [line(label, *key, broken=label == MODELS[0]) for label in MODELS for key in TITLES]
    break_cost.write_page(lines, {"broken": HOSTILE[0]}, HOSTILE[4], folder / "break_cost.html")
    return folder / "break_cost.html"


def line(label: str, of: Any, unit: Any, *, broken: bool) -> Line:
    """A curve of two places."""
    falls = (Fall(10.0, 4, 2 * broken, 1 - 0.5 * broken, 0.2, 1.0), Fall(20.0, 2, 0, 1 - 0.5 * broken, 0.2, 1.0))
    known = {"median": 10.0, "low": 10.0, "p": 0.25} if broken else dict.fromkeys(("median", "low", "p"))
    return Line(label=label, of=of, unit=unit, n=4, broken=2 * broken, spent=20.0, high=None, falls=falls, **known)
