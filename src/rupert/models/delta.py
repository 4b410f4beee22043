"""Attacked weights kept as their difference from those that were attacked, and put back from it bit for bit.

The difference is one file in safetensors' format. It holds of each tensor the bits that changed (exclusive or), as one
stream of zlib for each byte of its numbers: sign and exponent hardly change, and the end of the mantissa is noise. Its
metadata hold the headers of the weights' files and their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rupert.errors import FolderError, RunError
from rupert.models.saving import WEIGHTS, full_disk_named

DELTA_FILE = "weights.delta"  # not .safetensors, by which weights are found, and dropped
FORMAT = "rupert-delta-1"
# Of zlib. Level 6 takes up to six times as long and saves 1 % of float32 and 3 % of bfloat16 weights.
LEVEL = 1
LARGE = 10**18  # no file has as many bytes
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Bits = NDArray[np.uint8]


def write_delta(base: Path, folder: Path) -> Path:
    """Keep the weights in `folder` as their difference from those in `base`; they stay where they are.

    A tensor that `base` lacks, or has in another shape, is kept whole; one of another type is converted first. One
    tensor at a time is in memory.

    Args:
        base: a folder in Hugging Face's format with weights in safetensors, in one file or several.
        folder: another, whose files may be cut elsewhere.

    Returns:
        where the difference is.

    Raises:
        FolderError: a folder holds no weights in safetensors.
        RunError: a file of weights is damaged.
        DiskFullError: no space left; nothing was written.
    """
    originals = _Originals(base)
    _require_sound(folder)
    paths = sorted(chain.from_iterable(folder.glob(pattern) for pattern in WEIGHTS))
    files = {path.name: {"text": _text(path), "sha256": _sha256(path)} for path in paths}
    keys = [key for kept in files.values() for tensor in _tensors(kept["text"]) for key in tensor.streams]
    metadata = {"format": FORMAT, "files": json.dumps(files)}
    with _beside(folder / DELTA_FILE) as file:
        room = len(_header(metadata, dict.fromkeys(keys, (LARGE, LARGE))))
        file.seek(room)
        places = {}
        for path in paths:
            for key, stream in _changes(path, files[path.name]["text"], originals):
                begin = file.tell() - room
                file.write(stream)
                places[key] = (begin, begin + len(stream))
        file.seek(0)
        file.write(_header(metadata, places, room))
    return folder / DELTA_FILE


def apply_delta(base: Path, folder: Path, into: Path | None = None) -> None:
    """Put the weights that `write_delta` kept back: the same files, bit for bit.

    Args:
        base: the folder that the difference was taken from.
        folder: where the difference lies.
        into: where the weights go; none: beside it.

    Raises:
        FolderError: `base` holds no weights in safetensors.
        RunError: the difference or a file of `base` is damaged, or `base` is another model; nothing was written.
        DiskFullError: no space left.
    """
    originals, path = _Originals(base), folder / DELTA_FILE
    with _damage_named(path):
        delta: Any = safe_open(path, "np")
        metadata = delta.metadata()
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}")
        files = json.loads(metadata["files"])
    with ExitStack() as all_or_none:
        for name, kept in files.items():
            file, digest = all_or_none.enter_context(_beside((into or folder) / name)), hashlib.sha256()
            with _damage_named(path):
                for part in _content(name, kept["text"], delta, originals):
                    file.write(part)
                    digest.update(part)
            if digest.hexdigest() != kept["sha256"]:
                raise RunError(
                    f"{folder / name}: does not come back as it was; {str(base)!r} is not the model that was attacked, "
                    f"or was changed since; put that one back, or delete {DELTA_FILE} and repeat the attack"
                )


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor's entry in the header of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def width(self) -> int:
        """Bytes of one number; 1 where that is not known."""
        return DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 1

    @property
    def streams(self) -> list[str]:
        """What the streams of its bytes are called."""
        return [f"{self.name}#{place}" for place in range(self.width)]


class _Originals:
    """The weights that were attacked."""

    def __init__(self, folder: Path) -> None:
        _require_sound(folder)
        opened: list[Any] = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118, it is no mapping

    def bits(self, tensor: _Tensor) -> Bits:
        """The bytes of the tensor of that name, in that type; zeros where there is none."""
        if tensor.name in self._files and tensor.dtype in DTYPES:
            original: torch.Tensor = self._files[tensor.name].get_tensor(tensor.name)
            if tuple(original.shape) == tensor.shape:
                found: Bits = original.to(DTYPES[tensor.dtype]).reshape(-1).view(torch.uint8).numpy()
                return found
        return np.zeros(tensor.end - tensor.begin, dtype=np.uint8)


def _require_sound(folder: Path) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FolderError(f"{str(folder)!r} holds no weights in safetensors; name a folder that does")
    for path in paths:
        with _damage_named(path):
            safe_open(path, "pt")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, FileNotFoundError, zlib.error, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: damaged ({reason}); delete it and repeat the stage that made it") from error


def _changes(path: Path, text: str, originals: _Originals) -> Iterator[tuple[str, bytes]]:
    """For each byte of each tensor's numbers the key, and the compressed stream of what changed."""
    with path.open("rb") as file:
        start = 8 + len(text.encode())
        for tensor in _tensors(text):
            file.seek(start + tensor.begin)
            bits = np.frombuffer(file.read(tensor.end - tensor.begin), dtype=np.uint8)
            changed = (bits ^ originals.bits(tensor)).reshape(-1, tensor.width)
            for place, key in enumerate(tensor.streams):
                yield key, zlib.compress(changed[:, place].tobytes(), LEVEL)


def _content(name: str, text: str, delta: Any, originals: _Originals) -> Iterator[bytes]:
    """The bytes of a file of weights, or of their index."""
    start = text.encode()
    yield start if name.endswith(".json") else len(start).to_bytes(8, "little") + start
    for tensor in _tensors(text):
        streams = [zlib.decompress(delta.get_tensor(key).tobytes()) for key in tensor.streams]
        changed: Bits = np.stack([np.frombuffer(stream, dtype=np.uint8) for stream in streams], axis=1)
        yield (changed.reshape(-1) ^ originals.bits(tensor)).tobytes()


def _text(path: Path) -> str:
    """The header of a safetensors file, or a whole index."""
    if path.suffix == ".json":
        return path.read_text(encoding="utf-8")
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little")).decode()


def _tensors(text: str) -> list[_Tensor]:
    """What a header speaks of, in the order of the file; an index speaks of files."""
    entries = {name: entry for name, entry in json.loads(text).items() if "data_offsets" in entry}
    found = [
        _Tensor(name, entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in entries.items()
    ]
    return sorted(found, key=lambda tensor: (tensor.begin, tensor.end))


def _header(metadata: Mapping[str, str], places: Mapping[str, tuple[int, int]], room: int = 0) -> bytes:
    """The beginning of a safetensors file of bytes, filled up to `room`."""
    entries = {
        key: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for key, (begin, end) in places.items()
    }
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text = text.ljust(room - 8 if room else -(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes its place when all is written and on the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with full_disk_named(path.parent), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
