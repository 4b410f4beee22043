"""All figures of a study, in the order of the page."""

from __future__ import annotations

from rupert.evidence import Evidence
from rupert.report.figures import Figure
from rupert.report.plots.attack_grid import attack_grid
from rupert.report.plots.over_rates import harm_and_ability, mechanism, refusal
from rupert.report.plots.shares import safe_or_broken
from rupert.report.plots.training import training
from rupert.report.plots.volume import data_volume
from rupert.report.tables import collect


def study_figures(found: Evidence) -> list[Figure]:
    """Every figure that the records have numbers for.

    Raises:
        DataError: nothing is measured yet.
    """
    grid = collect(found.rows)
    drawn = (
        harm_and_ability(grid),
        attack_grid(grid),
        data_volume(grid, found.attacks, found.defenses),
        safe_or_broken(grid),
        mechanism(grid),
        refusal(grid),
        training(found),
    )
    return [figure for figure in drawn if figure is not None]
