"""Tasks read from local YAML, run by lm-eval itself on a tiny model, against the definitions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rupert.errors import RunError
from rupert.evaluation.ability import harness, questions
from rupert.evaluation.ability.harness import TaskResult, index_for, load_config, load_task, run_task
from rupert.evaluation.ability.rules import accuracy_of
from rupert.evaluation.ability.tasks import check_tasks, measure_tasks, prepare_tasks
from rupert.evaluation.statistics import wilson

from .tasks_by_hand import FIRST, SECOND, choice_task

pytestmark = pytest.mark.usefixtures("own_cache")

Model = LlamaForCausalLM


Tokenizer = PreTrainedTokenizerFast


@pytest.fixture
def run(folder: Path, model: Model, tokenizer: Tokenizer) -> Callable[..., TaskResult]:
    def run(name: str, *, limit: int | None = None, batch_size: int = 3, **settings: Any) -> TaskResult:
        metric = accuracy_of(name, index_for(name, str(folder)))
        task = load_task(name, metric, str(folder), **settings)
        return run_task(model, tokenizer, task, limit=limit, batch_size=batch_size)

    return run


def score(model: Model, prompt: list[int], answer: list[int]) -> float:
    """The sum of the log-probabilities of the answer's tokens."""
    with torch.no_grad():
        log_probabilities = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(dim=1)
    return sum(log_probabilities[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


def scores(model: Model, tokenizer: Tokenizer, row: dict[str, Any], form: str = "{}") -> np.ndarray:
    prompt = tokenizer.encode(form.format(row["question"]))
    return np.array([score(model, prompt, tokenizer.encode(choice)) for choice in row["choices"]])


def right(model: Model, tokenizer: Tokenizer, rows: list[dict[str, Any]], form: str = "{}") -> list[float]:
    return [float(scores(model, tokenizer, row, form).argmax() == row["answer"]) for row in rows]


def right_by_length(model: Model, tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[float]:
    lengths = [np.array([len(choice) for choice in row["choices"]]) for row in rows]
    return [
        float((scores(model, tokenizer, row) / length).argmax() == row["answer"])
        for row, length in zip(rows, lengths, strict=True)
    ]


def shares(model: Model, tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[float]:
    probabilities = [np.exp(scores(model, tokenizer, row)) for row in rows]
    return [float(one[row["answer"]] / one.sum()) for one, row in zip(probabilities, rows, strict=True)]


def values(result: TaskResult) -> list[float | None]:
    return [value for _, value in result.items]


def test_accuracy_of_choices(run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer) -> None:
    expected, by_length = right(model, tokenizer, FIRST), right_by_length(model, tokenizer, FIRST)
    assert 0 < sum(expected) < 5
    assert fmean(expected) != fmean(by_length)
    for batch_size in (1, 4):
        result = run("local_first", batch_size=batch_size)
        assert values(result) == expected
        assert result.value == fmean(expected)
        assert result.error == pytest.approx(stdev(expected) / 5**0.5)
    assert len(dict(result.items)) == 5
    assert result.details["other_metrics"] == {"acc_norm": fmean(by_length)}


def test_accuracy_by_length_where_a_task_has_no_other(
    run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer
) -> None:
    assert values(run("local_normed")) == right_by_length(model, tokenizer, FIRST)


def test_the_template_is_put_around_if_asked(
    run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer
) -> None:
    expected = right(model, tokenizer, FIRST, "<user> {} <assistant>")
    result = run("local_first", chat_template=True)
    assert values(result) == expected
    assert expected != right(model, tokenizer, FIRST)
    assert result.details["chat_template"] is True


def test_what_a_record_keeps(run: Callable[..., TaskResult]) -> None:
    details = run("local_first").details
    assert details == {
        "lm_eval": harness.version("lm_eval"),
        "version": "2.5",
        "metric": "acc",
        "filter": "none",
        "value": details["value"],
        "standard_error": details["standard_error"],
        "n": 5,
        "unscored": 0,
        "num_fewshot": 0,
        "chat_template": False,
        "items": run("local_normed").details["items"],  # the same questions
        "other_metrics": details["other_metrics"],
    }
    assert json.loads(json.dumps(details)) == details
    assert run("local_second").details["items"] != details["items"]


def test_limit_asks_the_first(run: Callable[..., TaskResult]) -> None:
    everything = run("local_first")
    assert run("local_first", limit=3).items == everything.items[:3]
    assert run("local_first", limit=50) == everything
    assert run("local_first", limit=1).error is None
    assert run("local_share", limit=2).error > 0
    assert len(run("local_group", limit=2).items) == 4


def test_few_shot_as_the_task_says(run: Callable[..., TaskResult]) -> None:
    result = run("local_shot")
    assert result.details["num_fewshot"] == 1
    assert run("local_shot") == result


@pytest.mark.parametrize("name", ["local_first", "local_share", "local_group", "local_alike"])
def test_value_and_standard_error_are_lm_eval_s(
    run: Callable[..., TaskResult], folder: Path, model: Model, tokenizer: Tokenizer, name: str
) -> None:
    result = run(name)
    found = load_task(name, "acc", str(folder)).loaded
    theirs = evaluate(HFLM(model, tokenizer=tokenizer, batch_size=4), found, bootstrap_iters=100)["results"][name]
    assert result.value == pytest.approx(theirs["acc,none"], rel=1e-6)
    assert result.error == pytest.approx(theirs["acc_stderr,none"], rel=1e-6)
    assert result.error > 0


def test_a_group_by_size(run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer) -> None:
    first, second = right(model, tokenizer, FIRST), right(model, tokenizer, SECOND)
    assert fmean(first) != fmean(second)
    result = run("local_group")
    assert values(result) == [*first, *second]
    assert result.value == pytest.approx(fmean([*first, *second]))
    assert result.details["version"] == "7"
    parts = result.details["tasks"]
    assert {name: (part["version"], part["value"], part["n"]) for name, part in parts.items()} == {
        "local_first": ("2.5", fmean(first), 5),
        "local_second": ("2.5", fmean(second), 3),
    }


def test_a_group_whose_tasks_weigh_alike(run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer) -> None:
    first, second = right(model, tokenizer, FIRST), right(model, tokenizer, SECOND)
    result = run("local_alike")
    assert result.value == pytest.approx((fmean(first) + fmean(second)) / 2)
    assert result.value != pytest.approx(fmean([*first, *second]))


def test_shares(run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer) -> None:
    expected = shares(model, tokenizer, FIRST)
    result = run("local_share")
    assert values(result) == pytest.approx(expected, rel=1e-5)
    assert result.value == pytest.approx(fmean(expected), rel=1e-5)


def test_what_is_not_a_number_is_unscored(run: Callable[..., TaskResult], model: Model, tokenizer: Tokenizer) -> None:
    expected = shares(model, tokenizer, FIRST)
    result = run("local_unscored")
    assert values(result)[1] is None
    scored = [expected[0], *expected[2:]]
    assert result.value == pytest.approx(fmean(scored), rel=1e-5)
    assert result.error == pytest.approx(stdev(scored) / 2, rel=1e-5)
    assert (result.details["n"], result.details["unscored"]) == (4, 1)
    with pytest.raises(RunError, match="local_nothing: no question could be scored"):
        run("local_nothing")


def test_generated_answers(run: Callable[..., TaskResult], folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("what is the")
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    said = tokenizer.decode(ids[3:], skip_special_tokens=True)
    assert said
    rows = [{"question": "what is the", "answer": answer} for answer in (said, said + " h", said)]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("local_said")
    assert values(result) == [1.0, 0.0, 1.0]
    assert result.details["metric"] == "exact_match"
    # Of several ways to read an answer the first counts.
    filtered = run("local_filtered")
    assert filtered.items == result.items
    assert filtered.details["filter"] == "as-said"
    assert filtered.details["other_metrics"].keys() == {"exact_match,bare"}


def test_tasks_that_draw_at_random_draw_the_same_and_leave_the_process_s_draws_alone(
    run: Callable[..., TaskResult], folder: Path
) -> None:
    rows = [{"question": "what is the", "answer": answer} for answer in "abcdefgh" * 3]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    seed(5)
    expected = draws()
    seed(5)
    result = run("local_sampled")
    assert draws() == expected
    seed(6)
    assert run("local_sampled") == result


def test_damaged_weights_are_no_right_answers(run: Callable[..., TaskResult], model: Model) -> None:
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="local_first: the model's log-probabilities are not numbers; its weights are"):
        run("local_first")


def test_a_task_that_asks_for_more_than_the_model_can_read(run: Callable[..., TaskResult]) -> None:
    with pytest.raises(RunError, match=r"local_long: lm-eval stopped \(.*\); name another task") as raised:
        run("local_long")
    assert "\n" not in str(raised.value)


def test_names_are_looked_up_in_all_of_lm_eval_only_if_need_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    manager = harness._manager

    def spy(folder: str, complete: bool) -> Any:
        asked.append(complete)
        return manager(folder, False)

    monkeypatch.setattr(harness, "_manager", spy)
    check_tasks(["mmlu", "local_group", "local_first"], str(folder))
    assert not any(asked)
    index_for("ai2_arc", str(folder))
    index_for("elsewhere", str(folder))
    assert asked[-4:] == [False, True, False, True]


def test_measured_from_names_to_metrics(folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    names = ["local_first", "local_group", "local_first"]
    prepared = prepare_tasks(names, str(folder))
    measured = measure_tasks(model, tokenizer, prepared, batch_size=4)
    first, second = right(model, tokenizer, FIRST), right(model, tokenizer, SECOND)
    assert measured.metrics[1:] == (
        wilson(int(sum(first)), 5).metric("ability/local_first"),
        wilson(int(sum(first + second)), 8).metric("ability/local_group"),
    )
    by_metric: dict[str, list[float]] = {}
    for outcome in measured.outcomes:
        by_metric.setdefault(outcome.metric, []).append(outcome.value)
    assert {name: fmean(found) for name, found in by_metric.items()} == {
        metric.name: pytest.approx(metric.value) for metric in measured.metrics[1:]
    }
    assert set(measured.details) == {"ability/local_first", "ability/local_group"}
    assert measure_tasks(model, tokenizer, prepared, batch_size=4) == measured


def test_is_quiet_and_gives_the_training_mode_back(
    folder: Path,
    model: Model,
    tokenizer: Tokenizer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluated = measure_tasks(model, tokenizer, prepare_tasks(["local_group"], str(folder)))
    model.train()
    again = measure_tasks(model, tokenizer, prepare_tasks(["local_group"], str(folder)))
    assert again == evaluated
    assert all(module.training for module in model.modules())
    assert not any(parameter.is_inference() for parameter in model.parameters())
    assert tokenizer.padding_side == "right"
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]


@pytest.fixture
def embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded task, with these questions in place of its own."""
    monkeypatch.setitem(questions.TASK, "dataset_kwargs", {"data_files": {"test": str(folder / "first.jsonl")}})


def test_the_embedded_questions_are_in_chat_format(embedded: None, model: Model, tokenizer: Tokenizer) -> None:
    expected = right(model, tokenizer, FIRST, "<user> {} <assistant> Answer:")
    assert 0 < sum(expected) < 5
    prepared = prepare_tasks(["questions"])
    for batch_size in (1, 2, 8):
        measured = measure_tasks(model, tokenizer, prepared, batch_size=batch_size)
        rate = wilson(int(sum(expected)), 5)
        assert measured.metrics == (rate.metric("ability"), rate.metric("ability/questions"))
        assert [outcome.value for outcome in measured.outcomes] == expected * 2
    first = measure_tasks(model, tokenizer, prepared, limit=2)
    assert first.outcomes[:2] == measured.outcomes[:2]
    assert first.metrics[0] == wilson(int(sum(expected[:2])), 2).metric("ability")
    assert measured.details["ability/questions"]["chat_template"] is True


def test_a_config_s_own_name_and_metric(folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    task = load_config(choice_task("mine", folder / "second.jsonl", "acc"), chat_template=False)
    assert (task.name, task.metric) == ("mine", "acc")
    result = run_task(model, tokenizer, task, limit=None, batch_size=2)
    assert values(result) == right(model, tokenizer, SECOND)
