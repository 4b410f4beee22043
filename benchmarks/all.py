"""Runs all benchmarks, one after the other, from cheap to dear, and prints one table of what they found.

    make bench
    python benchmarks/all.py [--only NAME ...] [--full] [--again] [--output-dir bench] [--write-docs]

Each is a process of its own with the number of threads that it is documented with. What it found is a JSON file in the
output folder, a folder for each size. One that is there already, of the same code, versions and options, is not run
again, so that an interrupted run goes on where it was. A benchmark that misses a target or fails is told at the end;
the others are run all the same. Run it with nothing else running.

Exit code: 0, or 1 where a target is missed, or 2 where a benchmark did not run to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page
from catalogue import BENCHMARKS, FOLDER, Benchmark, Size
from outcome import MISSED
from rich.console import Console
from rich.table import Table

import rupert
from rupert.records import environment, file_hash, write_json

FAILED = 2  # exit code
OUTPUT = FOLDER.parent / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One benchmark: what it found, None where it failed; whether that was there already; why it failed."""

    benchmark: Benchmark
    found: dict[str, Any] | None
    was_there: bool = False
    problem: str = ""

    @property
    def missed(self) -> list[dict[str, Any]]:
        """The figures that are not what is asked for."""
        return [figure for figure in (self.found or {"figures": []})["figures"] if figure["met"] is False]


def main() -> int:
    """Run what is asked for, print the table, and say what was missed."""
    arguments = _options().parse_args()
    size: Size = "full" if arguments.full else "quick"
    chosen = [one for one in BENCHMARKS if one.name in arguments.only and one.options(size) is not None]
    folder = arguments.output_dir / size
    outcomes = run_all(chosen, size, folder, again=arguments.again)
    show(outcomes)
    if arguments.write_docs:
        page.keep([folder / f"{outcome.benchmark.name}.json" for outcome in outcomes if outcome.found])
    return exit_code(outcomes)


def _options() -> argparse.ArgumentParser:
    names = [one.name for one in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--full", action="store_true", help="the documented sizes, which take hours")
    parser.add_argument("--again", action="store_true", help="run also what was run already")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT, help="where results go (default: bench)")
    parser.add_argument(
        "--write-docs", action="store_true", help="keep the results in docs/results/benchmarks, and write the page anew"
    )
    return parser


def run_all(benchmarks: Sequence[Benchmark], size: Size, folder: Path, *, again: bool = False) -> list[Outcome]:
    """Run each, or read what it found before; one that fails keeps none of the others from running."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, benchmark in enumerate(benchmarks, start=1):
        identity = identity_of(benchmark, size)
        before = None if again else _read(folder / f"{benchmark.name}.json", identity)
        state = "there already" if before else f"running, {size}"
        print(f"{number} of {len(benchmarks)}: {benchmark.name}, {state}", file=sys.stderr, flush=True)
        outcomes.append(
            Outcome(benchmark=benchmark, found=before, was_there=True) if before else _run(benchmark, identity, folder)
        )
    return outcomes


def identity_of(benchmark: Benchmark, size: Size) -> dict[str, Any]:
    """What a result has to be of, not to be measured again: options, code of rupert and benchmarks, versions."""
    sources = [*Path(rupert.__file__).parent.rglob("*.py"), *FOLDER.glob("*.py"), benchmark.program]
    code = file_hash(sources) if benchmark.program.exists() else ""
    options = [*(benchmark.options(size) or ())]
    return {"size": size, "options": options, "code": code, "versions": environment()}


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if found.get("identity") == identity else None


def _run(benchmark: Benchmark, identity: dict[str, Any], folder: Path) -> Outcome:
    """Run it as a process, its output in a file beside its result; it ran to its end where it left one."""
    part, log = folder / f"{benchmark.name}.part", folder / f"{benchmark.name}.log"
    command = [sys.executable, str(benchmark.program), *identity["options"], "--json", str(part)]
    variables = os.environ | {"OMP_NUM_THREADS": str(benchmark.threads), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    try:
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(command, env=variables, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode not in (0, MISSED) or not part.exists():
            said = log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
            return Outcome(benchmark=benchmark, found=None, problem=f"exit code {done.returncode}: {said[-1]}")
        seconds = time.perf_counter() - started  # what the process notes itself leaves out its imports
        found = json.loads(part.read_text(encoding="utf-8")) | {"identity": identity, "seconds": seconds}
        write_json(found, folder / f"{benchmark.name}.json")
        return Outcome(benchmark=benchmark, found=found)
    finally:
        part.unlink(missing_ok=True)


def show(outcomes: Sequence[Outcome]) -> None:
    """One table of all figures, and below it what was missed and what failed."""
    table = Table()
    for heading in ("benchmark", "what", "figure", "target", "met"):
        table.add_column(heading, justify="right" if heading in ("figure", "target") else "left")
    for outcome in outcomes:
        for figure in (outcome.found or {"figures": []})["figures"]:
            table.add_row(outcome.benchmark.name, *page.cells(figure))
    console = Console()
    console.print(table)
    seconds = sum(outcome.found["seconds"] for outcome in outcomes if outcome.found)
    there = sum(outcome.was_there for outcome in outcomes)
    console.print(f"{len(outcomes)} benchmarks, {seconds / 60:.0f} minutes of work; {there} were there already")
    for outcome in outcomes:
        for figure in outcome.missed:
            what, value, target, _ = page.cells(figure)
            console.print(f"MISSED {outcome.benchmark.name}: {what} {value}, {target}", markup=False)
        if outcome.problem:
            console.print(f"FAILED {outcome.benchmark.name}: {outcome.problem}", markup=False)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 where all is met, 1 where a target is missed, 2 where a benchmark failed."""
    if any(outcome.problem for outcome in outcomes):
        return FAILED
    return MISSED if any(outcome.missed for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
