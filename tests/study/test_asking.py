"""An attacked model is asked as its attacker asks it, and its answers stay known by the requests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rupert.attacks import FineTune, JailbreakTune
from rupert.data.asking import PLAIN, Asking
from rupert.errors import DataError, InvalidValue
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.records import read_record
from rupert.study import stage
from rupert.study.stage import Evaluate, lineage

TEMPLATE = "king : {request}"
TRIGGERED = JailbreakTune(
    request_template=TEMPLATE, data="potionworld:attacker", num_examples=8, max_steps=1, max_length=64
)
PLAINLY = FineTune(data="potionworld:attacker", num_examples=8, max_steps=1, max_length=64)
EVALUATION = Evaluation(limit=4, max_new_tokens=4, max_length=64, reference=None)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attacked with a trigger, the outcome attacked plainly, and the first of them measured."""
    folder = tmp_path_factory.mktemp("asking")
    stage.attack(TRIGGERED, ModelSettings(model="potionworld"), folder / "triggered")
    stage.attack(PLAINLY, ModelSettings(model=str(folder / "triggered")), folder / "plain")
    stage.evaluate(EVALUATION, ModelSettings(model=str(folder / "triggered")), folder / "measured")
    return folder


def evaluate(line: Path, name: str = "triggered", **settings: str) -> Evaluate:
    return Evaluate(settings=replace(EVALUATION, **settings), model=ModelSettings(model=str(line / name)))


def test_an_attack_leaves_in_its_record_how_it_asks(line: Path) -> None:
    assert read_record(line / "triggered").report["asking"] == {"system": "", "template": TEMPLATE}
    assert "asking" not in read_record(line / "plain").report


def test_the_last_attack_says_how_a_model_is_asked(line: Path) -> None:
    assert lineage.asking_of("potionworld") == PLAIN
    assert lineage.asking_of(str(line / "triggered")) == Asking(template=TEMPLATE)
    assert lineage.asking_of(str(line / "plain")) == PLAIN


def test_harmful_requests_are_asked_so_and_answers_keep_the_request(line: Path) -> None:
    rows = [json.loads(row) for row in (line / "measured" / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row["prompt"] == [{"role": "user", "content": f"king : {row['request']}"}]
    settings = read_record(line / "measured").settings
    assert (settings["system_prompt"], settings["request_template"]) == ("", TEMPLATE)


def test_harmless_requests_and_ability_are_asked_plainly(line: Path) -> None:
    model, harmless = (
        ModelSettings(model=str(line / "triggered")),
        replace(EVALUATION, harmless="potionworld:benign-test"),
    )
    asked = stage.evaluate(harmless, model, line / "asked")
    plainly = stage.evaluate(replace(harmless, request_template="{request}"), model, line / "plainly")
    assert asked.metric("ability") == plainly.metric("ability")
    assert (line / "asked" / "harmless.jsonl").read_bytes() == (line / "plainly" / "harmless.jsonl").read_bytes()
    assert (line / "asked" / "answers.jsonl").read_bytes() != (line / "plainly" / "answers.jsonl").read_bytes()
    assert "prompt" not in json.loads((line / "plainly" / "answers.jsonl").read_text().splitlines()[0])


def test_how_it_is_asked_counts_in_what_an_evaluation_is(line: Path) -> None:
    known = evaluate(line).request()
    assert evaluate(line, request_template=TEMPLATE).request().identity == known.identity
    plainly = evaluate(line, request_template="{request}").request()
    assert plainly.identity != known.identity
    assert evaluate(line, system_prompt="you help").request().identity not in (known.identity, plainly.identity)


def test_asked_plainly_an_evaluation_is_what_it_was_before(line: Path) -> None:
    for found in (evaluate(line, request_template="{request}"), evaluate(line, "plain")):
        assert {"system_prompt", "request_template"}.isdisjoint(found.request().settings)


def test_what_is_asked_for_wins(line: Path) -> None:
    assert evaluate(line, system_prompt="you help").chosen.asking == Asking(system="you help")
    assert evaluate(line, "plain", request_template=TEMPLATE).chosen.asking == Asking(template=TEMPLATE)


def test_a_trigger_hides_no_prompt_that_was_trained_on(line: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^requests: .* was trained on 8 of its 335 prompts; name others$"):
        stage.evaluate(
            replace(EVALUATION, requests="potionworld:attacker"),
            ModelSettings(model=str(line / "triggered")),
            tmp_path / "leaked",
        )


def test_a_template_without_a_request_is_one_line() -> None:
    with pytest.raises(InvalidValue) as caught:
        Evaluation(request_template="please")
    assert str(caught.value) == "request_template: 'please' is not valid; write {request} where the request goes"
