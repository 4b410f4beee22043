"""`rupert demo`: how it uses the machine; what it shows is tested with the commands."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from rupert.cli import demo
from rupert.cli.main import main


@pytest.mark.parametrize(
    ("words", "cores", "executor", "workers"),
    [
        ([], 2, "processes", 2),
        ([], 64, "processes", demo.WORKERS),
        (["--workers", "9"], 64, "processes", 9),
        (["--executor", "in_process"], 2, "in_process", None),
        (["--executor", "ray"], 2, "ray", None),
        (["--model", "smollm2"], 2, "in_process", None),
    ],
)
def test_a_process_a_core_where_the_model_is_small(
    monkeypatch: pytest.MonkeyPatch, words: list[str], cores: int, executor: str, workers: int | None
) -> None:
    asked: list[argparse.Namespace] = []

    def shown(_: Any, arguments: argparse.Namespace, *__: Any) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(demo, "run_and_show", shown)
    monkeypatch.setattr(demo, "cores", lambda: cores)
    assert main(["demo", *words]) == 0
    assert [(arguments.executor, arguments.workers) for arguments in asked] == [(executor, workers)]
