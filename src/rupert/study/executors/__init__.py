"""Executors: one signature, one file each, one line each in `EXECUTORS`."""

from __future__ import annotations

from collections.abc import Callable

from rupert.study.executors.executor import Executor, Resources
from rupert.study.executors.in_process import InProcess
from rupert.study.executors.processes import Processes
from rupert.study.executors.ray import Ray

EXECUTORS: dict[str, Callable[[Resources], Executor]] = {"in_process": InProcess, "processes": Processes, "ray": Ray}

__all__ = ["EXECUTORS", "Executor", "Resources"]
