"""Small studies on one store, in one process: does memory, do open files, does the disk grow with their number?

    OMP_NUM_THREADS=1 python benchmarks/soak.py

Each study hardens Potionworld's model by one step and attacks it by one. Every attack is new; four studies share a
hardening; every tenth study repeats an earlier one, of which nothing is to be done. What grows is the slope of the line
of least squares through the studies after the warm-up, in which libraries and caches are filled. With `--store DIR`,
`--start K` and `--studies N` the run is cut into pieces on one store, each with a warm-up of its own.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rupert.cli.main import quieten_libraries

quieten_libraries()  # what it sets is read when libraries are imported

from outcome import Figure, begin, options  # noqa: E402

from rupert.study.definition.reading import read_study  # noqa: E402
from rupert.study.executors import EXECUTORS, Executor, Resources  # noqa: E402
from rupert.study.running.run import result_rows, run  # noqa: E402
from rupert.study.store import KINDS, LOCKS, WORKING  # noqa: E402

STUDY = """
extends: demo
defenses: {none: drop, seam: drop, sdd: {max_steps: 1, num_pairs: 16}}
attacks: {fine_tune: {num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 2}
"""
SHARED, REPEATED = 4, 10  # studies that share a hardening; of how many one repeats another
LEAST = 20  # studies after the warm-up that a slope is taken through
MEGABYTE = 1e6
FOLDERS = (*KINDS, WORKING, LOCKS)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process and the store take after one study.

    Attributes:
        number: of the study.
        seconds: that it took.
        memory: resident bytes.
        objects: that Python's collector follows.
        files: that are open.
    """

    number: int
    seconds: float
    memory: int
    objects: int
    files: int


def overrides(number: int) -> list[str]:
    """What a study changes of `STUDY`."""
    if number % REPEATED == REPEATED - 1:
        number -= SHARED + number % SHARED  # an earlier one, of another hardening
    rates = {"defenses.sdd": 1e-6 * (1 + number // SHARED), "attacks.fine_tune": 1e-6 * (1 + number)}
    return [f"{method}.learning_rate={rate}" for method, rate in rates.items()]


def soak(folder: Path, numbers: Sequence[int], every: int) -> list[Sample]:
    """Run the studies of these numbers on the store in `folder`; print what they take, a line for `every` of them."""
    (folder / "soak.yaml").write_text(STUDY, encoding="utf-8")
    print(
        f"{'study':>6} {'seconds':>8} {'memory, MB':>11} {'objects':>9} {'open files':>11}  files and MB of the store"
    )
    samples = []
    with EXECUTORS["in_process"](Resources()) as executor:
        for count, number in enumerate(numbers, start=1):
            samples.append(_sample(folder, number, executor))
            if count % every == 0:
                print(_line(samples[-every:], disk(folder / "store")), flush=True)
    return samples


def _sample(folder: Path, number: int, executor: Executor) -> Sample:
    started = time.perf_counter()
    study = read_study(folder / "soak.yaml", overrides(number))
    cells = list(run(study, folder / "store", executor))
    assert result_rows(study, cells), cells
    assert not any(cell.error for cell in cells), cells
    seconds = time.perf_counter() - started
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(number, seconds, resident, len(gc.get_objects()), len(os.listdir("/proc/self/fd")))  # noqa: PTH208


def disk(store: Path) -> dict[str, tuple[int, int]]:
    """Folder of a store -> its files and their bytes."""
    files = {name: [path for path in (store / name).rglob("*") if path.is_file()] for name in FOLDERS}
    return {name: (len(found), sum(path.stat().st_size for path in found)) for name, found in files.items()}


def _line(samples: Sequence[Sample], taken: dict[str, tuple[int, int]]) -> str:
    last = samples[-1]
    mean = sum(one.seconds for one in samples) / len(samples)
    folders = ", ".join(f"{name} {count} {size / MEGABYTE:.1f}" for name, (count, size) in taken.items())
    process = f"{last.memory / MEGABYTE:11.1f} {last.objects:9} {last.files:11}"
    return f"{last.number + 1:6} {mean:8.2f} {process}  {folders}"


def slope(samples: Sequence[Sample], name: str) -> float:
    """By how much something grows a study: the slope of the line of least squares."""
    values = [float(getattr(one, name)) for one in samples]
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def main() -> int:
    """Print what is taken, and exit with 1 where it grows."""
    parser = options(__doc__)
    parser.add_argument("--studies", type=int, default=200, help="how many")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--warm-up", type=int, default=20, help="studies before anything is held against a target")
    parser.add_argument("--every", type=int, default=20, help="studies between two lines")
    parser.add_argument("--target", type=float, default=0.1, help="MB of memory that a study may leave behind")
    parser.add_argument(
        "--store", type=Path, help="folder of an earlier piece; a new one by default, deleted at the end"
    )
    begun = begin("soak", parser)
    arguments = begun.arguments
    if arguments.studies < arguments.warm_up + LEAST:
        parser.error(f"--studies: {arguments.studies} leave no {LEAST} after a warm-up of {arguments.warm_up}")
    with ExitStack() as closing:
        folder = arguments.store or Path(closing.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        samples = soak(folder, range(arguments.start, arguments.start + arguments.studies), arguments.every)
        taken = disk(folder / "store")
    held = samples[arguments.warm_up :]
    slopes = {name: slope(held, name) for name in ("memory", "objects", "seconds")}
    opened, unfinished = held[-1].files - held[0].files, taken[WORKING][0]
    print(f"after {arguments.warm_up} studies, one leaves {slopes['objects']:+.1f} objects")
    figures = (
        Figure(what="memory left by a study", value=slopes["memory"] / MEGABYTE, unit="MB", at_most=arguments.target),
        Figure(what="open files after all studies, more than before", value=opened, at_most=0),
        Figure(what="files left unfinished", value=unfinished, at_most=0),
    )
    return begun.end(samples, figures, {"slopes": slopes, "disk": taken})


if __name__ == "__main__":
    sys.exit(main())
