"""Saving a model as a Hugging Face folder: safetensors, configuration and tokenizer."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rupert.errors import DiskFullError
from rupert.models.loading import without_bars

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")  # a large model's weights are several files and an index
# Configuration and tokenizer beside the weights, generously.
OVERHEAD_BYTES = 32 * 2**20
SHORT_WRITE = "] . unexpected pos "  # what PyTorch says when it could write a part only
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# What Transformers would write into a tokenizer's configuration of how this process came by it.
HOW_FOUND = ("is_local", "local_files_only")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer into `folder`.

    The same model gives the same bytes, wherever it was loaded from.

    Raises:
        DiskFullError: there is no room for the weights, and nothing was written; or the disk filled up on the way, and
            the file that did not fit is not there.
    """
    needed = sum(parameter.nbytes for parameter in model.parameters()) + OVERHEAD_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(f"--output-dir: {str(folder)!r} has {free >> 20} MiB free, {needed >> 20} MiB are needed")
    for key in HOW_FOUND:
        tokenizer.init_kwargs.pop(key, None)
    with without_bars(), full_disk_named(folder):
        tokenizer.save_pretrained(folder)  # before the weights take the room: its writer's errors have no type to tell
        model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)  # safetensors keeps its files from all but their owner


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Say of a disk that fills up which folder was written to."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full_disk(error):
            raise
        raise DiskFullError(f"no space left for {str(folder)!r}; free some and repeat the command") from error


def _is_full_disk(error: OSError | RuntimeError | SafetensorError) -> bool:
    """Whether the system found no space; safetensors' errors have its number in their text, PyTorch's nowhere."""
    is_numbered = any(getattr(error, "errno", None) == code or f"(os error {code})" in str(error) for code in FULL_DISK)
    return is_numbered or SHORT_WRITE in str(error)


def missing_weights(folder: Path) -> str:
    """What is wrong with the weights in a folder, by the sizes in their headers; empty where nothing is.

    A file that was cut short is found without reading it.
    """
    files = sorted(folder.glob("model*.safetensors"))
    index = folder / "model.safetensors.index.json"
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.exists() else set()
    except (KeyError, TypeError, ValueError):
        return f"{index.name} is damaged"
    lacking = sorted(named - {path.name for path in files})
    if lacking or not files:
        return f"{', '.join(lacking) or 'model.safetensors'} is missing"
    return cut_short(files)


def cut_short(paths: Iterable[Path]) -> str:
    """Which of some safetensors files is shorter than its header says; empty where none is."""
    return next((f"{path.name} is damaged" for path in paths if not _is_whole(path)), "")


def _is_whole(weights: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with safe_open(weights, "pt"):
            return True
    except SafetensorError:
        return False
