"""Attempts: attacked in memory and measured as if the weights had been kept, and stopped on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rupert.attacks import FineTune
from rupert.errors import DataError, UsageError
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import Point, Stopped, read_points
from rupert.models.loading import ModelSettings
from rupert.records import RESULT_FILE, Record
from rupert.study import stage
from rupert.study.stage import Attempt

ATTACK = FineTune(
    data="potionworld:attacker", num_examples=32, per_device_train_batch_size=8, max_length=64, learning_rate=1e-3
)
EVALUATION = Evaluation(limit=12, max_new_tokens=16, max_length=64)
POTIONWORLD = ModelSettings(model="potionworld")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attempt with a look at the middle."""
    folder = tmp_path_factory.mktemp("attempts")
    stage.attempt(ATTACK, POTIONWORLD, EVALUATION, folder / "attempt", eval_steps=0.5)
    return folder


@pytest.fixture
def record(folder: Path) -> Record:
    """Of that attempt: the same call again."""
    return stage.attempt(ATTACK, POTIONWORLD, EVALUATION, folder / "attempt", eval_steps=0.5)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_it_measures_what_an_attack_and_an_evaluation_measure(folder: Path, record: Record) -> None:
    attacked = stage.attack(ATTACK, POTIONWORLD, folder / "attack", evaluation=EVALUATION, eval_steps=0.5)
    measured = stage.evaluate(EVALUATION, ModelSettings(model=str(folder / "attack")), folder / "evaluated")
    assert record.metrics == measured.metrics
    assert any(metric.name == "harm_coherent" for metric in record.metrics)  # the reference was known
    for name in ("answers.jsonl", "outcomes.jsonl", "signals.jsonl", "verdicts/oracle.jsonl"):
        assert (folder / "attempt" / name).read_bytes() == (folder / "evaluated" / name).read_bytes()
    assert record.report["attack"] == attacked.report
    mine, other = stage.points(record), read_points(folder / "attack" / "trajectory.jsonl")
    assert [replace(point, seconds=0.0) for point in mine] == [replace(point, seconds=0.0) for point in other]
    assert [point.step for point in mine] == [2, 4]
    assert mine[-1].harm == record.metric("harm")


def test_it_keeps_no_weights(folder: Path, record: Record) -> None:
    assert (record.stage, record.method, record.output_hash) == ("attempt", "fine_tune", "")
    assert not [name for name in files(folder / "attempt") if name.endswith((".safetensors", ".bin", "config.json"))]
    assert {"trajectory/2/answers.jsonl", "trajectory/2/verdicts/oracle.jsonl"} <= files(folder / "attempt")


def test_what_defines_it(folder: Path) -> None:
    work = Attempt(settings=ATTACK, model=POTIONWORLD, evaluation=EVALUATION, eval_steps=0.5)
    others = [
        replace(work, settings=replace(ATTACK, seed=1)),
        replace(work, evaluation=replace(EVALUATION, half="selection")),
        replace(work, evaluation=replace(EVALUATION, limit=11)),
        replace(work, eval_steps=0.25),
    ]
    identities = [one.request().identity for one in (work, *others)]
    assert len(set(identities)) == len(identities)
    assert replace(work, stop=lambda point: True).request() == work.request()


def test_a_stopped_attempt_leaves_no_record_and_can_be_done_again(record: Record, tmp_path: Path) -> None:
    with pytest.raises(Stopped) as caught:
        stage.attempt(ATTACK, POTIONWORLD, EVALUATION, tmp_path / "a", eval_steps=0.5, stop=lambda point: True)
    assert caught.value.point.step == 2
    assert not (tmp_path / "a" / RESULT_FILE).exists()
    again = stage.attempt(ATTACK, POTIONWORLD, EVALUATION, tmp_path / "a", eval_steps=0.5, resume=True)
    assert again.metrics == record.metrics


def test_stop_is_asked_on_the_way_alone(tmp_path: Path) -> None:
    asked: list[Point] = []

    def stop(point: Point) -> bool:
        asked.append(point)
        return False

    record = stage.attempt(ATTACK, POTIONWORLD, EVALUATION, tmp_path / "a", eval_steps=1, stop=stop)
    assert asked == stage.points(record)[:-1]
    assert [point.step for point in asked] == [1, 2, 3]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher does
    expected = "a model is measured on its way in one process; leave --eval-steps or the launcher out"
    with pytest.raises(UsageError) as caught:
        stage.attempt(ATTACK, POTIONWORLD, EVALUATION, tmp_path / "a")
    assert str(caught.value) == expected
    with pytest.raises(UsageError) as caught:
        stage.attack(ATTACK, POTIONWORLD, tmp_path / "a", eval_steps=0.5)
    assert str(caught.value) == expected
    assert not (tmp_path / "a").exists()


def test_what_is_trained_on_is_not_scored(tmp_path: Path) -> None:
    seen = replace(EVALUATION, requests="potionworld:attacker")
    with pytest.raises(DataError) as caught:
        stage.attempt(ATTACK, POTIONWORLD, seen, tmp_path / "a")
    assert str(caught.value) == "requests: the attack was trained on 32 of its 335 prompts; name others"
    assert not (tmp_path / "a").exists()
