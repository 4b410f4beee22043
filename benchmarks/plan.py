"""How long the plan of a study of 1,000 models takes, without imports and without reading the YAML."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table

from rupert.models.shape import shape_of
from rupert.study.definition.graph import graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.estimates import DEVICES, Setup, estimates, plan

CELLS = 1000
HIGHEST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of each part; `plan` is all of it, with the table's lines and the schedule."""

    models: int
    stages: int
    shape: float
    graph: float
    estimates: float
    plan: float


def main() -> None:
    """Run the benchmark, print its table, and exit with 1 where the target is missed."""
    parser = options(__doc__)
    parser.add_argument("--recipe", default="seam-figure-2", help="whose seeds are repeated until it has 1,000 models")
    begun = begin("plan", parser)
    outcome = _measure(begun.arguments.recipe)
    table = Table(title=f"the plan of {begun.arguments.recipe}: {outcome.models:,} models, {outcome.stages:,} stages")
    for name in ("model's sizes", "graph", "estimates", "whole plan, again"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f} s" for value in (outcome.shape, outcome.graph, outcome.estimates, outcome.plan)))
    Console().print(table)
    seconds = outcome.shape + outcome.graph + outcome.estimates
    what = f"the plan of a study of {outcome.models:,} models"
    raise SystemExit(begun.end([outcome], [Figure(what=what, value=seconds, unit="s", at_most=HIGHEST_SECONDS)]))


def _measure(recipe: str) -> Outcome:
    study = read_study(find_recipe(recipe))
    a_seed = len(study.defenses) * (1 + len(study.attacks))
    study = replace(study, seeds=tuple(range(-(-CELLS // a_seed))))
    setup = Setup(hardware=DEVICES["H200"])
    begin = time.perf_counter()
    shape = shape_of(study.model.model)
    shaped = time.perf_counter()
    stages = graph(study)
    made = time.perf_counter()
    estimates(stages.nodes, study, shape, setup)
    estimated = time.perf_counter()
    plan(study, setup)
    end = time.perf_counter()
    return Outcome(
        models=len(stages.models),
        stages=len(stages.nodes),
        shape=shaped - begin,
        graph=made - shaped,
        estimates=estimated - made,
        plan=end - estimated,
    )


if __name__ == "__main__":
    main()
