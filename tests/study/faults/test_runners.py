"""Several runs on one store, a run that is killed from outside, and clocks that cannot be trusted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

STAGES = [
    *("defend none", "defend sdd-seed0", "attack none-fine_tune-seed0", "attack sdd-fine_tune-seed0"),
    *("evaluate none-none-seed0", "evaluate none-fine_tune-seed0", "evaluate sdd-none-seed0"),
    *("evaluate sdd-fine_tune-seed0", "score none-potionworld-seed0", "score sdd-potionworld-seed0"),
]
LONG_AGO, FAR_AHEAD = 1_000_000_000, 4_000_000_000  # seconds since 1970


def test_two_runs_at_once_do_each_stage_once(bench: Any) -> None:
    runs = [bench.begin(), bench.begin()]
    assert [bench.forks.wait(run) for run in runs] == [0, 0]
    assert Counter(bench.started()) == Counter(STAGES)
    bench.require_same()


def test_a_run_finishes_what_another_left_that_was_killed(bench: Any) -> None:
    bench.restore("attack/sdd-", "evaluate/sdd-fine_tune", "evaluate/none-none", "score/none-")
    killed = bench.begin(die_at_call={"of": "trl:SFTTrainer.training_step", "number": 1})
    wait_until(lambda: "score none-potionworld-seed0" in bench.started(), lambda: bench.forks.ended(killed) is None)
    other = bench.begin()  # not before: whoever comes to a training first does it
    assert [bench.forks.wait(killed), bench.forks.wait(other)] == [-9, 0]
    bench.require_same()


def test_the_command_is_killed_and_repeated(bench: Any) -> None:
    """The real command, from outside, when the first stage is done and another has begun."""
    study = bench.root / "study.yaml"
    study.write_text(bench.study, encoding="utf-8")
    command = [sys.executable, "-m", "rupert", "run", str(study), "--output-dir", str(bench.store)]
    with (bench.root / "out.txt").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    wait_until(
        lambda: any(bench.store.glob("defend/none-*")) and any(bench.store.glob("working/*/request.json")),
        lambda: process.poll() is None,
    )
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    ended = bench.run()
    assert (ended.code, ended.told) == (0, [])
    assert "defend none" not in bench.started()
    bench.require_same()


def wait_until(condition: Callable[[], bool], lives: Callable[[], bool]) -> None:
    """Look again and again, as long as the run lives that is to bring it about."""
    deadline = time.monotonic() + 300
    while not condition():
        assert lives() or condition(), "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_done_twice_when_the_clock_goes_backwards(bench: Any) -> None:
    """Half of the files are from the future, half from long ago, and each look at the clock finds it earlier."""
    bench.restore("attack/sdd-", "evaluate/sdd-fine_tune")
    for number, path in enumerate(sorted(bench.store.rglob("*"))):
        os.utime(path, times=(LONG_AGO, LONG_AGO) if number % 2 else (FAR_AHEAD, FAR_AHEAD))
    ended = bench.run(turn_clock_back={"by": 60.0})
    assert (ended.code, ended.told) == (0, []), ended.said
    assert bench.started() == ["attack sdd-fine_tune-seed0", "evaluate sdd-fine_tune-seed0"]
    bench.require_same()
    for path in bench.stage("attack/sdd-").iterdir():  # the clock was set back before the record was written
        os.utime(path, times=(LONG_AGO, LONG_AGO) if path.name == "result.json" else (FAR_AHEAD, FAR_AHEAD))
    bench.starts.write_text("")
    ended = bench.run()
    assert (ended.code, ended.told, bench.started()) == (0, [], [])
