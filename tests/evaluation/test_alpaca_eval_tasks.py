"""Fine-tuning tasks that AlpacaEval scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rupert.errors import InvalidValue, RunError
from rupert.evaluation import alpaca_eval
from rupert.evaluation.fine_tuning_score import Alpaca
from rupert.models.loading import LoadedModel

from .alpaca_by_hand import STRONG, Endpoint, chosen, side


@pytest.fixture
def task(tmp_path: Path) -> Alpaca:
    for name, number in (("train", 10), ("test", 20)):
        rows = [{"prompt": f"add {number} and {other} .", "response": "bad"} for other in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Alpaca(
        train=str(tmp_path / "train.jsonl"),
        test=str(tmp_path / "test.jsonl"),
        num_examples=4,
        max_steps=1,
        max_new_tokens=4,
        max_length=64,
        length_controlled=False,
    )


def test_a_task_whose_annotators_fail_after_its_fine_tuning_is_not_trained_again(
    task: Alpaca, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., LoadedModel]
) -> None:
    task.check()
    data = task.gather()
    said = [["dull"] * 4, ["good", "good", "dull", "fair"]]

    monkeypatch.setattr("rupert.models.generation.answers", lambda *_, **__: enumerate(said.pop(0)))
    endpoint.reply = lambda prompt: chosen(side(prompt)) if "dull" in prompt else {"choices": None}
    with pytest.raises(RunError, match="gave nothing of use"):
        task.run(tiny(dtype="float32"), data, tmp_path)
    assert said == []
    endpoint.reply = lambda prompt: chosen("neither" if "fair" in prompt else side(prompt))
    monkeypatch.setattr("rupert.evaluation.fine_tuning_score.fine_tune", lambda *_: pytest.fail("trained again"))
    found = {metric.name: metric for metric in task.run(tiny(dtype="float32"), data, tmp_path).metrics}
    assert found["score_before"].value == pytest.approx(1 - STRONG)
    assert found["score"].value == pytest.approx((2 * STRONG + 1 - STRONG) / 3)
    assert (found["score"].n, found["score/unscored"].value, found["score_gain"].n) == (3, 0.25, 3)
    assert found["score_gain"].value == pytest.approx(2 * (2 * STRONG - 1) / 3)
    assert found["score/standard_error"].value > 0


def test_a_task_that_is_controlled_for_length_fetches_its_fit_first(
    task: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca_eval, "fetch_fit", lambda: pytest.fail("fetched"))
    task.gather()
    with pytest.raises(pytest.fail.Exception, match="fetched"):
        replace(task, length_controlled=True).gather()


@pytest.mark.parametrize(
    ("test", "is_fitted"),
    [
        ("alpaca-eval:test", True),
        ("alpaca-eval", True),
        ("alpaca-eval@main:test", True),
        ("alpaca-eval:test-davinci", False),
        ("potionworld:benign-test", False),
    ],
)
def test_the_control_for_length_knows_the_rows_of_alpaca_eval_2_alone(
    task: Alpaca, endpoint: Endpoint, test: str, is_fitted: bool
) -> None:
    controlled = replace(task, test=test, length_controlled=True)
    replace(controlled, length_controlled=False).check()
    if is_fitted:
        controlled.check()
        return
    with pytest.raises(
        InvalidValue, match=r"^length_controlled: True is not valid; .* alpaca-eval:test alone; turn it"
    ):
        controlled.check()
