"""Work for executors, where the processes that do it can import it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rupert.errors import InvalidValue


class Twofold(Exception):
    """An error that is made from two things, so that pickle loses it."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def double(number: int) -> int:
    return 2 * number


def here(_: object) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def compute(_: object) -> tuple[bool, int, float]:
    """Whether PyTorch was there before, its threads, and a sum that they make together."""
    preloaded = "torch" in sys.modules
    import torch

    return preloaded, torch.get_num_threads(), float((torch.ones(300, 300) @ torch.ones(300, 300)).sum())


def refuse(field: str) -> None:
    raise InvalidValue(field, {"a": 1}, "must be something else")


def break_twofold(_: object) -> None:
    raise Twofold("this", "that")


def break_plainly(key: str) -> str:
    return {"other": "value"}[key]


def give_a_function(_: object) -> object:
    return lambda: None


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    sys.exit(code)


def linger(folder: Path) -> str:
    """Run until Ctrl-C, and note that there was time to stop."""
    say(folder, "begun", f"{os.getpid()} {os.getppid()}")
    try:
        while True:
            time.sleep(0.02)
    except KeyboardInterrupt:
        say(folder, "stopped", "cleanly")
        raise


def finish_anyway(folder: Path) -> int:
    """Run until Ctrl-C with a handler of its own, as a training does, and count how often it came."""
    with counting() as presses:
        say(folder, "begun", f"{os.getpid()} {os.getppid()}")
        while not presses:
            time.sleep(0.02)
        time.sleep(0.5)  # a second one would come now
        say(folder, "stopped", str(len(presses)))
    return len(presses)


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
    presses: list[int] = []

    def count(number: int, frame: FrameType | None) -> None:
        presses.append(number)

    before = signal.signal(signal.SIGINT, count)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


def never_stop(folder: Path) -> None:
    """Run on whatever Ctrl-C says."""
    with counting() as presses:
        say(folder, "begun", f"{os.getpid()} {os.getppid()}")
        while True:
            time.sleep(0.02)
            say(folder, "presses", str(len(presses)))


def say(folder: Path, name: str, text: str) -> None:
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


def heard(folder: Path, name: str) -> str:
    """What was said; waits for it."""
    deadline = time.monotonic() + 60
    while not (folder / name).exists():
        assert time.monotonic() < deadline, f"no {name} in {folder}"
        time.sleep(0.02)
    return (folder / name).read_text()


def main(work: str, folder: str) -> None:
    """A program that waits for work in another process: what Ctrl-C and `kill -9` are tried on."""
    from rupert.study.executors import EXECUTORS, Resources, processes

    processes.PRELOADED = "rupert.errors"  # and nothing that takes seconds
    with EXECUTORS["processes"](Resources(workers=1, gpus_per_stage=0)) as executor:
        executor.submit(globals()[work], Path(folder)).result()


if __name__ == "__main__":
    main(*sys.argv[1:])
