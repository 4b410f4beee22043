"""How far a stage is, left in a file for other processes: the study that waits for it, and `rupert status`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rupert.terminal import Listener, Progress


def file_listener(path: Path) -> Listener:
    """A listener that leaves what it is told in a file, whole at any time; one process writes it.

    It is not flushed to disk, which would cost more than the news is worth; a full disk stops the news alone.
    """
    beside = _beside(path)

    def leave(now: Progress) -> None:
        with suppress(OSError):
            beside.write_text(json.dumps(asdict(now)), encoding="utf-8")
            beside.replace(path)

    return leave


def forget(path: Path) -> None:
    """Remove what a listener left, also what a process left that was killed while it wrote."""
    for own in (path, _beside(path)):
        own.unlink(missing_ok=True)


def read_progress(path: Path) -> Progress | None:
    """What was last left in a file; None where there is none, or a damaged one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        total = None if raw["total"] is None else float(raw["total"])
        return Progress(str(raw["title"]), float(raw["done"]), total, str(raw["note"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}")
