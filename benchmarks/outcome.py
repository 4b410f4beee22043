"""What a benchmark found, in one shape: the rows of its table, figures held against targets, where it was measured."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rupert.records import environment, write_json

GB = 10**9
MISSED = 1  # exit code


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that a benchmark is run for.

    Attributes:
        what: is measured.
        value: of it.
        unit: "times", "s", "%", ...; empty for a count.
        at_most: what is asked for; None where nothing is.
        at_least: likewise; a figure has one of the two at most.
    """

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> float | None:
        """The number that it is held against."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def bound(self) -> str:
        """On which side of the target it is to be."""
        return "" if self.target is None else "at least" if self.at_most is None else "at most"

    @property
    def met(self) -> bool | None:
        """Whether it is what is asked for; None where nothing is."""
        if self.target is None:
            return None
        return self.value <= self.target if self.bound == "at most" else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        """As it stands in files."""
        asked = {"bound": self.bound, "target": self.target, "met": self.met}
        return {"what": self.what, "value": self.value, "unit": self.unit, **asked}

    def __str__(self) -> str:
        asked = "" if self.target is None else f" ({self.bound} {self.target:g})"
        sign = {None: "      ", True: "met   ", False: "MISSED"}[self.met]
        return f"{sign} {self.what}: {self.value:.4g}{' ' * bool(self.unit)}{self.unit}{asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A benchmark that is running.

    Attributes:
        name: of its program, without `.py`.
        arguments: of the command line.
        started: on the clock that `time.perf_counter` reads.
        load_average: of the machine, when it began.
    """

    name: str
    arguments: argparse.Namespace
    started: float
    load_average: float

    def end(self, rows: Sequence[Any], figures: Sequence[Figure], details: Mapping[str, Any] | None = None) -> int:
        """Print the figures, write everything where `--json` says, and return the exit code: 1 for a missed target.

        Args:
            rows: of its table: mappings, or dataclasses.
            figures: what it is run for, at least one.
            details: what else is worth keeping.
        """
        for figure in figures:
            print(figure)
        settings = {name: value for name, value in vars(self.arguments).items() if not isinstance(value, Path)}
        settings.pop("json", None)
        outcome = {
            "name": self.name,
            "rows": [row if isinstance(row, Mapping) else asdict(row) for row in rows],
            "figures": [figure.as_json() for figure in figures],
            "details": details or {},
            "settings": settings,
            "seconds": time.perf_counter() - self.started,
            "processor_seconds": processor_seconds(),
            "load_average_before": self.load_average,
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "environment": environment(),
        }
        if self.arguments.json:
            write_json(outcome, self.arguments.json)
        return MISSED if any(figure.met is False for figure in figures) else 0


def options(about: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes; `about` is its module's docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the outcome to this file")
    return parser


def begin(name: str, parser: argparse.ArgumentParser) -> Begun:
    """Read the command line, and look at the clock."""
    arguments = parser.parse_args()
    return Begun(name=name, arguments=arguments, started=time.perf_counter(), load_average=os.getloadavg()[0])


def processor_seconds() -> float:
    """What this process and those that it has waited for took of the processor."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GB and system; nothing that names the machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1),
        "system": _system(),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
