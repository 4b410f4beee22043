"""Names, presets and means of tasks, around results of lm-eval that are given."""

from __future__ import annotations

import sys
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import InvalidValue, MissingDependency, UnknownName
from rupert.evaluation.ability import harness, tasks
from rupert.evaluation.ability.harness import Task, TaskResult
from rupert.evaluation.ability.tasks import PRESETS, Tasks, check_tasks, expand, mean_of, measure_tasks
from rupert.evaluation.outcomes import Outcome
from rupert.evaluation.statistics import wilson
from rupert.records import Metric


@pytest.fixture
def usual_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's full index takes seconds."""
    manager = harness._manager
    monkeypatch.setattr(harness, "_manager", lambda folder, complete: manager(folder, False))


def given(monkeypatch: pytest.MonkeyPatch, **results: TaskResult) -> None:
    monkeypatch.setattr(harness, "run_task", lambda model, tokenizer, task, **settings: results[task.name])


def asked(*values: float | None) -> tuple[tuple[str, float | None], ...]:
    return tuple((f"item {i}", value) for i, value in enumerate(values))


def measure(prepared: Tasks, **settings: Any) -> Any:
    return measure_tasks(None, None, prepared, **settings)  # type: ignore[arg-type]


def loaded(*names: str, presets: tuple[str, ...] = ()) -> Tasks:
    return Tasks(tuple(Task(name, "acc", None, False) for name in names), presets)


def test_presets_are_the_papers() -> None:
    assert PRESETS == {
        "zero-shot": ("mmlu", "truthfulqa_mc1", "arc_easy", "hellaswag"),
        "sdd": ("mmlu", "openbookqa"),
    }
    assert expand(["questions", "sdd", "mmlu", "zero-shot"]) == (
        "questions",
        "mmlu",
        "openbookqa",
        "truthfulqa_mc1",
        "arc_easy",
        "hellaswag",
    )


def test_the_usual_tasks_are_known_from_the_small_index(usual_tasks_alone: None) -> None:
    usual = ["zero-shot", "sdd", "truthfulqa_mc2", "arc_challenge", "gsm8k", "mmlu_anatomy", "questions"]
    check_tasks(usual)
    for name in usual:
        with pytest.raises(UnknownName, match=f"did you mean '{name}'"):
            check_tasks([f"{name}s"])


def test_every_task_of_a_preset_is_measured_by_plain_accuracy(usual_tasks_alone: None) -> None:
    assert {tasks._accuracy(name, "") for preset in PRESETS.values() for name in preset} == {"acc"}


def test_the_nearest_name(usual_tasks_alone: None) -> None:
    for wrong, right in (("hellaswg", "hellaswag"), ("zero_shot", "zero-shot"), ("question", "questions")):
        with pytest.raises(UnknownName, match=rf"tasks: {wrong!r} is unknown; did you mean {right!r}\?"):
            check_tasks(["questions", wrong])


def test_no_names() -> None:
    with pytest.raises(InvalidValue, match=r"tasks: \[\] is not valid; name at least one, such as 'questions'"):
        check_tasks([])


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"tasks_path: .*nowhere' is not valid; name a folder with tasks"):
        check_tasks(["questions"], str(tmp_path / "nowhere"))


def test_without_lm_eval_it_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"lm-eval is not installed; pip install 'rupert\[eval\]'"):
        check_tasks(["questions"])


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(limit: int) -> None:
    with pytest.raises(InvalidValue) as raised:
        measure(loaded("one"), limit=limit)
    assert str(raised.value) == f"limit: {limit} is not valid; at least 1, or None for all questions"


def test_a_single_task_is_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, one=TaskResult(0.5, 0.29, asked(1.0, 0.0, 0.0, 1.0), {"metric": "acc"}))
    measured = measure(loaded("one"))
    assert measured.metrics == (wilson(2, 4).metric("ability"), wilson(2, 4).metric("ability/one"))
    assert measured.outcomes == tuple(
        Outcome(metric, f"item {i}", value)
        for metric in ("ability", "ability/one")
        for i, value in enumerate([1.0, 0.0, 0.0, 1.0])
    )
    assert measured.details == {"ability/one": {"metric": "acc"}}


def test_ability_is_the_mean_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        rate=TaskResult(0.25, 0.2, asked(1.0, 0.0, 0.0, 0.0), {}),
        share=TaskResult(0.6, 0.05, asked(0.5, 0.7, None), {}),
    )
    ability, rate, share = (measured := measure(loaded("rate", "share"))).metrics
    assert rate == wilson(1, 4).metric("ability/rate")
    assert (share.value, share.n) == (0.6, 2)
    assert (share.low, share.high) == pytest.approx((0.6 - 1.959964 * 0.05, 0.6 + 1.959964 * 0.05))
    # Wilson's interval of 1 of 4 is 0.0456 to 0.6994.
    low = 0.425 - sqrt((0.25 - 0.0455873) ** 2 + 0.0979982**2) / 2
    high = 0.425 + sqrt((0.6993582 - 0.25) ** 2 + 0.0979982**2) / 2
    assert (ability.name, ability.value, ability.n) == ("ability", pytest.approx(0.425), 6)
    assert (ability.low, ability.high) == pytest.approx((low, high), abs=1e-6)
    assert {outcome.metric for outcome in measured.outcomes} == {"ability/rate", "ability/share"}
    assert measured.outcomes[-1] == Outcome("ability/share", "item 2", None)


def test_shares_stay_from_0_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        low=TaskResult(0.02, 0.05, asked(0.01, 0.03), {}),
        high=TaskResult(0.98, 0.05, asked(0.97, 0.99), {}),
    )
    _, low, high = measure(loaded("low", "high")).metrics
    assert low.low == 0.0
    assert high.high == 1.0


def test_a_group_whose_tasks_weigh_alike_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, group=TaskResult(0.5, 0.1, asked(1.0, 0.0, 0.0, 0.0), {}))
    metric = measure(loaded("group")).metrics[1]
    assert (metric.value, metric.low) == (0.5, pytest.approx(0.5 - 0.1959964))


def test_no_interval_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        single=TaskResult(0.4, None, asked(0.4), {}),
        other=TaskResult(0.5, 0.4, asked(1.0, 0.0), {}),
    )
    ability, single, _ = measure(loaded("single", "other")).metrics
    assert single == Metric("ability/single", 0.4, n=1)
    assert ability == Metric("ability", 0.45, n=3)


def test_a_preset_s_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        mmlu=TaskResult(0.25, 0.2, asked(1.0, 0.0, 0.0, 0.0), {}),
        openbookqa=TaskResult(0.5, 0.4, asked(1.0, 0.0), {}),
        other=TaskResult(1.0, 0.0, asked(1.0, 1.0), {}),
    )
    measured = measure(loaded("mmlu", "openbookqa", "other", presets=("sdd",)))
    assert [metric.name for metric in measured.metrics] == [
        "ability",
        "ability/sdd",
        "ability/mmlu",
        "ability/openbookqa",
        "ability/other",
    ]
    assert measured.metrics[0].value == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert (measured.metrics[1].value, measured.metrics[1].n) == (0.375, 6)
    assert measured.details["ability/sdd"] == {"mean_of": ["mmlu", "openbookqa"]}


def test_mean_of_normal_intervals_is_the_textbook_s() -> None:
    reach = [1.959964 * error for error in (0.03, 0.04)]
    metrics = [Metric("a", 0.4, 0.4 - reach[0], 0.4 + reach[0], 100), Metric("b", 0.6, 0.6 - reach[1], 0.6 + reach[1])]
    mean = mean_of("m", metrics)
    assert (mean.value, mean.n) == (0.5, 100)
    assert (mean.low, mean.high) == pytest.approx((0.5 - 1.959964 * 0.025, 0.5 + 1.959964 * 0.025))


def test_mean_of_one_is_itself() -> None:
    assert mean_of("ability", [wilson(3, 7).metric("ability/x")]) == wilson(3, 7).metric("ability")
