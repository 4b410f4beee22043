"""Files of a report in a folder of the user's: what rupert wrote may be written anew, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from rupert.errors import FolderError
from rupert.records import write_json

LIST_FILE = ".rupert-report.json"  # the files that were written, each with the SHA-256 of what was


def refuse_foreign(names: Sequence[str], folder: Path, own: Sequence[str] = ()) -> None:
    """Make sure, before any work is done, that files can be written without loss.

    Args:
        names: of the files, relative to the folder, with slashes.
        folder: where they go.
        own: names that are rupert's in this folder, whatever they hold.

    Raises:
        FolderError: one of them is there and is not as rupert wrote it, or cannot be a file there.
    """
    listed = _listed(folder)
    for name in names:
        path = folder / name
        for above in (path.parent, *path.parent.parents):
            if above.exists() and not above.is_dir():
                raise FolderError(f"--output-dir: {str(above)!r} is a file; name another folder")
        if path.is_dir():
            raise FolderError(f"--output-dir: {str(path)!r} is a folder; name another one for the report")
        if name not in own and (path.exists() or path.is_symlink()) and _hash(_read(path)) not in listed.get(name, []):
            raise FolderError(f"--output-dir: {str(path)!r} is not as rupert wrote it; move it, or name another folder")


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files by their names; a crash leaves each old or new, and rupert knows all of them again.

    Raises:
        FolderError: as `refuse_foreign`, which is to be called before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed, new = _listed(folder), {name: _hash(content) for name, content in files.items()}
    write_json(listed | {name: [*listed.get(name, []), found] for name, found in new.items()}, folder / LIST_FILE)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _write(content, folder / name)
    write_json(listed | {name: [found] for name, found in new.items()}, folder / LIST_FILE)


def _listed(folder: Path) -> dict[str, list[str]]:
    path = folder / LIST_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): list(map(str, hashes)) for name, hashes in found.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (AttributeError, TypeError, ValueError) as error:
        raise FolderError(f"{path}: damaged ({error}); name another folder with --output-dir") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a link to nothing
        return b""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(content: bytes, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
