"""How long the plan of a study of 1,000 models takes, without imports and without reading the YAML."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rupert.models.shape import shape_of
from rupert.records import environment, write_json
from rupert.study.estimates import DEVICES, Setup, estimates, plan
from rupert.study.graph import graph
from rupert.study.reading import read_study
from rupert.study.recipes import find_recipe

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="seam-figure-2", help="whose seeds are repeated until it has 1,000 models")
    parser.add_argument("--json", type=Path, help="also write the outcome to this file")
    arguments = parser.parse_args()
    outcome = _measure(arguments.recipe)
    table = Table(title=f"the plan of {arguments.recipe}: {outcome.models:,} models, {outcome.stages:,} stages")
    for name in ("model's sizes", "graph", "estimates", "whole plan, again"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f} s" for value in (outcome.shape, outcome.graph, outcome.estimates, outcome.plan)))
    Console().print(table)
    met = outcome.graph + outcome.estimates + outcome.shape <= HIGHEST_SECONDS
    print(f"{'met   ' if met else 'MISSED'} at most {HIGHEST_SECONDS} s")
    if arguments.json:
        write_json({"outcome": outcome, "environment": environment()}, arguments.json)
    raise SystemExit(int(not met))


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
