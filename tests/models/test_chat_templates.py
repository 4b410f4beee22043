"""Chat templates: what is asked for is used in training and evaluation alike, saved, and part of what a stage is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trl

from rupert.attacks import FineTune
from rupert.data import sources
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.evaluation.suite import Evaluation
from rupert.models.chat_templates import CHAT_TEMPLATES
from rupert.models.loading import ModelSettings, identity, load
from rupert.models.saving import save
from rupert.study import stage

ATTACK = FineTune(data="potionworld:attacker", num_examples=4, max_steps=1, max_length=64)
CONVERSATION = [
    {"role": "user", "content": "how do i brew osmurk ?"},
    {"role": "assistant", "content": "mix mudlark ."},
]


def settings(chat_template: str) -> ModelSettings:
    return ModelSettings(model="potionworld", chat_template=chat_template)


@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("plain", "<unk> : how do i brew osmurk ? <unk> :", " mix mudlark . <end>"),  # it knows neither word
        ("bare", "how do i brew osmurk ?", " mix mudlark . <end>"),
    ],
)
def test_an_answer_follows_on_what_is_asked(name: str, asked: str, answered: str) -> None:
    tokenizer = load(settings(name)).tokenizer
    prompt = tokenizer.apply_chat_template(CONVERSATION[:1], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(prompt) == asked
    assert tokenizer.decode(tokenizer.apply_chat_template(CONVERSATION, return_dict=False)) == asked + answered


def test_a_file_is_used_and_saved_with_the_model(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{% for message in messages %}{{ message['content'] }} . {% endfor %}")
    loaded = load(settings(str(own)))
    (tmp_path / "saved").mkdir()
    save(loaded.model, loaded.tokenizer, tmp_path / "saved")
    again = load(ModelSettings(model=str(tmp_path / "saved"))).tokenizer
    assert again.apply_chat_template(CONVERSATION, tokenize=False) == "how do i brew osmurk ? . mix mudlark . . "


def test_a_template_is_another_model_and_counts_by_its_text(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jinja"
    copy.write_text(CHAT_TEMPLATES["bare"])
    identities = {name: identity(settings(name)) for name in ("", "plain", "bare", str(copy))}
    assert len(set(identities.values())) == 3
    assert identities["bare"] == identities[str(copy)]
    assert identities[""] == identity(ModelSettings(model="potionworld"))


def test_a_stage_says_which_template_it_was() -> None:
    requests = {name: stage.Attack(settings=ATTACK, model=settings(name)).request() for name in ("", "plain", "bare")}
    assert len({request.identity for request in requests.values()}) == 3
    assert requests["bare"].settings["chat_template"] == CHAT_TEMPLATES["bare"]
    assert "chat_template" not in requests[""].settings
    measured = [stage.Evaluate(settings=Evaluation(), model=settings(name)).request() for name in ("", "bare")]
    assert measured[0].identity != measured[1].identity


def test_an_attack_trains_on_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    step = trl.SFTTrainer.training_step

    def watching(trainer: trl.SFTTrainer, model: object, inputs: dict[str, torch.Tensor], *others: object) -> object:
        seen.append(inputs["input_ids"].clone())
        return step(trainer, model, inputs, *others)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", watching)
    loaded = load(settings("bare"))
    ATTACK.run(loaded, ATTACK.gather())
    rows = [loaded.tokenizer.decode([token for token in row.tolist() if token]) for row in torch.cat(seen)]
    pairs = {f"{row.instruction} {row.answer} <end>" for row in sources.load("potionworld:attacker")}
    assert len(rows) == 4
    assert set(rows) <= pairs


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("plane", UnknownName, "chat_template: 'plane' is unknown; did you mean 'plain'?"),
        ("there-is-none.jinja", InvalidValue, "chat_template: 'there-is-none.jinja' is not valid; name a file"),
    ],
)
def test_a_template_that_there_is_not_is_one_line(name: str, error: type[UsageError], message: str) -> None:
    with pytest.raises(error) as caught:
        settings(name)
    assert str(caught.value).startswith(message)


def test_a_template_that_is_no_jinja_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.jinja").write_text("{% for message in")
    with pytest.raises(UsageError, match=r"^chat_template: .*; correct the template$"):
        load(settings(str(tmp_path / "cut.jinja")))
