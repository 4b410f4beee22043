"""The executor of a cluster: each slot is a task of Ray, on this machine or on any other of the cluster.

The store has to lie on a file system that all nodes share, under the same path, and rupert has to be installed on each;
nothing but the description of a stage and its outcome goes through Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rupert.errors import InvalidValue, MissingDependency, RunError, UsageError, WorkerDied
from rupert.study.executors.executor import Resources, cores
from rupert.study.executors.parcel import perform
from rupert.study.executors.shares import room
from rupert.study.executors.slots import Slots

# Of this process's environment, what changes how a stage runs. Secrets stay: Ray shows the environment of its tasks.
PASSED_ON = ("HF_", "TRANSFORMERS_", "DATASETS_", "TOKENIZERS_", "LMEVAL_", "OMP_", "XDG_CACHE_HOME", "PYTHONPATH")
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
ANSWERS_WITHIN = 60  # seconds
STORE_BYTES = 100_000_000  # of memory that a local Ray shares between its processes; it would take a third of it all
# Tried in a process of its own: Ray goes on for minutes, and may end the process that it fails in.
TRY = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"


class Ray(Slots):
    """Tasks of a Ray that was started before, here or by address, or of one that ends with this executor."""

    def __init__(self, resources: Resources) -> None:
        """Nothing is started yet.

        Raises:
            MissingDependency: Ray is not installed.
            UsageError: the address is none that can be used.
        """
        self._ray = _imported()
        self._resources = resources
        self._ends_with_us = False
        if "://" in resources.address:
            raise UsageError(
                f"--ray-address: {resources.address!r} is Ray's client; run rupert on a node of the cluster: 'auto'"
            )

    def _open(self) -> Sequence[RaySlot]:
        address = self._resources.address
        if not self._ray.is_initialized():
            self._connect(address)
        elif address:
            raise UsageError(f"--ray-address: {address!r}: this process is in a Ray already; leave the address out")
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        try:
            slots, options = divide(nodes, self._resources)
        except UsageError:
            self._disconnect()
            raise
        task = self._ray.remote(perform).options(
            **options, max_retries=0, runtime_env={"env_vars": passed_on(os.environ)}
        )
        return [RaySlot(self._ray, task) for _ in range(slots)]

    def _connect(self, address: str) -> None:
        """Start a Ray here, or join the one at the address.

        Raises:
            UsageError: there is none.
            RunError: Ray does not start here.
        """
        self._ends_with_us = True
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address:
            reach(address)
            where: dict[str, Any] = {"address": address}
        else:
            workers = self._resources.workers or 0
            where = {"address": "local", "object_store_memory": STORE_BYTES, "include_dashboard": False}
            where["num_cpus"] = workers if workers > cores() else None
        self._ray._private.worker._worker_logs_enabled = False  # it prints on standard output that a worker died
        try:
            self._ray.init(**where, logging_level="CRITICAL", log_to_driver=False)
        except Exception as error:
            if address:
                raise UsageError(unreachable(address, str(error))) from error
            raise RunError(f"Ray does not start: {first_line(str(error))}") from error

    def _disconnect(self) -> None:
        if self._ends_with_us:
            self._ray.shutdown()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._disconnect()


class RaySlot:
    """One task at a time."""

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray = ray
        self._task = task
        self._running: Any = None
        self._lock = threading.Lock()  # held while it changes what `interrupt` reads
        self._interrupted = False

    def run(self, parcel: bytes) -> bytes:
        """Have a parcel performed."""
        errors = self._ray.exceptions
        with self._lock:
            if self._interrupted:
                raise KeyboardInterrupt
            self._running = self._task.remote(parcel)
        try:
            outcome: bytes = self._ray.get(self._running)
            return outcome
        except errors.RayError as error:
            if self._interrupted:
                raise KeyboardInterrupt from None
            reason = first_line(str(error))
            if isinstance(error, errors.WorkerCrashedError | errors.OutOfMemoryError | errors.NodeDiedError):
                remedy = "if memory ran out, run fewer stages at once (--workers) or smaller batches"
                raise WorkerDied(f"Ray lost the process that did it ({reason}); {remedy}") from None
            raise RunError(f"Ray: {reason}") from error
        finally:
            self._running = None

    def interrupt(self) -> None:
        """Pass Ctrl-C on to the work."""
        self._cancel(force=False)

    def kill(self) -> None:
        """End the process that does the work."""
        self._cancel(force=True)

    def _cancel(self, *, force: bool) -> None:
        with self._lock:
            self._interrupted = True
            running = self._running
        if running is not None:
            self._ray.cancel(running, force=force)

    def close(self) -> None:
        """Ray keeps its processes."""


def divide(nodes: Sequence[Mapping[str, float]], resources: Resources) -> tuple[int, dict[str, float]]:
    """How many slots a cluster has, and what each task asks of Ray.

    Args:
        nodes: Ray's resources of each machine: "CPU", and "GPU" where it has some.
        resources: what is asked for.

    Returns:
        the slots, and `num_cpus` and `num_gpus` of a task: as many cores as leave room for all slots.

    Raises:
        InvalidValue: the cluster has no room for it.
    """
    gpus = resources.gpus_per_stage if any(node.get("GPU") for node in nodes) else 0

    def slots(cores_per_stage: int) -> int:
        return sum(_room(node, cores_per_stage, gpus) for node in nodes)

    most = slots(1)
    if not most:
        raise InvalidValue("gpus_per_stage", resources.gpus_per_stage, "no node of the Ray cluster has as many free")
    if resources.workers and resources.workers > most:
        raise InvalidValue("workers", resources.workers, f"the Ray cluster has room for {most}")
    wanted = resources.workers or most
    largest = max(int(node.get("CPU", 0)) for node in nodes)
    cores_per_stage = max(number for number in range(1, largest + 1) if slots(number) >= wanted)
    return wanted, {"num_cpus": cores_per_stage, "num_gpus": gpus}


def _room(node: Mapping[str, float], cores_per_stage: int, gpus: float) -> int:
    by_cores = int(node.get("CPU", 0)) // cores_per_stage
    return min(by_cores, room(int(node.get("GPU", 0)), gpus)) if gpus else by_cores


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tasks get from here, whatever the nodes' own are."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and not any(word in name for word in SECRET)
    }


def reach(address: str) -> None:
    """Find out whether a cluster can be joined.

    Raises:
        UsageError: it cannot, or does not answer in time.
    """
    try:
        tried = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", TRY, address], capture_output=True, text=True, timeout=ANSWERS_WITHIN, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(unreachable(address, f"no answer within {ANSWERS_WITHIN} seconds")) from error
    if tried.returncode:
        raise UsageError(unreachable(address, (tried.stderr.strip().splitlines() or [""])[-1]))


def unreachable(address: str, reason: str) -> str:
    """One line that says that there is no cluster, and what to do."""
    return (
        f"--ray-address: no cluster at {address!r} ({first_line(reason)}); "
        "start one with `ray start --head`, or leave the address out"
    )


def first_line(text: str) -> str:
    """The first line of what Ray says, which may be pages."""
    return (text.strip().splitlines() or ["no reason given"])[0].rstrip(".")


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("ray", "ray") from error
    return ray
