"""A program that has imported everything and forks: each fork runs one command of rupert, with one fault in it.

It reads a JSON object a line and answers with one: {"start": {"words": [...], "log": path, "fault": {...}}} with the
fork's process id, {"look": id} with how it ended, minus the signal's number where a signal ended it, or none yet.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUOTA = 1000  # bytes of one file; what a run says is shorter
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
RELATIVE = CHANGES - {"os.rename"}  # their last argument is what the path is relative to, or -1
IN_STORE = ("study.json", "results.csv", "report.html", "defend", "attack", "evaluate", "score", "working", "damaged")


def die() -> None:
    """End as `kill -9`, a power cut or the system short of memory end a process: nothing more is run."""
    os.kill(os.getpid(), signal.SIGKILL)


def watch_files(store: str, reached: Callable[[str], None]) -> None:
    """Call `reached` before each change of a file in the store: an opening to write, a renaming, a removal, a folder.

    What changes nothing does not count, nor news of progress, whose number depends on the time.
    """

    def hear(event: str, args: tuple[Any, ...]) -> None:
        opens, makes = event == "open", event == "os.mkdir"
        if not opens and event not in CHANGES:
            return
        if opens and (isinstance(args[0], int) or not args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        directory = args[-1] if event in RELATIVE else -1
        beside = Path(f"/proc/self/fd/{directory}").readlink() if directory >= 0 else Path.cwd()
        place = beside / os.fsdecode(args[0])
        if Path(store) not in place.parents or (not opens and makes == place.exists()):
            return
        inside = place.relative_to(store)
        if inside.parts[0].lstrip(".").startswith(IN_STORE) and not _is_progress(inside):
            reached(f"{event} {inside} -> {Path(args[1]).name}" if event == "os.rename" else f"{event} {inside}")

    sys.addaudithook(hear)


def _is_progress(inside: Path) -> bool:
    return inside.parts[0] == "working" and len(inside.parts) == 2 and inside.suffix == ".json"


def die_at_file(store: str, what: str = "", number: int = 1) -> None:
    """Die before a change of a file in the store: before that number of those whose description `what` is found in."""
    wanted, left = re.compile(what), number

    def reached(what: str) -> None:
        nonlocal left
        left -= bool(wanted.search(what))
        if left == 0:
            print(f"killed before {what}", flush=True)
            die()

    watch_files(store, reached)


def replace(name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(what is there)` in the place of "module:Class.method" or "module:function"."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, last, make(getattr(owner, last)))


def die_at_call(of: str, number: int = 1) -> None:
    """Die when a function is called for the time of that number, before it does anything."""
    left = number

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                print(f"killed at call {number} of {of}", flush=True)
                die()
            return function(*args, **options)

        return called

    replace(of, deadly)


def refuse_call(of: list[str]) -> None:
    """Fail when one of these is called."""

    def refusing(name: str) -> Callable[[Any], Any]:
        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError(f"{name} was called")

        return lambda _: refused

    for name in of:
        replace(name, refusing(name))


def turn_clock_back(by: float) -> None:
    """Let the clock go backwards, by some seconds each time that it is looked at."""
    true, looked = time.time, 0

    def backwards() -> float:
        nonlocal looked
        looked += 1
        return true() - by * looked

    time.time = backwards


def fill_disk_at_file(store: str, what: str, filler: str, room: int = 0) -> None:
    """Take all room but some bytes before a change of a file in the store: by a file, or, without its name, a quota."""
    wanted = re.compile(what)

    def reached(found: str) -> None:
        if wanted.search(found) and not filler:
            resource.setrlimit(resource.RLIMIT_FSIZE, (QUOTA + room, QUOTA + room))
        elif wanted.search(found) and not Path(filler).exists():
            with contextlib.suppress(OSError), Path(filler).open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            os.truncate(filler, Path(filler).stat().st_size - room)

    watch_files(store, reached)


def lose_rights() -> None:
    """Let permissions count, as they do for anybody but root: the process keeps its user and loses its capabilities."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capset(header, none) == 0, os.strerror(ctypes.get_errno())


def die_in_worker(label: str, marks: str, times: int) -> None:
    """Let the process that does a stage die in the middle, so many times; see `perform_deadly`."""
    os.environ["FAULT"] = json.dumps([label, marks, times])
    import program  # by the name that workers import it by

    replace(
        "rupert.study.running.run:Task",
        lambda task: type("Deadly", (), {"perform": staticmethod(program.perform_deadly)}),
    )


def perform_deadly(task: Any) -> Any:
    """`Task.perform`; of the stage in question it dies before the record is written."""
    label, marks, times = json.loads(os.environ["FAULT"])
    if f"{task.node.kind} {task.node.label}" == label:
        begun = len(list(Path(marks).iterdir()))
        (Path(marks) / f"{begun}-{os.getpid()}").touch()
        if begun < times:
            die_at_call("rupert.folders:StageFolder.finish")
    return task.perform()


FAULTS = {
    fault.__name__: fault
    for fault in (
        die_at_file,
        die_at_call,
        refuse_call,
        turn_clock_back,
        fill_disk_at_file,
        lose_rights,
        die_in_worker,
    )
}


def note_starts(path: str) -> None:
    """Note each stage that is really worked on: one line, whoever else writes to the file."""

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def noted(task: Any, *args: Any) -> Any:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{task.node.kind} {task.node.label}\n".encode())
            os.close(file)
            return run(task, *args)

        return noted

    replace("rupert.study.running.task:Task._run", noting)


def save_often() -> None:
    """Let each step of a hardening leave a checkpoint."""
    import rupert.cli.run

    runtime = rupert.cli.run.Runtime
    rupert.cli.run.Runtime = functools.partial(runtime, save_steps=1)


def run(words: list[str], log: str, faults: dict[str, Any], starts: str = "") -> None:
    """Run a command of rupert, and end."""
    for stream, name in ((1, f"{log}.out"), (2, log)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 70
    try:
        from rupert.cli.main import main

        save_often()
        if starts:
            note_starts(starts)
        for name, options in faults.items():
            FAULTS[name](**options)
        code = main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Do what comes, until nobody can send any more."""
    import torch

    from rupert.cli.main import quieten_libraries

    quieten_libraries()
    for module in ("rupert.cli.run", "rupert.evaluation.coherence.reference", "rupert.models.embedding", "lm_eval"):
        importlib.import_module(module)
    torch.set_num_threads(1)
    remember_examples()
    replace("rupert.training.irrelevant_pairs:load_encoder", functools.cache)
    importlib.import_module("rupert.training.irrelevant_pairs").load_encoder("all-MiniLM-L6-v2")
    assert set(threads()) <= {"jemalloc_bg_thd"}, "threads do not survive a fork"
    gc.freeze()  # what forks share stays shared
    answer({"ready": os.getpid()})
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            child = os.fork()
            if child == 0:
                run(**asked["start"])
            answer({"started": child})
        else:
            answer({"ended": look(asked["look"], ended)})


def look(process: int, ended: dict[int, int]) -> int | None:
    """How a fork ended, if it has: the system tells only once, whoever asks may ask again."""
    if process not in ended:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            ended[process] = os.waitstatus_to_exitcode(status)
    return ended.get(process)


def remember_examples() -> None:
    """Make the world's rows once for all forks: it takes longer than all else that a small study does."""
    from rupert.data import potionworld, sources

    for split, make in list(potionworld._EXAMPLES.items()):
        potionworld._EXAMPLES[split] = functools.partial(list, make())
    sources.identities({split: f"potionworld:{split}" for split in potionworld.SPLITS})


def threads() -> list[str]:
    """The names of this process's other threads; that of the memory allocator, which PyArrow brings, minds no fork."""
    tasks = Path("/proc/self/task")
    others = [task for task in tasks.iterdir() if task.name != str(os.getpid())] if tasks.exists() else []
    return [(task / "comm").read_text().strip() for task in others]


def answer(value: dict[str, int | None]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    serve()
