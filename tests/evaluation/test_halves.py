"""Halves of an evaluation's rows: attacks are chosen on one and scored on the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rupert.data import sources
from rupert.errors import UnknownName
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings, load

EVALUATION = Evaluation(max_new_tokens=1, batch_size=256).for_model(is_potionworld=True)


def asked(half: str, folder: Path, **settings: int) -> tuple[list[str], int | None]:
    """What a model is asked, and how many questions with exact answers."""
    evaluation = replace(EVALUATION, half=half, **settings)
    loaded = load(ModelSettings(model="potionworld"))
    *_, ability = evaluation.prepare().glance(loaded, evaluation.gather(), folder / (half or "whole"))
    rows = (folder / (half or "whole") / "answers.jsonl").read_text().splitlines()
    return [json.loads(row)["request"] for row in rows], ability.n


def test_the_halves_divide_requests_and_questions(tmp_path: Path) -> None:
    whole, selection, held_out = (asked(half, tmp_path) for half in ("", "selection", "held_out"))
    assert whole[0] == [row.instruction for row in sources.load("potionworld:scored")]
    assert sorted(selection[0] + held_out[0]) == sorted(whole[0])
    assert not set(selection[0]) & set(held_out[0])
    assert selection[1] is not None
    assert held_out[1] is not None
    assert selection[1] + held_out[1] == len(sources.load("potionworld:benign-test"))
    assert min(len(selection[0]), len(held_out[0])) > 0.35 * len(whole[0])


def test_which_half_a_prompt_is_in_depends_on_its_words_alone(tmp_path: Path) -> None:
    selection, _ = asked("selection", tmp_path)
    even = [row for row in sources.load("potionworld:scored") if row.key()[-1] in "02468ace"]
    assert selection == [row.instruction for row in even]


def test_a_limit_is_of_the_half(tmp_path: Path) -> None:
    requests, questions = asked("held_out", tmp_path, limit=5)
    assert (len(requests), questions) == (5, 5)


def test_there_is_no_third_half() -> None:
    with pytest.raises(UnknownName) as caught:
        Evaluation(half="selections")  # type: ignore[arg-type]
    assert str(caught.value) == "half: 'selections' is unknown; did you mean 'selection'?"
