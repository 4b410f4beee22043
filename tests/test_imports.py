"""Importing rupert is free: nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rupert

HEAVY = ("torch", "transformers", "numpy", "pandas", "yaml", "datasets", "trl", "peft", "rich")
HELP = """
from rupert.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
"""
LIGHT_PARTS = ("errors", "records", "folders", "settings", "data", "report")


def loaded(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter holds after running `code`."""
    report = f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of(part: str) -> list[str]:
    root = Path(rupert.__file__).parent
    paths = sorted((root / part).rglob("*.py")) or [root / f"{part}.py"]
    return [
        ".".join(("rupert", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__") for path in paths
    ]


def test_importing_rupert_loads_nothing_heavy() -> None:
    assert loaded("import rupert") == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded(HELP) == set()


@pytest.mark.parametrize("part", LIGHT_PARTS)
def test_the_lower_floors_and_the_report_load_no_model_library(part: str) -> None:
    names = modules_of(part)
    assert all(find_spec(name) is not None for name in names)
    code = "\n".join(f"import {name}" for name in names)
    assert loaded(code) & {"torch", "transformers", "datasets", "trl", "peft"} == set()


def test_what_is_loaded_is_seen() -> None:
    assert "numpy" in loaded("import numpy")
