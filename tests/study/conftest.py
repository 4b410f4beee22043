"""A study that was run, as small as it gets: one hardening, one attack, and what measures each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TINY = """
extends: demo
defenses: {none: drop, seam: drop, sdd: {max_steps: 1, num_pairs: 16}}
attacks: {fine_tune: {learning_rate: 1e-3, num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 4}
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was run in; never changed, see `store_folder`."""
    from rupert.study.definition.reading import read_study
    from rupert.study.executors import EXECUTORS, Resources
    from rupert.study.running.run import run

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    with EXECUTORS["in_process"](Resources()) as executor:
        cells = list(run(read_study(folder / "tiny.yaml"), folder / "s", executor))
    assert [cell.error for cell in cells] == ["", ""]
    return folder / "s"


@pytest.fixture
def store_folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged; times are kept, because records are trusted by them."""
    return Path(shutil.copytree(tiny_run, tmp_path / "s"))
