"""What a store holds and its study does not need: found, and deleted where that harms nobody.

Only what is recognized as a stage's is ever deleted: a folder, no link, in its place in the store, named as the store
names it, and with the request of just that stage in it. All else is somebody's, and is left.

Lock files stay for ever. Whoever has one open would hold a lock on a file that nobody else finds, and two would do the
same stage at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rupert.errors import FolderError
from rupert.folders import REQUEST_FILE
from rupert.study.definition.study import Study
from rupert.study.running.attacked_weights import drop, weights_in
from rupert.study.running.launched import ERROR_FILE
from rupert.study.store import DAMAGED, KINDS, LOCKS, RUNS, SHORT, WORKING, Store
from rupert.study.survey.stages import Surveyed, survey

IDENTITY = rf"(?P<identity>[0-9a-f]{{{SHORT}}})"
STAGE = re.compile(rf"(?P<label>.+)-{IDENTITY}")
# A folder, the file that says how far its stage is, and what such a file is while it is written.
WORK = re.compile(rf"\.?(?P<kind>{'|'.join(KINDS)}|restore)-{IDENTITY}(\.json)?")
SET_ASIDE = re.compile(rf"({'|'.join(KINDS)}|{WORKING})-.+-{IDENTITY}-\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Something that can be deleted.

    Attributes:
        path: of a folder or a file.
        about: what it is.
        size: bytes that are gained.
        identity: whose lock is needed; empty for what nothing looks at.
        weights_only: whether of a folder only the weights can be deleted.
    """

    path: Path
    about: str
    size: int
    identity: str = ""
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        garbage: what can be deleted.
        foreign: what stands among stages and was not made by rupert.
    """

    garbage: tuple[Garbage, ...]
    foreign: tuple[Path, ...]


def find(folder: Path) -> Found:
    """What the store in a folder holds and its study does not need; nothing is written.

    What somebody works on is no garbage, nor what may belong to a stage that has no identity yet, because what it works
    on is not done: folders with its label, and what was begun of its kind.

    Raises:
        FolderError: it holds no study, or a damaged one.
    """
    store = Store(folder.resolve())
    study = store.study()
    search = _Search(store, study, list(survey(study, store)))
    garbage = [found for look in (search.stages, search.working, search.set_aside, search.weights) for found in look()]
    return Found(tuple(garbage), tuple(search.foreign))


def delete(folder: Path) -> tuple[Found, tuple[Garbage, ...]]:
    """Delete what `find` finds.

    Returns:
        what it found, and what of that could not be deleted because somebody works on it.

    Raises:
        FolderError: it holds no study, or one that is being run.
    """
    store = Store(folder.resolve())
    store.study()  # in any other folder no lock file is made
    if (store.folder / DAMAGED).is_symlink():  # what is deleted goes through it
        raise FolderError(f"{str(folder / DAMAGED)!r} is a link, and nothing outside is deleted; put a folder there")
    with store.lock(RUNS) as nobody_runs:
        if not nobody_runs:
            raise FolderError(f"{str(folder)!r}: a study is being run in it; repeat the command when it is done")
        found = find(folder)
        return found, tuple(one for one in found.garbage if not _delete(one, store))


def _delete(garbage: Garbage, store: Store) -> bool:
    """Delete one thing, unless somebody works on it."""
    if not garbage.identity:
        shutil.rmtree(garbage.path)  # of a link within, it deletes the link alone
        return True
    with store.lock(garbage.identity) as mine:
        if mine and garbage.weights_only:
            drop(garbage.path)
        elif mine and garbage.path.is_dir():
            # Out of its place at once: of a folder that is half deleted, a record must not say that it is done.
            shutil.rmtree(store.set_aside(garbage.path))
        elif mine:
            garbage.path.unlink(missing_ok=True)
        return mine


class _Search:
    """Looks through the folders of a store."""

    def __init__(self, store: Store, study: Study, surveyed: list[Surveyed]) -> None:
        self.foreign: list[Path] = []
        self._store = store
        self._study = study
        self._surveyed = surveyed
        self._known = {(one.node.kind, one.task.identity[:SHORT]) for one in surveyed if one.task}
        self._unknown = {(one.node.kind, one.node.label) for one in surveyed if not one.task}

    def stages(self) -> Iterator[Garbage]:
        """Stages that no stage of the study is."""
        for kind in KINDS:
            for path, name in self._named(kind, STAGE):
                if (kind, name["identity"]) in self._known or (kind, name["label"]) in self._unknown:
                    continue
                yield from self._garbage(path, _requested(path), name["identity"], "not of this study")

    def working(self) -> Iterator[Garbage]:
        """What was begun of stages that no stage of the study is, and attacks that were repeated for their weights."""
        unknown_kinds = {kind for kind, _ in self._unknown}
        for path, name in self._named(WORKING, WORK):
            kind, short = name["kind"], name["identity"]
            if (kind, short) in self._known or kind in unknown_kinds:
                continue
            identity = _requested(path) or (self._locked_as(short) if _holds_news_alone(path) else "")
            yield from self._garbage(path, identity, short, "begun, and not gone on from")

    def set_aside(self) -> Iterator[Garbage]:
        """What was found damaged."""
        for path, _ in self._named(DAMAGED, SET_ASIDE):
            if path.is_dir() and not path.is_symlink():
                yield Garbage(path=path, about="was found damaged", size=_size(path))
            else:
                self.foreign.append(path)

    def weights(self) -> Iterator[Garbage]:
        """Weights of attacked models that all their stages are done with, where the study keeps none."""
        if self._study.attacked != "drop":
            return
        needed = {one.node.model for one in self._surveyed if not one.place}
        for one in self._surveyed:
            if one.node.kind != "attack" or not one.task or not one.place or one.node in needed:
                continue
            size, identity = sum(map(_size, weights_in(one.place))), one.task.identity
            leads_away = one.place.resolve() != one.place
            if size and not leads_away and not self._store.is_locked(identity):
                about = "its weights, which are measured"
                yield Garbage(path=one.place, about=about, size=size, identity=identity, weights_only=True)

    def _named(self, folder: str, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
        """What stands in a folder of the store and is named as the store names it."""
        place = self._store.folder / folder
        if place.is_symlink():  # what it leads to is not in the store
            self.foreign.append(place)
        elif place.is_dir():
            for path in sorted(place.iterdir()):
                if name := pattern.fullmatch(path.name):
                    yield path, name
                else:
                    self.foreign.append(path)

    def _garbage(self, path: Path, identity: str, short: str, about: str) -> Iterator[Garbage]:
        if not identity.startswith(short):
            self.foreign.append(path)
        elif not self._store.is_locked(identity):
            yield Garbage(path=path, about=about, size=_size(path), identity=identity)

    def _locked_as(self, short: str) -> str:
        """As much of an identity as the name of its lock file tells."""
        return next((path.name for path in (self._store.folder / LOCKS).glob(f"{short}*")), "")


def _requested(path: Path) -> str:
    """The identity of the stage that a folder was claimed for; empty for anything else."""
    if path.is_symlink():
        return ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((path / REQUEST_FILE).read_text(encoding="utf-8"))["identity"])
    return ""


def _holds_news_alone(path: Path) -> bool:
    """Whether it is a file that says how far a stage is, or a folder with nothing but why one failed."""
    if path.is_symlink():
        return False
    if path.suffix == ".json":
        return not path.is_dir()
    return path.is_dir() and {inner.name for inner in path.iterdir()} <= {ERROR_FILE}


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed."""
    files = [path] if path.is_file() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # somebody is at work
            total += file.lstat().st_size
    return total
