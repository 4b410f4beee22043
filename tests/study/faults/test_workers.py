"""A process that does a stage is killed: another one does it, and nothing else is lost."""

from __future__ import annotations

from typing import Any

import pytest

ELSEWHERE = {"processes": ["--workers", "2"], "ray": ["--workers", "1"]}


def marks(bench: Any) -> list[str]:
    """A file for each time that the stage in question was begun: its number and its process."""
    return sorted(path.name for path in (bench.root / "marks").iterdir())


@pytest.mark.parametrize("executor", ELSEWHERE)
def test_a_stage_whose_process_was_killed_is_done_by_another(executor: str, bench: Any) -> None:
    bench.restore("attack/sdd-", "evaluate/sdd-fine_tune", "evaluate/none-none")
    (bench.root / "marks").mkdir()
    fault = {"label": "attack sdd-fine_tune-seed0", "marks": str(bench.root / "marks"), "times": 1}
    ended = bench.run("--executor", executor, *ELSEWHERE[executor], die_in_worker=fault)
    assert ended.code == 0, ended.said
    first, second = marks(bench)
    assert first.partition("-")[2] != second.partition("-")[2]
    bench.require_same()


def test_a_stage_whose_process_dies_each_time_fails_alone(bench: Any) -> None:
    bench.restore("attack/sdd-", "evaluate/sdd-fine_tune", "evaluate/none-none")
    (bench.root / "marks").mkdir()
    fault = {"label": "attack sdd-fine_tune-seed0", "marks": str(bench.root / "marks"), "times": 99}
    ended = bench.run("--executor", "processes", "--workers", "2", die_in_worker=fault)
    assert ended.code == 1
    told, missing = (line for line in ended.told if line.startswith("rupert: "))
    assert told.startswith("rupert: attack sdd-fine_tune-seed0: the process that did it was killed (SIGKILL)")
    assert missing == "rupert: 1 models are missing; repeat the command to try them again"
    assert len(marks(bench)) == 3
    rows = (bench.store / "results.csv").read_text().splitlines()
    assert rows == [row for row in bench.whole.content["results.csv"].splitlines() if ",sdd,fine_tune," not in row]
    assert bench.run().code == 0
    bench.require_same()
