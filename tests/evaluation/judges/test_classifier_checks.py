"""What a classifier is checked for before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rupert.errors import FolderError, InvalidValue, UnknownName, UsageError
from rupert.evaluation.judges.classifier import Classifier

from .classifiers_by_hand import WEIGHTS, Make, answer, edit_config, judge_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "{request}"}, r"^template: '\{request\}' is not valid; write \{answer\}"),
        ({"threshold": 1.5}, r"^threshold: 1.5"),
        ({"batch_size": 0}, r"^batch_size: 0"),
        ({"max_length": 0}, r"^max_length: 0"),
        ({"problem": "many"}, r"^problem: 'many' is unknown"),
        ({"dtype": "int8"}, r"^dtype: 'int8' is unknown"),
    ],
)
def test_settings_are_checked_at_once(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classifier(model="owner/name", **changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"^classifier: model is missing; name a folder or a model on the Hub, or take a preset$"),
        ("no-such-folder", r"^classifier: model: 'no-such-folder' is not valid; name a folder that exists"),
        ("/no/such", r"^classifier: model: '/no/such' is not valid"),
        ("smollm2", r"^classifier: model: 'smollm2' is not valid"),
    ],
)
def test_a_model_that_cannot_be_one_is_found_out_before_it_is_loaded(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classifier(model=name).check()


def test_a_device_that_is_not_there_is_found_out_before_it_is_loaded(last_word: Make) -> None:
    with pytest.raises(InvalidValue, match=r"^classifier: device: 'cuda:99' is not valid; here there is cpu"):
        judge_of(last_word({}), device="cuda:99")


def test_a_folder_without_a_model_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"^classifier: model: .* holds no config.json"):
        judge_of(tmp_path)


def test_a_language_model_is_no_classifier(tmp_path: Path, model: LlamaForCausalLM) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"^classifier: model: .* is a language model without .* name it to next_tok"):
        judge_of(tmp_path)


def test_a_head_for_something_else_is_no_classifier(last_word: Make) -> None:
    folder = last_word({})
    edit_config(folder, architectures=["LlamaModelForScore"])
    with pytest.raises(UsageError, match=r"is a LlamaModelForScore; name one for sequence classification$"):
        judge_of(folder)


def test_weights_other_than_safetensors_are_refused_with_the_remedy(last_word: Make) -> None:
    folder = last_word({})
    model = LlamaForSequenceClassification.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"^classifier: model: .* has no weights in safetensors; convert it: "):
        judge_of(folder)
    with pytest.raises(UsageError, match=r"could not be loaded; it has no weights in safetensors; convert it: "):
        Classifier(model=str(folder))([answer("a")])


def test_a_missing_head_is_not_made_up(last_word: Make, tmp_path: Path) -> None:
    folder = last_word({})
    LlamaForSequenceClassification.from_pretrained(folder).model.save_pretrained(folder)
    edit_config(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UsageError, match=r"^classifier: model: .* lacks weights, such as 'score.weight'$"):
        judge_of(folder)([answer("a")])


def test_damaged_weights_are_told_in_one_line(last_word: Make) -> None:
    folder = last_word({})
    (folder / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"^classifier: model: .* could not be loaded; [^\n]+$"):
        judge_of(folder)([answer("a")])


def test_a_name_that_the_hub_does_not_give_is_told_in_one_line() -> None:
    judge = Classifier(model="owner/name", revision="abc")
    with pytest.raises(UsageError, match=r"^classifier: model: 'owner/name' could not be loaded; [^\n]+$"):
        judge.check()
    with pytest.raises(UsageError, match=r"^classifier: model: 'owner/name' could not be loaded; [^\n]+$"):
        judge([answer("a")])


def test_the_tokenizer_of_another_model_is_found_out(random_classifier: Make, last_word: Make) -> None:
    folder = random_classifier(vocab_size=10)
    with pytest.raises(UsageError, match=r"^classifier: model: .* a tokenizer of 28 tokens and an embedding of 10; "):
        judge_of(folder)
    with pytest.raises(UsageError, match=r"an embedding of 10; put the tokenizer there that it was trained with$"):
        Classifier(model=str(folder))([answer("a")])


@pytest.mark.parametrize("field", ["harmful_labels", "refusal_labels"])
def test_a_label_that_the_classifier_does_not_have_is_found_out(last_word: Make, field: str) -> None:
    with pytest.raises(UnknownName, match=rf"^classifier: {field}: 'poisons' is unknown; did you mean 'poison'"):
        judge_of(last_word({}), **{field: ("poisons",)})


@pytest.mark.parametrize("labels", [("yes", "no"), ("fine", "toxic", "other"), ("toxic", "harmful")])
def test_exclusive_labels_that_say_nothing_of_harm_have_to_be_named(bert: Make, labels: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=rf"^classifier: harmful_labels is missing; name those of {', '.join(labels)}"):
        judge_of(bert([0.0] * len(labels), labels))
