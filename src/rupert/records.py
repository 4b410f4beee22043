"""Frozen, versioned records: the only thing that passes between stages beside the folders they lie in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rupert.errors import FolderError

__all__ = [
    "RECORD_VERSION",
    "RESULT_FILE",
    "Metric",
    "Record",
    "ResultRow",
    "Stage",
    "content_hash",
    "drop_leftovers",
    "environment",
    "file_hash",
    "is_leftover",
    "read_record",
    "write_json",
    "write_text",
]

RECORD_VERSION = 1
RESULT_FILE = "result.json"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")  # what `write_text` calls a file until it is whole

Stage = Literal["build", "defend", "attack", "attempt", "evaluate", "score", "geometry", "fidelity"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number with its 95 % interval and the number of things it was measured on.

    `low` and `high` are None where no interval was computed, `n` where nothing was counted.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one stage did: enough to say where each number comes from and to do it again.

    Attributes:
        stage: the kind of stage.
        method: the defense, attack or evaluation by name.
        settings: every setting that changes the answer.
        model: what went in, as the user named it.
        model_hash: content hash of the weights that went in; empty for a build.
        output_hash: content hash of the model that was written, where one was; it stays when the weights are dropped.
        data: dataset name -> fingerprint of the examples used.
        metrics: what was measured.
        report: how it went, beside what was measured: pairing, training losses.
        seconds: wall time.
        environment: versions and hardware; not part of the identity.
        version: version of this shape.
    """

    stage: Stage
    method: str
    settings: Mapping[str, Any]
    model: str
    model_hash: str
    output_hash: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    version: int = RECORD_VERSION

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError where there is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One line of `results.csv`: one metric of one cell of a study. `attack` is "none" for the unattacked model."""

    study: str
    model: str
    defense: str
    attack: str
    seed: int
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None


def environment() -> dict[str, str]:
    """Versions and hardware, as records keep them."""
    packages = (
        "rupert",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "sentence-transformers",
        "lm-eval",
    )
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_json(value: Any, path: Path) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never a part."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically: beside its place, flushed to disk, then renamed; the umask decides who may read."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed process had begun to write: it was never in its place, and nobody reads it."""
    return _LEFTOVER.fullmatch(path.name) is not None


def drop_leftovers(folder: Path) -> None:
    """Remove what killed processes had begun to write in a folder; nobody else may be writing there."""
    for path in folder.rglob(".*"):
        if is_leftover(path):
            path.unlink()


def read_record(folder: Path) -> Record:
    """The record of a finished stage.

    Raises:
        FolderError: there is none, it is damaged, or a newer rupert wrote it.
    """
    path = folder / RESULT_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] > RECORD_VERSION:
            raise FolderError(f"{path}: record version {raw['version']!r} is newer than this rupert; upgrade it")
        _check_kind("metrics", raw["metrics"], list)
        metrics = tuple(Metric(**metric) for metric in raw.pop("metrics"))
        record = Record(**raw, metrics=metrics)
        _check_kinds(record)
        return record
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{folder}: holds no {RESULT_FILE}; the stage did not finish") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FolderError(
            f"{path}: damaged ({' '.join(str(error).split())}); run the stage again in a new folder"
        ) from None


def _check_kinds(record: Record) -> None:
    """Raise TypeError for a field of another kind than the one it was written as."""
    kinds: dict[str, Any] = {
        **dict.fromkeys(("stage", "method", "model", "model_hash", "output_hash"), str),
        **dict.fromkeys(("settings", "data", "report", "environment"), Mapping),
        "seconds": int | float,
    }
    for name, kind in kinds.items():
        _check_kind(name, getattr(record, name), kind)
    for metric in record.metrics:
        _check_kind("metrics", metric.name, str)
        _check_kind(metric.name, metric.value, int | float)
        for bound in (metric.low, metric.high, metric.n):
            _check_kind(metric.name, bound, int | float | None)


def _check_kind(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name!r} cannot be {value!r:.40}")
