"""The executor of one machine: each slot is a process of its own, with its share of the cores and accelerators.

Processes are forked from a server that has imported everything and computed nothing, so that a new one is ready at once
and none inherits threads or a CUDA context. A process that dies takes only its own work with it. When this process
dies, however it does, they end by themselves.

The server needs Linux or macOS. As always with `multiprocessing`, a script of one's own that uses it has to begin
behind `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from accelerate.utils import patch_environment

from rupert.errors import InvalidValue, WorkerDied
from rupert.study.executors.executor import Resources, cores
from rupert.study.executors.parcel import perform
from rupert.study.executors.shares import room, share
from rupert.study.executors.slots import Slots

PRELOADED = "rupert.study.stage"  # imports all that a stage needs
BEGUN = b""
PATIENCE = 5  # seconds that a process without work has to end
# Asks NVIDIA's management library for GPUs: asking CUDA would make it unusable in every process forked afterwards.
SAFE_TO_FORK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class Processes(Slots):
    """One process for each slot, on this machine."""

    def __init__(self, resources: Resources) -> None:
        """Find out what there is to share.

        Raises:
            InvalidValue: the machine has no room for what is asked.
        """
        accelerators = _accelerators() if resources.gpus_per_stage else []
        self._count = count(resources, len(accelerators))
        self._environments = [
            environment(slot, self._count, accelerators, resources.gpus_per_stage) for slot in range(self._count)
        ]

    @property
    def slots(self) -> int:
        """How many pieces of work run at once."""
        return self._count

    def _open(self) -> Sequence[ProcessSlot]:
        _start_server(self._environments[0]["OMP_NUM_THREADS"])
        return [ProcessSlot(environment) for environment in self._environments]


class ProcessSlot:
    """A process that does one piece of work after the other; started with the first, and again after one has died."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # held while work begins, and while it is interrupted
        self._working = False
        self._interrupted = False

    def run(self, parcel: bytes) -> bytes:
        """Have a parcel performed."""
        if self._interrupted:
            raise KeyboardInterrupt
        try:
            process, connection = self._started()
            connection.send_bytes(parcel)
            _receive(process, connection)
            self._begin(process)
            return _receive(process, connection)
        except (EOFError, OSError):
            exitcode = self._end()
            if self._interrupted:
                raise KeyboardInterrupt from None
            raise died(exitcode) from None
        finally:
            self._working = False

    def _begin(self, process: BaseProcess) -> None:
        """From now on the process may be interrupted; that may have been asked for while it started."""
        with self._lock:
            self._working = True
            if self._interrupted:
                _signal_group(process, signal.SIGINT)

    def _started(self) -> tuple[BaseProcess, Connection]:
        if self._process is None or self._connection is None:
            context = multiprocessing.get_context("forkserver")
            self._connection, other_end = context.Pipe()
            process = context.Process(target=serve, args=(other_end, self._environment), name="rupert stage")
            with other_end:
                process.start()
            self._process = process
        return self._process, self._connection

    def interrupt(self) -> None:
        """Pass Ctrl-C on to the work and the processes that it started, or as soon as it has begun."""
        with self._lock:
            self._interrupted = True
            if self._working and self._process:
                _signal_group(self._process, signal.SIGINT)

    def kill(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._end()

    def _end(self) -> int | None:
        """End the process, which it does by itself as soon as nobody can send it work any more; return how it ended."""
        process, self._process = self._process, None
        if process is None or self._connection is None:
            return None
        self._connection.close()
        process.join(PATIENCE)
        process.kill()
        process.join()
        _signal_group(process, signal.SIGKILL)  # what it may have left
        return process.exitcode


def _signal_group(process: BaseProcess, number: signal.Signals) -> None:
    """Signal a slot's process and those that it started; each slot is a group, see `serve`."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _receive(process: BaseProcess, connection: Connection) -> bytes:
    """The next message; its end alone does not tell that a process died: its own children may hold the pipe open."""
    wait([connection, process.sentinel])
    if connection.poll():
        return connection.recv_bytes()
    raise EOFError


def died(exitcode: int | None) -> WorkerDied:
    """What to say of a process that ended in the middle of its work.

    Args:
        exitcode: as `multiprocessing` has it: minus the signal's number where a signal ended it.
    """
    if exitcode is None or exitcode >= 0:
        return WorkerDied(f"the process that did it ended with exit code {exitcode}; repeat the command to go on")
    name = signal.Signals(-exitcode).name
    if name == "SIGKILL":
        return WorkerDied(
            "the process that did it was killed (SIGKILL), as the system does when memory runs out; "
            "run fewer stages at once (--workers) or smaller batches"
        )
    return WorkerDied(f"the process that did it crashed ({name}); repeat the command to go on")


def serve(connection: Connection, environment: Mapping[str, str]) -> None:
    """Do what comes, one parcel after the other, until nobody can send any more; what a process of a slot runs.

    The process leaves the terminal's group, so that Ctrl-C comes once, and from the executor. Without work it ignores
    it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    _set_threads()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            parcel = connection.recv_bytes()
            connection.send_bytes(_interruptible(parcel, partial(connection.send_bytes, BEGUN)))


def _interruptible(parcel: bytes, begin: partial[None]) -> bytes:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        begin()
        return perform(parcel)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """End at once when the executor's process is gone: what is not in the store yet does not count."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _set_threads() -> None:
    """Tell PyTorch, which read OMP_NUM_THREADS when the server imported it."""
    threads = os.environ["OMP_NUM_THREADS"]
    if "torch" in sys.modules and threads.isdecimal():  # it may be a list, one number for each level of nesting
        sys.modules["torch"].set_num_threads(int(threads))


def count(resources: Resources, accelerators: int) -> int:
    """How many slots there are.

    Args:
        resources: what is asked for.
        accelerators: how many this process sees; 0 where they do not matter.

    Raises:
        InvalidValue: they have no room for it.
    """
    if not accelerators:
        return resources.workers or cores()
    most = room(accelerators, resources.gpus_per_stage)
    if not most:
        raise InvalidValue("gpus_per_stage", resources.gpus_per_stage, f"only {accelerators} can be seen here")
    if resources.workers and resources.workers > most:
        remedy = f"at gpus_per_stage={resources.gpus_per_stage:g}, {accelerators} accelerators have room for {most}"
        raise InvalidValue("workers", resources.workers, remedy)
    return resources.workers or most


def environment(slot: int, slots: int, accelerators: Sequence[str], gpus_per_stage: float) -> dict[str, str]:
    """What a slot's process finds in its environment: its accelerators, and how many threads it may use.

    The user's own OMP_NUM_THREADS counts before the slot's share of the cores.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // slots))
    if gpus_per_stage and not accelerators:
        return {"OMP_NUM_THREADS": threads}
    visible = ",".join(share(slot, accelerators, gpus_per_stage))
    return {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": visible}


def _accelerators() -> list[str]:
    """The accelerators that this process sees, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    seen = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:seen] if visible else [str(number) for number in range(seen)]


def _start_server(threads: str) -> None:
    """Start what processes are forked from, unless it runs already; it is ready some seconds later."""
    multiprocessing.set_forkserver_preload([PRELOADED])
    resource_tracker.ensure_running()  # here, because it unblocks SIGINT
    with patch_environment(OMP_NUM_THREADS=threads, **SAFE_TO_FORK), _blocked(signal.SIGINT):
        forkserver.ensure_running()


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal, also in the processes that are started within: Ctrl-C would end them while they import."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
