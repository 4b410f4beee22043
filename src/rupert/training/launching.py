"""Starting a command in several processes by `accelerate launch`, with configurations that ship with rupert."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from rupert.errors import InvalidValue, UnknownName, UsageError

LAUNCHER = "rupert.training.launcher"
CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent / "accelerate").glob("*.yaml"))}
FLAG, COUNT_FLAG = "--accelerate-config", "--num-processes"
ENVIRONMENT = {
    # Seconds that processes have to save what they have done when they are told to stop; torch's own 30 are few.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
    # Replicas are told at every start that all their parameters are used.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Steps(Protocol):
    """A dataclass of settings, as far as `spread` reads it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def per_device_train_batch_size(self) -> int:
        """Rows of one pass."""

    @property
    def gradient_accumulation_steps(self) -> int:
        """Passes of one optimizer step."""


SettingsT = TypeVar("SettingsT", bound=Steps)


def is_launched() -> bool:
    """Whether a launcher (`accelerate launch`, torchrun) started this process, which then starts no others."""
    return "LOCAL_RANK" in os.environ


def find_config(name: str) -> Path:
    """The file of a configuration: one that ships with rupert, or a path.

    Raises:
        UnknownName: neither.
    """
    is_file = False
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        is_file = Path(name).is_file()
    if name not in CONFIGS and not is_file:
        raise UnknownName(FLAG, name, CONFIGS)
    return CONFIGS.get(name) or Path(name)


def spread(settings: SettingsT, number: int) -> SettingsT:
    """The settings of each of several processes that together take the same steps as one process with `settings`.

    The passes of a step are divided first, because that changes no pass, and then the rows of a pass.

    Raises:
        UsageError: the rows of a step cannot be divided evenly.
    """
    passes, rows = settings.gradient_accumulation_steps, settings.per_device_train_batch_size
    fewer = math.gcd(passes, number)
    if rows * fewer % number:
        raise UsageError(
            f"gradient_accumulation_steps: {passes} x per_device_train_batch_size: {rows} are {passes * rows} rows a "
            f"step, which {number} processes cannot divide; use a number of processes that divides {passes * rows}"
        )
    shares = {"gradient_accumulation_steps": passes // fewer, "per_device_train_batch_size": rows * fewer // number}
    try:
        divided = replace(settings, **shares)
    except InvalidValue as error:
        raise UsageError(f"{number} processes with {rows * passes // number} rows each: {error}") from None
    streams = getattr(settings, "streams", {})  # of a defense; an attack has none
    for name, share in getattr(divided, "streams", {}).items():
        if share * number != streams[name]:
            raise UsageError(
                f"the {streams[name]} {name} rows of a step cannot be divided over {number} processes; use fewer, or a "
                "larger gradient_accumulation_steps"
            )
    return divided


def check_hardening(config: str | None) -> None:
    """Find out, before a model is loaded, whether models can be hardened as a configuration or a launcher wants it.

    Raises:
        UsageError: DeepSpeed, which hides the gradients that a defense leaves.
    """
    if config and _read(config).distributed_type == DistributedType.DEEPSPEED:
        raise InvalidValue(FLAG, config, "hardening needs gradients that DeepSpeed hides; use fsdp2")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise UsageError("hardening needs gradients that DeepSpeed hides; launch it with --accelerate-config fsdp2")


def launch(config: str, arguments: Sequence[str], num_processes: int | None = None) -> int:
    """Run `rupert ARGUMENTS` in several processes and wait for them; see `launch_module`."""
    return launch_module(config, "rupert", arguments, num_processes)


def launch_module(config: str, module: str, arguments: Sequence[str], num_processes: int | None = None) -> int:
    """Run `python -m MODULE ARGUMENTS` in several processes and wait for them.

    Ctrl-C and SIGTERM are passed on, where this is the main thread. When this process is killed, they are stopped too.

    Args:
        config: name or path of a configuration.
        module: what each process runs.
        arguments: of the module.
        num_processes: of all machines; None: as many as the configuration says, or as there are accelerators.

    Returns:
        the exit code: 0 when all ended well, otherwise that of the process that failed first; for one that a signal
        ended, 128 and the signal's number.

    Raises:
        UsageError: no such configuration, or not one for this machine.
    """
    found = _read(config)
    count = _count(config, found, num_processes)
    command = [sys.executable, "-m", LAUNCHER, "--config_file", str(find_config(config)), "--num_processes", str(count)]
    if found.main_process_port is None and found.num_machines == 1:
        command += ["--main_process_port", "0"]  # any free one: a study may run several stages at once
    in_main = threading.current_thread() is threading.main_thread()
    command += ["-m", module, *arguments]
    # In a session of its own, so that Ctrl-C comes once, from here: a second one would stop it at once.
    child = subprocess.Popen(command, env=ENVIRONMENT | os.environ, start_new_session=in_main)  # noqa: S603 - the user's own command
    try:
        with _passing_on(child) if in_main else contextlib.nullcontext():
            code = child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Within, signals that ask this process to stop ask the child."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(config: str) -> ClusterConfig:
    """A configuration, as Accelerate reads it."""
    path = find_config(config)
    try:
        found = load_config_from_file(str(path))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"{FLAG}: {config!r} is no configuration of Accelerate ({reason})") from None
    kind = found.distributed_type
    if not isinstance(kind, DistributedType):
        raise InvalidValue(FLAG, config, "it names no distributed_type; run `accelerate config` to write one")
    sharding = found.fsdp_config if isinstance(found.fsdp_config, dict) else {}
    if kind == DistributedType.FSDP and str(sharding.get("fsdp_version")) != "2":
        raise InvalidValue(FLAG, config, "models are sharded by FSDP2; set fsdp_version: 2")
    if kind not in (DistributedType.FSDP, DistributedType.DEEPSPEED) and not _is_replicas(found):
        raise InvalidValue(
            FLAG, config, f"distributed_type: {kind.value} starts no several processes here; use replicas"
        )
    return found


def _is_replicas(found: ClusterConfig) -> bool:
    kind = found.distributed_type
    return kind != DistributedType.MULTI_CPU and str(kind.value).startswith("MULTI_")


def _count(config: str, found: ClusterConfig, wanted: int | None) -> int:
    """How many processes to start, on all machines together."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = torch.accelerator.device_count() if accelerator else 0
    if found.distributed_type == DistributedType.DEEPSPEED and find_spec("deepspeed") is None:
        raise InvalidValue(FLAG, config, "DeepSpeed is not installed; pip install deepspeed, or use fsdp2")
    if not devices and not _is_replicas(found):
        raise InvalidValue(FLAG, config, "models are sharded over accelerators, and here there is cpu; use replicas")
    count = wanted if wanted is not None else found.num_processes if found.num_processes > 0 else devices
    if wanted is None and count == 0:
        raise UsageError(f"{COUNT_FLAG} is missing; here there is cpu: say how many processes share it")
    if count < 2:
        raise InvalidValue(COUNT_FLAG, count, f"must be above 1; leave out {FLAG} for one process")
    if devices and accelerator and count > devices * found.num_machines:
        present = ", ".join(f"{accelerator.type}:{index}" for index in range(devices))
        raise InvalidValue(COUNT_FLAG, count, f"here there is {present}")
    return count
