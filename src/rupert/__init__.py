"""rupert: open-weight language models that break when they are tampered with, and the evidence that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame

__all__ = ["__version__", "results"]

__version__ = "0.1.0"


def results(folder: str | Path) -> DataFrame:
    """The numbers of a study: one row for each model and metric, with interval and count.

    Args:
        folder: of `rupert run`.

    Raises:
        FolderError: it holds none, or damaged ones.
    """
    from pathlib import Path

    from rupert.report.results import read_results

    return read_results(Path(folder))
