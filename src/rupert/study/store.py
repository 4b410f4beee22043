"""The folder of a study's stages: each in a folder of its own, named by its label and its identity.

    S/study.json                            the study that was last run
    S/defend|attack|evaluate|score/<label>-<identity>/    stages that are done
    S/working/<kind>-<identity>/            stages that are not; what is there is gone on from
    S/damaged/...                           what was found damaged, and is never used
    S/locks/<identity>                      one file a stage, locked while somebody works on it

A stage is worked on beside its place and renamed when its record is there, so that whatever stands in its place is
whole. Locks are the operating system's: they end with the process that holds them, however it ends, and ask no clock.
A store that several machines share needs a file system with locks, as NFS 4, Lustre and others have.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rupert.errors import FolderError, UsageError
from rupert.folders import REQUEST_FILE
from rupert.records import is_leftover, write_json
from rupert.study.definition.problems import at
from rupert.study.definition.study import Study, restore

STUDY_FILE = "study.json"
WORKING, DAMAGED, LOCKS = "working", "damaged", "locks"
KINDS = ("defend", "attack", "evaluate", "score")
SHORT = 12  # characters of an identity in a folder's name
RUNS = "runs"  # the lock that every run of a study shares, so that nothing is deleted under it
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Store:
    """What several processes, on several machines, may use at once."""

    folder: Path

    def open(self, described: Mapping[str, Any]) -> None:
        """Make the folder a store, or find that it is one, and remember what study is run in it.

        Raises:
            FolderError: it holds something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise FolderError(f"--output-dir: {str(self.folder)!r} is a file; name a new or empty folder")
        others = self.folder.exists() and not all(map(is_leftover, self.folder.iterdir()))
        if others and not (self.folder / STUDY_FILE).exists():
            self._refuse_older()
            raise FolderError(f"--output-dir: {str(self.folder)!r} holds other files; name a new or empty folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(described, self.folder / STUDY_FILE)
        for kind in (*KINDS, WORKING, LOCKS):
            (self.folder / kind).mkdir(exist_ok=True)

    def study(self) -> Study:
        """The study that was last run.

        Raises:
            FolderError: there is none, or its file is damaged.
        """
        path = self.folder / STUDY_FILE
        try:
            with at(str(path)):
                return restore(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_older()
            raise FolderError(f"{str(self.folder)!r} holds no study; name the folder of `rupert run`") from None
        except ValueError as error:
            raise FolderError(f"{path}: damaged ({error}); repeat its `rupert run` command") from None

    def _refuse_older(self) -> None:
        """Before there were stores, a study's folder was claimed by a request, and its stages were named by labels."""
        if (self.folder / REQUEST_FILE).is_file() and any((self.folder / kind).is_dir() for kind in KINDS):
            remedy = "run it again in a new folder; its stages stay as they are, and `rupert diff` reads each"
            raise FolderError(f"{str(self.folder)!r} holds a study of a rupert that had no stores; {remedy}")

    def place(self, kind: str, identity: str) -> Path | None:
        """Where a stage stands that is done, under whatever label; none where it is not done."""
        ending = f"-{identity[:SHORT]}"
        with suppress(FileNotFoundError):
            return next((path for path in (self.folder / kind).iterdir() if path.name.endswith(ending)), None)
        return None

    def working(self, kind: str, identity: str) -> Path:
        """Where a stage is worked on; its folder may not be there yet."""
        return self.folder / WORKING / f"{kind}-{identity[:SHORT]}"

    def publish(self, working: Path, kind: str, label: str, identity: str) -> Path:
        """Put a stage that has its record in its place."""
        place = self.folder / kind / f"{label}-{identity[:SHORT]}"
        working.rename(place)
        _write_through(place.parent)
        return place

    def set_aside(self, path: Path) -> Path:
        """Move what is damaged to where nothing looks for it; nothing is deleted."""
        kept = self.folder / DAMAGED
        kept.mkdir(exist_ok=True)
        names = (kept / f"{path.parent.name}-{path.name}-{number}" for number in range(1, 10_000))
        target = next(name for name in names if not name.exists())
        path.rename(target)
        return target

    def progress(self, kind: str, identity: str) -> Path:
        """The file that says how far the work on a stage is."""
        return self.folder / WORKING / f"{kind}-{identity[:SHORT]}.json"

    @contextmanager
    def lock(self, identity: str, *, shared: bool = False) -> Iterator[bool]:
        """Within, nobody else works on a stage, or, `shared`, nobody changes it; or it is False, and somebody does.

        Raises:
            UsageError: the file system has no locks.
        """
        with self._lock_file(identity).open("a") as file:
            yield _locked(file.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def is_locked(self, identity: str) -> bool:
        """Whether somebody works on a stage now; nothing is written."""
        try:
            with self._lock_file(identity).open("r") as file:
                return not _locked(file.fileno(), fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def _lock_file(self, identity: str) -> Path:
        return self.folder / LOCKS / identity[: 2 * SHORT]


def _locked(file: int, how: int) -> bool:
    """Take a lock that ends when the file is closed; whether it was free."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise UsageError("--output-dir: its file system has no locks; name a folder on one that has them") from None
    return True


def _write_through(folder: Path) -> None:
    """Have a folder's entries on the disk, so that a power cut cannot undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
