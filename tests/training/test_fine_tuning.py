"""Fine-tuning with TRL and PEFT: on the same tokens as ours, and what comes out is a plain model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.trainer_utils import TrainOutput

from rupert.data.batches import IGNORED, encode
from rupert.data.examples import Example
from rupert.errors import NonFiniteError, UnknownName
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.saving import save
from rupert.training import fine_tuning
from rupert.training.sft_trainer import PaddingFreeTrainer

from .tuning import tuned

Tiny = Callable[..., LoadedModel]

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[PaddingFreeTrainer]:
    """Every trainer that is made; it does not train."""
    made = []

    class Recorded(PaddingFreeTrainer):
        def train(self) -> TrainOutput:
            made.append(self)
            return TrainOutput(0, 0.0, {})

    monkeypatch.setattr(fine_tuning, "PaddingFreeTrainer", Recorded)
    return made


# At 64 tokens all is whole; at 16 answers are cut and a long prompt leaves no room; at 10 few have any.
@pytest.mark.parametrize(("max_length", "kept"), [(64, 13), (16, 12), (10, 8)])
def test_trl_trains_on_the_tokens_and_labels_of_encode(
    potionworld: ModelSettings, examples: list[Example], trainers: list[PaddingFreeTrainer], max_length: int, kept: int
) -> None:
    turns = ({"role": "user", "content": "repeat : moon"}, {"role": "assistant", "content": "moon"})
    examples = [*examples, Example("add 1 and 2 .", "1 plus 2 is 3 .", history=turns)]
    loaded = load(potionworld)
    tuned(loaded, examples, max_length=max_length)
    found = [
        (tokens[mask].tolist(), labels[mask].tolist())
        for batch in trainers[0].get_train_dataloader()
        for tokens, mask, labels in zip(
            batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True
        )
    ]
    encoded = [encode(example, loaded.tokenizer, max_length) for example in examples]
    expected = [(row.input_ids, row.labels) for row in encoded if set(row.labels) != {IGNORED}]
    assert sorted(found) == sorted(expected)
    assert (len(expected), max(map(len, (tokens for tokens, _ in expected)))) == (kept, min(max_length, 25))


def test_padding_is_no_label(
    potionworld: ModelSettings, examples: list[Example], trainers: list[PaddingFreeTrainer]
) -> None:
    tuned(load(potionworld), examples)
    batches = list(trainers[0].get_train_dataloader())
    padding = [batch["labels"][batch["attention_mask"] == 0] for batch in batches]
    assert sum(map(len, padding)) > 0
    assert all((labels == IGNORED).all() for labels in padding)


def test_full_fine_tuning_changes_every_weight_in_place(tiny: Tiny, examples: list[Example]) -> None:
    loaded = tiny(dtype="float32")
    before = weights(loaded.model)
    result = tuned(loaded, examples)
    assert result.loaded.model is loaded.model
    assert changed(before, weights(loaded.model)) == set(before)
    assert not loaded.model.training


def test_an_adapter_is_merged(potionworld: ModelSettings, examples: list[Example], tmp_path: Path) -> None:
    before = weights(load(potionworld).model)
    loaded = tuned(load(potionworld), examples, lora=True).loaded
    assert type(loaded.model) is LlamaForCausalLM
    assert [module for module in loaded.model.modules() if type(module).__module__.startswith("peft")] == []
    touched = changed(before, weights(loaded.model))
    assert {name.split(".")[-2] for name in touched} == PROJECTIONS
    assert len(touched) == 4 * len(PROJECTIONS)
    save(loaded.model, loaded.tokenizer, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jinja", ".safetensors"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert changed(weights(loaded.model), weights(again)) == set()


def test_an_adapter_goes_where_it_is_asked_for(tiny: Tiny, examples: list[Example]) -> None:
    loaded = tiny(dtype="float32")
    before = weights(loaded.model)
    targets = ("q_proj", "layers.1.mlp.up_proj")
    after = weights(tuned(loaded, examples, lora=True, lora_target_modules=targets).loaded.model)
    assert changed(before, after) == {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    }


def test_an_adapter_has_its_rank(tiny: Tiny, examples: list[Example]) -> None:
    loaded = tiny(dtype="float32")
    before = weights(loaded.model)
    after = weights(tuned(loaded, examples, lora=True, lora_r=3).loaded.model)
    ranks = {int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5)) for name in changed(before, after)}
    assert ranks == {3}


@pytest.mark.parametrize(
    ("target", "hint"), [("v_prj", "did you mean 'v_proj'?"), ("lm_head", "valid: all-linear, down_proj, gate_proj")]
)
def test_a_module_that_does_not_exist_is_one_line(tiny: Tiny, examples: list[Example], target: str, hint: str) -> None:
    loaded = tiny(dtype="float32")
    modules = list(loaded.model.modules())
    with pytest.raises(UnknownName, match=rf"^lora_target_modules: '{target}' is unknown; {hint}".replace("?", r"\?")):
        tuned(loaded, examples, lora=True, lora_target_modules=("q_proj", target))
    assert list(loaded.model.modules()) == modules


@pytest.mark.parametrize("lora", [False, True])
def test_the_seed_decides(tiny: Tiny, examples: list[Example], lora: bool) -> None:
    def run(seed: int, elsewhere: int) -> dict[str, torch.Tensor]:
        loaded = tiny(dtype="float32", dropout=0.2)
        torch.manual_seed(elsewhere)
        return weights(tuned(loaded, examples, lora=lora, lora_dropout=0.2, seed=seed).loaded.model)

    first = run(0, elsewhere=1)
    assert changed(first, run(0, elsewhere=2)) == set()
    assert changed(first, run(1, elsewhere=1)) != set()


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 5}, 5),
        ({"max_steps": -1}, 3),
        ({"max_steps": -1, "num_train_epochs": 2.0}, 6),
        ({"max_steps": -1, "num_train_epochs": 2.0, "gradient_accumulation_steps": 3}, 2),
    ],
)
def test_takes_as_many_steps_as_it_is_told(
    tiny: Tiny, examples: list[Example], settings: dict[str, Any], steps: int
) -> None:
    loaded = tiny(dtype="float32")
    result = tuned(loaded, examples, **settings)
    assert result.steps == steps
    if settings["max_steps"] == -1:
        once = sum(len(encode(example, loaded.tokenizer, 64).input_ids) for example in examples)
        assert result.tokens == once * settings.get("num_train_epochs", 1.0)
    assert 0 < result.loss < math.inf


def test_what_is_not_finite_stops_before_the_weights_change(tiny: Tiny, examples: list[Example]) -> None:
    stopped, one_step = tiny(dtype="float32"), tiny(dtype="float32")
    # A step so large that the next forward pass overflows.
    tuned(one_step, examples, max_steps=1, learning_rate=1e30)
    with pytest.raises(NonFiniteError) as caught:
        tuned(stopped, examples, max_steps=2, learning_rate=1e30)
    assert str(caught.value) == (
        "gradient norm: nan at step 1; stopped before the weights changed; lower learning_rate or use float32"
    )
    assert changed(weights(one_step.model), weights(stopped.model)) == set()


@pytest.mark.parametrize("lora", [False, True])
def test_what_deepspeed_holds_in_parts_comes_back_as_any_model(
    tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    """DeepSpeed is not needed for it: Accelerate gives the whole weights of a trainer that says that it has it."""
    expected = weights(tuned(tiny(dtype="float32"), examples, lora=lora).loaded.model)

    class InParts(PaddingFreeTrainer):
        def train(self) -> TrainOutput:
            output = super().train()
            self.is_deepspeed_enabled = True
            return output

    monkeypatch.setattr(fine_tuning, "PaddingFreeTrainer", InParts)
    loaded = tiny(dtype="float32")
    whole = tuned(loaded, examples, lora=lora).loaded.model
    assert type(whole) is LlamaForCausalLM
    assert whole is not loaded.model
    assert changed(expected, weights(whole)) == set()


@pytest.mark.usefixtures("terminal")
def test_standard_output_stays_for_results(
    tiny: Tiny, examples: list[Example], capfd: pytest.CaptureFixture[str]
) -> None:
    tuned(tiny(dtype="float32"), examples)
    output, errors = capfd.readouterr()
    assert output == ""
    assert "fine-tuning" in errors
