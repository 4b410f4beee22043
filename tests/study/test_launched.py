"""A training of a study in two processes is the training of the study, up to the order of sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rupert.attacks import FineTune
from rupert.errors import RunError, UsageError
from rupert.models.loading import ModelSettings
from rupert.records import read_record
from rupert.study.running.launched import Launcher, launch
from rupert.study.running.progress import read_progress
from rupert.study.stage import Attack, do

SETTINGS = FineTune(data="potionworld:attacker", num_examples=16, optim="sgd", learning_rate=0.1, max_length=64)
WORK = Attack(settings=SETTINGS, model=ModelSettings(model="potionworld", device="cpu"))


def launched(work: Attack, folder: Path, launcher: Launcher) -> None:
    launch(launcher, work, work.request().claim(folder, resume=True), folder.parent / "progress.json")


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    one = do(WORK, tmp_path / "one")
    launched(WORK, tmp_path / "two", Launcher("replicas", 2))
    two = read_record(tmp_path / "two")
    assert (two.settings, two.data, two.report["steps"]) == (one.settings, one.data, one.report["steps"])
    assert two.report["loss"] == pytest.approx(one.report["loss"], rel=1e-4)
    assert WORK.request().finished(tmp_path / "two") == two  # where it ran is no part of what it is
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-4 for name in weights[0])
    assert not (tmp_path / "two" / "launched.json").exists()
    progress = read_progress(tmp_path / "progress.json")
    assert progress is not None
    assert progress.done == progress.total == 4


def test_rows_that_cannot_be_divided_are_told_in_one_line(tmp_path: Path) -> None:
    odd = replace(WORK, settings=replace(SETTINGS, per_device_train_batch_size=3))
    with pytest.raises(RunError, match=r"3 rows a step, which 2 processes cannot divide") as caught:
        launched(odd, tmp_path / "odd", Launcher("replicas", 2))
    assert "\n" not in str(caught.value)


def test_a_configuration_that_does_not_exist_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--accelerate-config: 'fsdp3' is unknown; did you mean 'fsdp2'\?"):
        launched(WORK, tmp_path / "none", Launcher("fsdp3", 2))
