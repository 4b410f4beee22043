"""How time and memory are measured: by the clock of a device that has done its work, and in processes of their own."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_a_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns there: memory that one measurement leaves behind is not the next one's."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def forget() -> None:
    """Give back what is not in use, so that it is not counted."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def held(device: str) -> int:
    """Bytes in use: on a CPU the process's resident memory, on a GPU that of PyTorch's allocator."""
    return torch.cuda.memory_allocated() if device.startswith("cuda") else _status("VmRSS")


def reset_peak(device: str) -> None:
    """Let the peak be counted from what is in use now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: str) -> int:
    """The most bytes since then. `resource.getrusage` would hold the peak of loading too, and cannot be reset."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _status("VmHWM")


def _status(name: str) -> int:
    """What Linux tells of this process's resident memory, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(kib) * 1024
