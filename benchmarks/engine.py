"""What the engine of studies costs, and what several workers save: a study of twelve models, run three ways.

    OMP_NUM_THREADS=1 python benchmarks/engine.py

One process with one thread does the study, then two worker processes, then two Ray workers; each in a new folder, the
start of workers and their imports counted. The engine's share of the first is all time that is not spent in a stage.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from outcome import Figure, begin, options

from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study
from rupert.study.executors import EXECUTORS, Resources
from rupert.study.running.run import run
from rupert.study.stage import Attack, Evaluate, Harden, Keep

OVERHEAD, SHARE = 0.02, 0.65  # targets: of the study's time, and of the time of one process
WORKERS = 2


def grid(seeds: int) -> Study:
    """The demo with two defenses and two attacks: six models a seed."""
    demo = read_study(find_recipe("demo"), [f"seeds={list(range(seeds))}"])
    return replace(
        demo,
        defenses={label: demo.defenses[label] for label in ("none", "sdd")},
        attacks={label: demo.attacks[label] for label in ("fine_tune-1e-4", "fine_tune-1e-3")},
    )


class Stopwatch:
    """Adds up the seconds that are spent in some functions, which do not call each other."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: type, name: str) -> None:
        """Count the time that a method takes."""
        method: Callable[..., Any] = getattr(owner, name)

        @wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        setattr(owner, name, timed)


def seconds_of(study: Study, executor: str) -> float:
    """Wall time of a study in a new folder, workers started and stopped."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with EXECUTORS[executor](Resources(workers=WORKERS)) as running:
            cells = list(run(study, Path(folder) / "study", running))
        seconds = time.perf_counter() - started
    assert len(cells) == 6 * len(study.seeds)
    assert not any(cell.error for cell in cells)
    return seconds


def main() -> int:
    """Print the figures, and exit with 1 where a target is missed."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="six models each")
    parser.add_argument("--executors", nargs="+", default=["processes", "ray"], help="of those with workers")
    begun = begin("engine", parser)
    arguments = begun.arguments
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    study, inside = grid(arguments.seeds), Stopwatch()
    warm = replace(study, seeds=(0,), defenses={"none": None}, attacks={}, pairs_of="")
    # Imports, and what is made once and kept in the user's cache, are no part of any of the three.
    with tempfile.TemporaryDirectory() as folder, EXECUTORS["in_process"](Resources()) as running:
        list(run(warm, Path(folder) / "study", running))
    for stage in (Harden, Keep, Attack, Evaluate):
        for name in ("prepare", "run"):
            inside.watch(stage, name)
    alone = seconds_of(study, "in_process")
    overhead = (alone - inside.seconds) / alone
    seconds = {"one process": alone, **{name: seconds_of(study, name) for name in arguments.executors}}
    rows = [{"way": way, "seconds": taken, "of_one_process": taken / alone} for way, taken in seconds.items()]
    for row in rows:
        print(f"{row['way']:<16} {row['seconds']:6.1f} s, {row['of_one_process']:.2f} of one process")
    figures = [
        Figure(what="time of a study outside of its stages", value=100 * overhead, unit="%", at_most=100 * OVERHEAD),
        *(
            Figure(
                what=f"time of one process that {WORKERS} workers take, {row['way']}",
                value=row["of_one_process"],
                unit="times",
                at_most=SHARE,
            )
            for row in rows[1:]
        ),
    ]
    return begun.end(rows, figures)


if __name__ == "__main__":
    raise SystemExit(main())
