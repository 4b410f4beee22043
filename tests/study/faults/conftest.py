"""A small study, run once undisturbed; copies of its store to be broken; and forks that run it with a fault in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rupert.records import is_leftover

HERE = Path(__file__).parent
STUDY = """\
extends: demo
defenses:
  seam: drop
  sdd: {max_steps: 3, num_pairs: 8, per_device_train_batch_size: 4}
attacks:
  fine_tune: {learning_rate: 1e-3, num_examples: 8, num_train_epochs: 1, per_device_train_batch_size: 4}
  benign: drop
evaluation: {limit: 6, batch_size: 2}
scores:
  potionworld: {num_examples: 4, limit: 4}
"""
KINDS = ("defend", "attack", "evaluate", "score")
SOME_STORE = re.compile(r'"[^"]*/((?:defend|attack)/[^"/]+")')  # its path is in records
SHOWN = re.compile(r" +\d+ s  ")
ANYWHERE = {"seconds", "environment"}  # what two runs of a stage may differ in


class Forks:
    """A program that has imported everything: each run is a fork of it, and begins at once; see `program.py`."""

    def __init__(self) -> None:
        cache = os.environ["XDG_CACHE_HOME"]  # that of the tests; Ray leaves a token in the home folder
        environment = {**os.environ, "PYTHONPATH": str(HERE), "HOME": cache}
        command = [sys.executable, str(HERE / "program.py")]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._lock = threading.Lock()
        assert self._server.stdout is not None
        assert "ready" in json.loads(self._server.stdout.readline())

    def start(self, words: list[str], log: Path, faults: Mapping[str, Any], starts: str = "") -> int:
        """Begin a run; returns its process id."""
        asked = {"words": words, "log": str(log), "faults": dict(faults), "starts": starts}
        started = self._ask({"start": asked})["started"]
        assert started
        return started

    def wait(self, process: int) -> int:
        """How a run ended: its exit code, or minus the signal that ended it."""
        while (ended := self.ended(process)) is None:
            time.sleep(0.02)
        return ended

    def ended(self, process: int) -> int | None:
        """How a run ended; None while it lives."""
        return self._ask({"look": process})["ended"]

    def close(self) -> None:
        """End the program."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, int | None]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with self._lock:
            self._server.stdin.write(json.dumps(question) + "\n")
            self._server.stdin.flush()
            answer: dict[str, int | None] = json.loads(self._server.stdout.readline())
        return answer


@dataclass(frozen=True)
class Whole:
    """The store as an undisturbed run left it.

    Attributes:
        store: a copy of it.
        content: what is in it, see `content`.
    """

    store: Path
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """A store to break, and the commands that work on it.

    Attributes:
        forks: where commands run.
        root: the bench's own folder.
        whole: what is to come out.
    """

    forks: Forks
    root: Path
    whole: Whole

    study = STUDY

    def content(self) -> dict[str, Any]:
        """What is in the store; see `content`."""
        return content(self.store)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def starts(self) -> Path:
        return self.root / "starts.txt"

    def restore(self, *without: str) -> None:
        """Put the undisturbed store back, without some of its stages, named as "attack/sdd-"."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.whole.store, self.store)
        for name in without:
            shutil.rmtree(self.stage(name))
        self.starts.write_text("")

    def stage(self, name: str) -> Path:
        """The folder of a stage, by the beginning of its name."""
        [found] = self.store.glob(f"{name}*")
        return found

    def begin(self, *options: str, study: str = STUDY, **faults: Any) -> int:
        """Begin to run a study in the store."""
        return self._begin(self.store, options, study, faults)

    def run(self, *options: str, study: str = STUDY, **faults: Any) -> Ended:
        """Run a study in the store, to its end."""
        return self.run_in(self.store, *options, study=study, **faults)

    def run_in(self, store: Path, *options: str, study: str = STUDY, **faults: Any) -> Ended:
        """Run a study in another store; what it says stays here."""
        self.log.write_text("")
        code = self.forks.wait(self._begin(store, options, study, faults))
        return Ended(code, self.log.read_text())

    def _begin(self, store: Path, options: Sequence[str], study: str, faults: Mapping[str, Any]) -> int:
        file = self.root / "study.yaml"
        file.write_text(study, encoding="utf-8")
        words = ["run", str(file), "--output-dir", str(store), *options]
        return self.forks.start(words, self.log, faults, str(self.starts))

    def started(self) -> list[str]:
        """The stages that were really worked on since the store was put back, as "attack sdd-fine_tune-seed0"."""
        return self.starts.read_text().splitlines()

    def require_same(self) -> None:
        """Make sure that the store holds what the undisturbed one holds, and nothing half-done."""
        found = content(self.store)
        assert sorted(found) == sorted(self.whole.content)
        assert {name for name in found if found[name] != self.whole.content[name]} == set()
        assert list((self.store / "working").iterdir()) == []
        assert [path for kind in KINDS for path in (self.store / kind).rglob(".*") if is_leftover(path)] == []


@dataclass(frozen=True)
class Ended:
    """How a run ended, and all that it said on standard error."""

    code: int
    said: str

    @property
    def told(self) -> list[str]:
        """What it said besides that a model is measured."""
        return [line for line in self.said.splitlines() if not SHOWN.match(line)]


def content(store: Path) -> dict[str, Any]:
    """All that a study found, but for how long it took and where: path in the store -> content."""
    files = [path for kind in KINDS for path in (store / kind).rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): _content(path) for path in [*files, store / "results.csv"]}


def _content(path: Path) -> Any:
    if path.name != "result.json":
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix != ".csv" else path.read_text()
    record = json.loads(SOME_STORE.sub(r'"STORE/\1', path.read_text(encoding="utf-8")))
    return {name: value for name, value in record.items() if name not in ANYWHERE}


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """One program for all tests."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The study, run once."""
    bench = Bench(forks, tmp_path_factory.mktemp("whole"), Whole(Path(), {}))
    ended = bench.run()
    assert ended.code == 0, ended.said
    kept = bench.store.rename(bench.root / "kept")  # elsewhere: whoever looks where it was made finds nothing
    return Whole(kept, content(kept))


@pytest.fixture
def bench(forks: Forks, whole: Whole, tmp_path: Path) -> Bench:
    """A store of the test's own, still empty."""
    return Bench(forks, tmp_path, whole)
