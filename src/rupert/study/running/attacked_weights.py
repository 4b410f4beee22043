"""Attacked weights: dropped when they are measured, because a grid of them fills a disk, and brought back at need.

What brings them back is the adapter that was merged into them, their difference from the hardened weights, or the
attack itself, done again. Whichever it is, they have to be those of the record, bit for bit.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rupert.errors import RunError
from rupert.models import loading
from rupert.models.delta import DELTA_FILE, apply_delta, write_delta
from rupert.models.loading import ModelSettings
from rupert.models.saving import WEIGHTS, save
from rupert.records import RESULT_FILE, read_record
from rupert.study.stage import ADAPTER, Work
from rupert.training.adapters import merge_adapter


def keep_difference(base: Path, attacked: Path) -> None:
    """Leave what brings the weights in a folder back, unless the adapter that was merged into them does."""
    if not (attacked / ADAPTER).exists() and not (attacked / DELTA_FILE).exists():
        write_delta(base, attacked)


def drop(attacked: Path) -> None:
    """Delete the weights; records, adapter and difference stay."""
    for path in weights_in(attacked):
        path.unlink()


def bring_back(work: Work, attacked: Path, scratch: Path) -> None:
    """Put dropped weights back where they were.

    Args:
        work: the attack that made them.
        attacked: its folder.
        scratch: where it may be done again; removed afterwards.

    Raises:
        RunError: what comes back is not what was dropped.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # what was interrupted
    if (attacked / ADAPTER).exists():
        _merge(work.model, shutil.copytree(attacked, scratch))
    elif (attacked / DELTA_FILE).exists():
        large = shutil.ignore_patterns(DELTA_FILE)
        apply_delta(Path(work.model.model), attacked, shutil.copytree(attacked, scratch, ignore=large))
    else:
        work.prepare()
        work.run(work.request().claim(scratch, resume=True))
    same = loading.weights_hash(scratch) == read_record(attacked).output_hash
    if same:
        _move_weights(scratch, attacked)
    shutil.rmtree(scratch)
    if not same:
        raise RunError(
            f"{str(attacked)!r}: its weights come back otherwise than they were recorded, as they may on another "
            "machine; run the study in a new folder, with `attacked: delta`"
        )


def _merge(base: ModelSettings, attacked: Path) -> None:
    """Of what is saved only the weights are taken: a training leaves its marks in the configuration beside them."""
    loaded, merged = loading.load(base), attacked / "merged"
    merged.mkdir()
    save(merge_adapter(loaded.model, attacked / ADAPTER), loaded.tokenizer, merged)
    for path in weights_in(merged):
        path.replace(attacked / path.name)


def _move_weights(made: Path, attacked: Path) -> None:
    """Put whole weights in their place; where there is an index it comes first, and tells which of them are missing."""
    written = (attacked / RESULT_FILE).stat()
    for path in reversed(weights_in(made)):
        os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))  # a file newer than the record would be doubted
        path.replace(attacked / path.name)


def weights_in(folder: Path) -> list[Path]:
    """The files of whole weights; a difference is none."""
    return [path for pattern in WEIGHTS for path in folder.glob(pattern)]
