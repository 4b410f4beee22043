"""A folder to publish: hardened weights from a study's store, checked byte for byte against their record."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rupert.errors import FolderError
from rupert.folders import REQUEST_FILE
from rupert.models.loading import MODEL_FILES, weights_hash
from rupert.models.saving import missing_weights
from rupert.records import RESULT_FILE, is_leftover, read_record

SUMS_FILE = "SHA256SUMS"
OWN = (REQUEST_FILE, RESULT_FILE)  # what a stage keeps beside its model
# Files that hold code when they are read as weights.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.gguf")


def check_weights(stage: Path) -> None:
    """Make sure that the weights in a stage's folder are whole, are no pickles, and are those of its record.

    Every byte is read.

    Raises:
        FolderError: they are not.
    """
    record = read_record(stage)
    pickled = sorted(path.name for pattern in PICKLED for path in stage.glob(pattern))
    if pickled:
        raise FolderError(f"{str(stage)!r} holds {pickled[0]!r}, which is not safetensors; only these are published")
    problem = missing_weights(stage)
    if problem:
        raise FolderError(f"{str(stage)!r}: {problem}; repeat `rupert run`, which makes it again")
    if not record.output_hash or weights_hash(stage) != record.output_hash:
        raise FolderError(f"{str(stage)!r}: its files are not those of its record; repeat `rupert run`")


def count_parameters(stage: Path) -> int | None:
    """Numbers in the weights of a folder, by the headers of its files; none where they are not there or damaged."""
    if missing_weights(stage):
        return None
    return sum(_count(path) for path in stage.glob("model*.safetensors"))


def _count(weights: Path) -> int:
    try:
        with safe_open(weights, "pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    except SafetensorError:
        raise FolderError(f"{weights}: damaged; repeat `rupert run`, which makes it again") from None


def refuse_full(folder: Path) -> None:
    """Refuse a place for a release that is not empty.

    Raises:
        FolderError: it is a file or a link, or holds something.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FolderError(f"--output-dir: {str(folder)!r} is a file or a link; name a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderError(f"--output-dir: {str(folder)!r} is not empty; name a new or empty folder")


def release(stage: Path, texts: Mapping[str, str], folder: Path) -> list[str]:
    """Put model, configuration, tokenizer and texts into a new folder, with the SHA-256 of every file.

    The folder appears whole or not at all.

    Args:
        stage: the folder of a finished hardening.
        texts: name -> what is written beside the model.
        folder: new or empty.

    Returns:
        the names of the files.

    Raises:
        FolderError: the weights are not those of their record, or the folder is not empty.
    """
    refuse_full(folder)
    check_weights(stage)
    with _whole_or_not(folder) as made:
        for path in _published(stage):
            shutil.copyfile(path, made / path.name)
        if weights_hash(made) != read_record(stage).output_hash:
            raise FolderError(f"{str(stage)!r}: its files changed while they were copied; repeat the command")
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        sums = {path.name: _sum(path) for path in sorted(made.iterdir())}
        (made / SUMS_FILE).write_text("".join(f"{known}  {name}\n" for name, known in sums.items()), encoding="utf-8")
    return [*sums, SUMS_FILE]


def _published(stage: Path) -> list[Path]:
    """The files that a model is loaded from: those that its hash is of."""
    found = {path for pattern in MODEL_FILES for path in stage.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name not in OWN and not is_leftover(path))


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is asked for, which takes its place when everything in it is written."""
    made = folder.absolute().with_name(f".{folder.absolute().name}.{uuid.uuid4().hex}")
    made.mkdir(parents=True)
    try:
        yield made
        made.replace(folder)  # an empty folder gives way
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(values: object) -> str:
    """JSON as it is published: no number that JSON does not have."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
