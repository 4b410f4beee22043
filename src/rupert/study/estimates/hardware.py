"""What a study is planned for: accelerators by their data sheets, or this machine, measured in a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from rupert.errors import UnknownName

GB, TERA = 10**9, 10**12
THIS_MACHINE = "this machine"
CGROUP = Path("/sys/fs/cgroup/memory.max")
USABLE, RUNTIME = 0.95, GB  # the share that allocators can fill, and what Python and the accelerator's runtime take
SIZE = 1024  # of the matrices that are multiplied
COPIED = 2**26  # bytes
SECONDS = 0.1  # that each measurement takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device.

    Attributes:
        name: of the device.
        memory: bytes.
        single: operations a second in float32, by its vendor without TF32.
        half: in bfloat16 (float16 where it has none), dense.
        bandwidth: bytes a second that it reads its memory at.
        is_gpu: whether it is an accelerator.
    """

    name: str
    memory: int
    single: float
    half: float
    bandwidth: float
    is_gpu: bool = True

    @property
    def usable(self) -> int:
        """Bytes that a stage can have."""
        return int(self.memory * USABLE) - RUNTIME


def _gpu(name: str, gigabytes: int, single: float, half: float, terabytes_a_second: float) -> Hardware:
    return Hardware(
        name=name,
        memory=gigabytes * GB,
        single=single * TERA,
        half=half * TERA,
        bandwidth=terabytes_a_second * TERA,
    )


# From the vendors' data sheets: memory, float32 outside of tensor cores, dense bfloat16, and memory bandwidth.
DEVICES = {
    device.name: device
    for device in (
        _gpu("A100-40GB", 40, 19.5, 312, 1.555),
        _gpu("A100-80GB", 80, 19.5, 312, 2.039),
        _gpu("H100-80GB", 80, 67, 989, 3.35),
        _gpu("H200", 141, 67, 989, 4.8),
        _gpu("L40S", 48, 91.6, 362, 0.864),
        _gpu("A6000", 48, 38.7, 154.8, 0.768),
        _gpu("RTX-4090", 24, 82.6, 165.2, 1.008),
        _gpu("T4", 16, 8.1, 65, 0.32),  # has no bfloat16: the rate is float16's
        _gpu("MI300X", 192, 163.4, 1307.4, 5.3),
    )
}


def device(name: str) -> Hardware:
    """A device by its name; "" for the one that stages run on here.

    Raises:
        UnknownName: there is none of that name.
    """
    if name in ("", THIS_MACHINE):
        return this_machine()
    by_name = {known.lower(): found for known, found in DEVICES.items()}
    if name.lower() not in by_name:
        raise UnknownName("--device", name, [THIS_MACHINE, *DEVICES])
    return by_name[name.lower()]


@cache
def this_machine() -> Hardware:
    """The first accelerator of this machine, or its CPU; its rates are measured."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    place = accelerator or torch.device("cpu")
    return Hardware(
        name=THIS_MACHINE,
        memory=torch.cuda.get_device_properties(0).total_memory if place.type == "cuda" else _main_memory(),
        single=_matrix_rate(place, torch.float32),
        half=_matrix_rate(place, torch.bfloat16),
        bandwidth=_bandwidth(place),
        is_gpu=accelerator is not None,
    )


def _main_memory() -> int:
    """What this process may have: the machine's, or less where its control group says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text(encoding="ascii").strip() if CGROUP.exists() else "max"
    return min(total, int(limit)) if limit.isdecimal() else total


def _matrix_rate(place: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.ones(SIZE, SIZE, dtype=dtype, device=place) for _ in range(2))
    return 2 * SIZE**3 / _fastest(lambda: torch.mm(left, right), place)


def _bandwidth(place: torch.device) -> float:
    """Of a copy, which reads and writes."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    return 2 * COPIED / _fastest(lambda: target.copy_(source), place)


def _fastest(function: Callable[[], object], place: torch.device) -> float:
    """Seconds of its fastest call within a tenth of a second."""
    function()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        if place.type != "cpu":
            torch.accelerator.synchronize(place)
        best = min(best, time.perf_counter() - start)
    return best
