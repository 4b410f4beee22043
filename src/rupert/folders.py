"""A stage's folder: claimed before the work, recognized when it is resumed, finished by its record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rupert.errors import FolderError
from rupert.records import RESULT_FILE, Record, content_hash, is_leftover, read_record, write_json

REQUEST_FILE = "request.json"


@dataclass(frozen=True, slots=True)
class StageFolder:
    """A folder that this stage may write into.

    Attributes:
        path: where it is.
        finished: the record of the same request, when it is done already; then there is nothing to do.
        resuming: whether an interrupted run of the same request left something to go on from.
    """

    path: Path
    finished: Record | None
    resuming: bool

    def finish(self, record: Record) -> Record:
        """Write the record: the last file, whose presence means that the stage is done."""
        write_json(record, self.path / RESULT_FILE)
        return record


def claim(path: Path, request: Mapping[str, Any], *, resume: bool = False) -> StageFolder:
    """Take `path` for one stage, or recognize it as this stage's own.

    An empty or new folder is claimed by writing the request into it. A folder with the same request is this stage's:
    finished, or to be resumed. Anything else is somebody else's and is never touched.

    Args:
        path: the output folder.
        request: everything that defines the stage; two stages with equal requests give the same answer.
        resume: go on from what an interrupted run left.

    Raises:
        FolderError: it holds something else, another request, or an unfinished run and `resume` is False.
    """
    refuse_foreign(path)
    identity = content_hash(request)
    held = _held_identity(path)
    if held is None:
        path.mkdir(parents=True, exist_ok=True)
        write_json({"identity": identity, **request}, path / REQUEST_FILE)
        return StageFolder(path, finished=None, resuming=False)
    if held != identity:
        raise FolderError(f"--output-dir: {str(path)!r} holds a run with other settings; name another folder")
    if (path / RESULT_FILE).exists():
        return StageFolder(path, finished=read_record(path), resuming=False)
    if not resume:
        raise FolderError(f"--output-dir: {str(path)!r} holds this run, unfinished; add --resume to go on with it")
    return StageFolder(path, finished=None, resuming=True)


def finished(path: Path, request: Mapping[str, Any]) -> Record | None:
    """The record of the same request, where it is done already; None otherwise. Nothing is claimed."""
    if _held_identity(path) != content_hash(request) or not (path / RESULT_FILE).exists():
        return None
    return read_record(path)


def user_cache(name: str) -> Path:
    """Where what can be made again is kept between runs: `rupert/<name>` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rupert" / name


def refuse_foreign(path: Path) -> None:
    """Refuse a folder that holds something no stage wrote, before any work is done for it.

    Raises:
        FolderError: a file, or a folder with other files.
    """
    if path.exists() and not path.is_dir():
        raise FolderError(f"--output-dir: {str(path)!r} is a file; name a new or empty folder")
    if path.exists() and not all(map(is_leftover, path.iterdir())) and not (path / REQUEST_FILE).exists():
        raise FolderError(f"--output-dir: {str(path)!r} holds other files; name a new or empty folder")


def _held_identity(path: Path) -> str | None:
    try:
        return str(json.loads((path / REQUEST_FILE).read_text(encoding="utf-8"))["identity"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError):
        raise FolderError(f"{path / REQUEST_FILE}: damaged; name another folder") from None
