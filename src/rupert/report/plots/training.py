"""Training curves: how each hardening and each attack went, as far as the records have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rupert.evidence import Curve, Evidence, Origin
from rupert.report.figures import COLOURS, MANY, MEASURE, Figure, drawing, layout_of, on_screen
from rupert.report.tables import attack_title, defense_title

POINTS = 60  # of one curve on the page: more than that many are taken together, a mean for each run of steps
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # of seeds


@dataclass(frozen=True, slots=True)
class _Course:
    """A curve, and whose it is."""

    name: str
    seed: int | None
    curve: Curve


def training(found: Evidence) -> Figure | None:
    """One panel for each quantity of each defense, a line a seed; one for the losses of the attacks on it."""
    hardenings = _grouped(found, "defend")
    attacks = _grouped(found, "attack")
    panels: dict[int, tuple[str, Any]] = {}
    for defense in found.defenses:
        drawn = [_hardening(defense, courses) for courses in _by_quantity(hardenings.get(defense, []))]
        drawn += [_attacks(defense, courses) for courses in _by_quantity(attacks.get(defense, []))]
        panels |= {len(panels) + number: (defense, panel) for number, panel in enumerate(drawn)}
    if not panels:
        return None
    of, shown = zip(*panels.values(), strict=True)
    text = (
        f"Each curve is one stage's own record; where it has more than {POINTS} steps, each point is the mean of as "
        "many steps as make that many points. Scales differ from panel to panel. A curve that ends low says that the "
        "training did what it was told, not that the defense holds."
    )
    return Figure("training", "Training curves", text, tuple(shown), tuple(of))


def _grouped(found: Evidence, kind: str) -> dict[str, list[_Course]]:
    """The curves of all stages of a kind, by the defense; each stage once."""
    courses: dict[str, list[_Course]] = {}
    seen: set[str] = set()
    for cell in found.cells:
        for origin in _stages(cell.origins, kind, cell.defense):
            if origin.folder not in seen:
                seen.add(origin.folder)
                name = attack_title(cell.attack) if kind == "attack" else ""
                courses.setdefault(cell.defense, []).extend(
                    _Course(name, origin.seed, curve) for curve in origin.curves
                )
    return courses


def _stages(origins: Sequence[Origin], kind: str, defense: str) -> Iterator[Origin]:
    """The cell's own: pairs that its evaluation needs may come from another defense's hardening."""
    for origin in origins:
        if origin.kind == kind and origin.label.startswith(f"{defense}-"):
            yield origin


def _by_quantity(courses: Sequence[_Course]) -> list[list[_Course]]:
    names = dict.fromkeys(course.curve.name for course in courses)
    return [[course for course in courses if course.curve.name == name] for name in names]


def _hardening(defense: str, courses: Sequence[_Course]) -> Any:
    title = f"{escape(defense_title(defense))}: {escape(courses[0].curve.name)}"
    return _panel(title, [(_seed(course), COLOURS[0], course) for course in courses], "step of the hardening")


def _attacks(defense: str, courses: Sequence[_Course]) -> Any:
    """One colour an attack, one dash a seed."""
    kinds = list(dict.fromkeys(course.name for course in courses))
    lines = [
        (
            course.name if len({one.seed for one in courses}) == 1 else f"{course.name}, {_seed(course)}",
            COLOURS[kinds.index(course.name) % len(COLOURS)],
            course,
        )
        for course in courses
    ]
    title = f"{escape(defense_title(defense))}, attacked: {escape(courses[0].curve.name)}"
    return _panel(title, lines, "step of the attack")


def _seed(course: _Course) -> str:
    return "every seed" if course.seed is None else f"seed {course.seed}"


def _panel(title: str, lines: Sequence[tuple[str, str, _Course]], axis: str) -> Any:
    seeds = list(dict.fromkeys(course.seed for _, _, course in lines))
    traces = [
        _trace(name, colour, DASHES[seeds.index(course.seed) % len(DASHES)], course.curve)
        for name, colour, course in lines
    ]
    layout = layout_of(title, MEASURE["logp_paired"], {"title": {"text": axis}, "showgrid": False}, height=340)
    return drawing(traces, on_screen(layout, showlegend=1 < len(traces) <= 2 * MANY, height=240))


def _trace(name: str, colour: str, dash: str, curve: Curve) -> dict[str, Any]:
    steps, values = thinned(curve)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(name),
        "x": steps,
        "y": values,
        "line": {"color": colour, "width": 1.6, "dash": dash},
        "hovertemplate": f"<b>{escape(name)}</b><br>step %{{x}}: %{{y}}<extra></extra>",
    }


def thinned(curve: Curve) -> tuple[list[int], list[float]]:
    """At most `POINTS` points: the mean of each run of steps, at the run's last step; three digits of each."""
    size = -(-len(curve.steps) // POINTS)
    runs = range(0, len(curve.steps), size)
    means = [curve.values[start : start + size] for start in runs]
    last = [curve.steps[min(start + size, len(curve.steps)) - 1] for start in runs]
    return last, [float(f"{sum(run) / len(run):.3g}") for run in means]
