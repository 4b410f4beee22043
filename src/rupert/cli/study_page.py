"""The page of a study, from its folder and its evidence: what `rupert run` and `rupert report` write alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rupert.attacks import ATTACKS
from rupert.cli import break_cost
from rupert.errors import UsageError
from rupert.evaluation.comparison import OUTCOMES_FILE, read_outcomes
from rupert.evaluation.statistics import paired_difference
from rupert.evidence import Evidence, MeasuredCell
from rupert.records import Metric, read_record
from rupert.report.break_cost import costs_table
from rupert.report.break_cost import figures as figures_of_ladders
from rupert.report.comparing import Model, comparisons
from rupert.report.figures import styles
from rupert.report.geometry import figures as figures_of_gradients
from rupert.report.geometry import measurements, read_points
from rupert.report.page import Beside, Claim, render
from rupert.report.tables import collect
from rupert.study.standalone.geometry import POINTS_FILE

REPORT = "report.html"

Outcomes = dict[str, dict[str, float]]  # metric -> item -> value; what is unscored is left out


def study_page(found: Evidence, folder: Path, claims: Sequence[Claim] = (), beside: Beside | None = None) -> str:
    """The page as HTML.

    Args:
        found: of the study; at least one cell is measured.
        folder: the study's, where the outcomes of single items are.
        claims: what was held against the numbers.
        beside: what else the page shows.
    """
    known = replace(
        beside or Beside(), claims=claims, paired=paired_differences(found, folder), untried=untried_attacks(found)
    )
    return render(found, known)


def measured_beside(found: Evidence, ladders: Sequence[str], geometry: Path | None) -> Beside:
    """What a study's page shows of ladders and of gradients beside it.

    Raises:
        UsageError: a folder does not hold what it should.
    """
    lines, known = break_cost.measured(ladders) if ladders else ([], {})
    record = read_record(geometry) if geometry else None
    drawn = figures_of_ladders(lines, styles(collect(found.rows))) if lines else []
    notes = [f"Break cost, {name}: {fact}." for name, fact in known.items()]
    if geometry and record:
        drawn += figures_of_gradients(measurements(record), read_points(geometry / POINTS_FILE), record.settings)
        notes += [f"Gradients, {name}: {model}." for name, model in record.report["models"].items()]
    tables = [costs_table(lines)] if lines else []
    return Beside(figures=drawn, tables=tables, notes=notes)


def untried_attacks(found: Evidence) -> list[str]:
    """The attacks that rupert has and a study did not run, by name."""
    tried = {str(settings.get("method", "")) for settings in found.attacks.values()}
    return sorted(name for name in ATTACKS if name not in tried)


def paired_differences(found: Evidence, folder: Path) -> dict[tuple[Model, Model, str], Metric]:
    """What the verdict compares, compared item by item, as far as the same seeds of both models are measured.

    Files that are missing or damaged leave their comparison out: the verdict then goes by whether intervals overlap.
    """
    read: dict[Path, Outcomes] = {}
    differences: dict[tuple[Model, Model, str], Metric] = {}
    for model, other, metric in comparisons(collect(found.rows)):
        after, before = (_evaluations(found.cells, one, folder) for one in (model, other))
        if after.keys() != before.keys():
            continue
        for place in {*after.values(), *before.values()} - read.keys():
            read[place] = _outcomes(place)
        pairs = [(read[after[seed]].get(metric, {}), read[before[seed]].get(metric, {})) for seed in after]
        difference = _difference(metric, pairs)
        if difference is not None:
            differences[model, other, metric] = difference
    return differences


def _evaluations(cells: Iterable[MeasuredCell], model: Model, folder: Path) -> dict[int, Path]:
    """Where the outcomes of a model are, by seed."""
    return {
        cell.seed: folder / origin.folder
        for cell in cells
        if (cell.defense, cell.attack) == model and not cell.missing
        for origin in cell.origins
        if origin.kind == "evaluate"
    }


def _outcomes(folder: Path) -> Outcomes:
    try:
        rows = read_outcomes(folder / OUTCOMES_FILE)
    except UsageError:
        return {}
    values: Outcomes = {}
    for row in rows:
        if row.value is not None:
            values.setdefault(row.metric, {})[row.item] = row.value
    return values


def _difference(metric: str, pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Metric | None:
    """Of the items that every evaluation has; none where there is none."""
    items = sorted(set.intersection(*(set(values) for pair in pairs for values in pair))) if pairs else []
    if not items:
        return None
    after, before = (np.array([[pair[side][item] for item in items] for pair in pairs]) for side in (0, 1))
    return paired_difference(after, before).metric(metric)
