"""All benchmarks, from cheap to dear, each with the options of a quick run and of the documented one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Size = Literal["quick", "full"]
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One program.

    Attributes:
        name: of its file, without `.py`.
        what: it measures, for tables.
        threads: `OMP_NUM_THREADS`.
        quick: options of a run of a few minutes at most; None: it is part of the full run alone.
        full: options of the run that is documented.
        folder: where the program is.
    """

    name: str
    what: str
    threads: int = 1
    quick: tuple[str, ...] | None = ()
    full: tuple[str, ...] = ()
    folder: Path = FOLDER

    @property
    def program(self) -> Path:
        """Its file."""
        return self.folder / f"{self.name}.py"

    def options(self, size: Size) -> tuple[str, ...] | None:
        """Of a run of that size; None where it has none."""
        return self.quick if size == "quick" else self.full


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


BENCHMARKS = (
    Benchmark(name="plan", what="`rupert plan` of 1,000 models"),
    Benchmark(name="judging", what="judging again, from the cache", threads=2),
    Benchmark(name="sdd_theorem", what="SDD's theorems, simulated", quick=_words("--trials 4000 --draws 50")),
    Benchmark(name="trajectory", what="looks at a model under attack", quick=_words("--repeats 3")),
    Benchmark(
        name="t_vaccine",
        what="T-Vaccine's memory",
        threads=2,
        quick=_words("--rows 2 --length 64"),
        full=_words("--rows 2 --length 64"),
    ),
    Benchmark(
        name="pairing",
        what="SDD's irrelevant pairs",
        threads=2,
        quick=_words("--instructions 2000 --responses 12500 --sample 320"),
    ),
    Benchmark(name="generation", what="greedy answers", threads=2, quick=_words("--requests 16 --batch-sizes 16")),
    Benchmark(name="defense_steps", what="a step of each defense", threads=2, quick=_words("--model potionworld")),
    Benchmark(name="memory", what="predicted and measured memory", quick=("--smallest",)),
    Benchmark(name="engine", what="a study beside its stages", quick=_words("--executors processes")),
    Benchmark(
        name="scaling",
        what="cost as model and rows grow",
        threads=2,
        quick=_words("--lengths 64 512 --tokens 512 --repeats 2"),
    ),
    Benchmark(name="judges", what="judges beside the oracle", quick=_words("--every 33")),
    Benchmark(
        name="seam_step",
        what="one step of SEAM",
        threads=2,
        quick=_words("--tokens 203 56 250 --max-length 128"),
    ),
    Benchmark(name="soak", what="200 studies in one process", quick=None),
)
