"""The geometry of gradients for people: a table for the terminal, and a page with the scatter of every model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.errors import DataError
from rupert.records import Metric, Record, write_text
from rupert.report import html
from rupert.report.figures import COLOURS, SYMBOLS, Figure, Style, drawing, error_bars, template

if TYPE_CHECKING:
    from rich.table import Table

COSINES = {
    "cosine_between": "harmful and benign",
    "cosine_within_harmful": "two harmful",
    "cosine_within_benign": "two benign",
    "cosine_of_means": "the means",
}
NORMS = {"norm_harmful": "length, harmful", "norm_benign": "length, benign"}
GROUPS = {"harmful": Style(COLOURS[1], "diamond"), "benign": Style(COLOURS[0], "circle")}
SYMBOLS_OF_MODELS = ("circle", *SYMBOLS)
CAPTION = "Ranges are 95 % intervals over the batches."


@dataclass(frozen=True, slots=True)
class Point:
    """One batch's gradient, by its place along the two components; a row of `geometry.csv`."""

    model: str
    attack_step: int
    group: str
    batch: int
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found of one model after so many attack steps.

    Attributes:
        model: its label.
        attack_step: 0 before the attack.
        explained: the share of the variance along the two components.
        cosines: each of `COSINES`.
        norms: each of `NORMS`: mean lengths of gradients.
    """

    model: str
    attack_step: int
    explained: tuple[float, float]
    cosines: Mapping[str, Metric]
    norms: Mapping[str, Metric]

    def metrics(self) -> list[Metric]:
        """All numbers with an interval."""
        return [*self.cosines.values(), *self.norms.values()]


def measurements(record: Record) -> list[Measurement]:
    """The measurements of a record, in its order."""
    return [_measurement(record, **found) for found in record.report["measurements"]]


def _measurement(record: Record, model: str, attack_step: int, explained: Sequence[float]) -> Measurement:
    def named(names: Mapping[str, str]) -> dict[str, Metric]:
        return {name: record.metric(f"{name}/{model}/{attack_step}") for name in names}

    first, second = explained
    return Measurement(model, attack_step, (first, second), named(COSINES), named(NORMS))


def read_points(path: Path) -> list[Point]:
    """The rows of a `geometry.csv`.

    Raises:
        DataError: the file is not there, or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
        return [
            Point(model, int(step), group, int(batch), float(first), float(second))
            for model, step, group, batch, first, second in rows
        ]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; compare the gradients again in a new folder") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); compare the gradients again in a new folder") from None


def write_page(record: Record, points: Sequence[Point], command: str, path: Path) -> None:
    """Write the page as one self-contained file, atomically.

    Args:
        record: of the stage.
        points: what `read_points` returned.
        command: what a reader types to make the numbers again.
        path: the file.
    """
    write_text(render(record, points, command), path)


def render(record: Record, points: Sequence[Point], command: str) -> str:
    """The page as HTML, which loads nothing from outside; raises as `write_page` does."""
    found = measurements(record)
    plain = {name: value for name, value in record.settings.items() if name not in ("attack", "dtypes")}
    return html.render(
        "geometry.html",
        figures(found, points, record.settings),
        record=record,
        measurements=found,
        headlines=[_headline(one) for one in found if one.attack_step == 0],
        attacked=[_headline(one) for one in found if one.attack_step == max(other.attack_step for other in found) > 0],
        titles={**COSINES, **NORMS},
        number=_number,
        interval=_interval,
        caption=CAPTION,
        command=command,
        duration=html.duration(record.seconds),
        settings={"the comparison": plain, "the attack": record.settings.get("attack", {})},
    )


def summary_table(record: Record) -> Table:
    """The cosines for the terminal: a line a model and attack step, each with its interval below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    along = "at" in record.settings
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, title="cosines of gradients", title_justify="left")
    table.caption, table.caption_justify = CAPTION, "left"
    table.add_column("model", overflow="fold")
    if along:
        table.add_column("step", justify="right")
    for heading in COSINES.values():
        table.add_column(heading.replace("and ", "and\n"), justify="right", no_wrap=True)
    for found in measurements(record):
        cells = [
            Text.assemble(_number(metric.value), (f"\n{_interval(metric, ', ')}", "dim"))
            for metric in found.cosines.values()
        ]
        table.add_row(Text(found.model), *([str(found.attack_step)] if along else []), *cells)
    return table


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _interval(metric: Metric, between: str = " to ") -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{_number(metric.low)}{between}{_number(metric.high)}"


def _headline(found: Measurement) -> str:
    """What the interval of the cosine between the groups says of one model, and no more."""
    metric = found.cosines["cosine_between"]
    relation = "show no common direction"
    if metric.low is not None and metric.low > 0:
        relation = "lean the same way"
    if metric.high is not None and metric.high < 0:
        relation = "lean against each other"
    model = f"{found.model} after {found.attack_step} attack steps" if found.attack_step else found.model
    numbers = f"mean cosine {_number(metric.value)} ({_interval(metric)})"
    return f"{model}: harmful and benign gradients {relation}, {numbers}."


def figures(found: Sequence[Measurement], points: Sequence[Point], settings: Mapping[str, Any]) -> list[Figure]:
    """The gradients of every model before the attack and after it, and their cosines along it."""
    steps = sorted({one.attack_step for one in found})
    shown = [steps[0], steps[-1]] if len(steps) > 1 else steps
    scatters = [_scatters([one for one in found if one.attack_step == step], points, settings) for step in shown]
    return [*scatters, *([_along(found)] if len(steps) > 1 else [])]


def _scatters(found: Sequence[Measurement], points: Sequence[Point], settings: Mapping[str, Any]) -> Figure:
    step = found[0].attack_step
    panels = [
        _scatter(one, [at for at in points if (at.model, at.attack_step) == (one.model, step)], settings["components"])
        for one in found
    ]
    when = "before any attack" if step == 0 else f"after {step} attack steps"
    text = (
        "Each point is the gradient of one batch, over all weights. Every panel has principal components of its own: "
        "places and scales of two panels cannot be compared, and the sign of a component means nothing. The shares say "
        "how much of the gradients' variance a panel shows; the cosine is that of the whole gradients."
    )
    text = "Read as above; the components are those of these gradients." if step else text
    return Figure(f"scatter-{step}", f"Gradients {when}", text, tuple(panels))


def _scatter(found: Measurement, points: Sequence[Point], components: Sequence[int]) -> Any:
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": group,
            "x": [point.first for point in points if point.group == group],
            "y": [point.second for point in points if point.group == group],
            "text": [f"{group} batch {point.batch}" for point in points if point.group == group],
            "hoverinfo": "text",
            "marker": {"color": style.colour, "symbol": style.symbol, "size": 8, "opacity": 0.7},
        }
        for group, style in GROUPS.items()
    ]
    cosine = _number(found.cosines["cosine_between"].value)
    layout = _layout(f"{escape(found.model)}: mean cosine {cosine}")
    for axis, component, share in zip(("xaxis", "yaxis"), components, found.explained, strict=True):
        label = f"component {component} ({share:.1%} of the variance)".replace("%", "\N{NARROW NO-BREAK SPACE}%")
        layout[axis] |= {"title": {"text": label, "font": {"size": 12}}, "nticks": 6, "zeroline": True}
    return drawing(traces, layout)


def _along(found: Sequence[Measurement]) -> Figure:
    text = (
        "The cosines before the attack and on its way, each of the weights of that moment. Read the cosine between the "
        f"groups beside those within them. {CAPTION}"
    )
    panels = tuple(_curves(found, name, title) for name, title in COSINES.items())
    return Figure("along", "The cosines along the attack", text, panels)


def _curves(found: Sequence[Measurement], name: str, title: str) -> Any:
    traces = []
    for number, model in enumerate(dict.fromkeys(one.model for one in found)):
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS_OF_MODELS[number % len(SYMBOLS_OF_MODELS)]
        own = [one for one in found if one.model == model]
        metrics = [one.cosines[name] for one in own]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escape(model),
                "x": [one.attack_step for one in own],
                "y": [metric.value for metric in metrics],
                "error_y": error_bars(metrics, colour),
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "symbol": symbol, "size": 9},
                "text": [f"<b>{escape(model)}</b><br>{_number(one.value)} ({_interval(one)})" for one in metrics],
                "hoverinfo": "text",
            }
        )
    layout = _layout(f"Cosine of {title}")
    layout["xaxis"] |= {"title": {"text": "attack steps"}, "showgrid": False}
    layout["yaxis"] |= {"zeroline": True}
    return drawing(traces, layout)


def _layout(title: str) -> dict[str, Any]:
    return {
        "template": template("light"),
        "title": {"text": title, "x": 0, "xanchor": "left", "xref": "paper", "y": 0.96},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 76, "b": 56},
        "height": 380,
        "showlegend": True,
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": {"fixedrange": True},
        "yaxis": {"fixedrange": True},
    }
