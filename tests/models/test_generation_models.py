"""Generation with models of other kinds, and models given back as they were."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from transformers import (
    GenerationMixin,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from rupert.data import potionworld
from rupert.errors import DataError
from rupert.models import generation
from rupert.models.generation import answers, generate
from rupert.models.loading import LoadedModel

from .prompts_by_hand import Pass, Prompts, alone, both_batches, by_hand


def of_words(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": " ".join(["bell"] * count)}]


def test_a_sliding_window_is_left_to_transformers(loaded: LoadedModel, prompts: Prompts) -> None:
    prompts = prompts[::3]
    config = MistralConfig(
        vocab_size=len(loaded.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        sliding_window=6,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=loaded.tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    mistral = LoadedModel(MistralForCausalLM(config).eval(), loaded.tokenizer)
    assert not generation._selects_rows(mistral.model)
    said = generate(mistral.model, mistral.tokenizer, prompts, max_new_tokens=8, batch_size=5)
    assert said == [alone(mistral, prompt, 8) for prompt in prompts]


def test_a_model_that_prepares_its_inputs_itself_is_left_to_transformers(
    loaded: LoadedModel, prompts: Prompts, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generation._selects_rows(loaded.model)
    calls = []

    prepare = GenerationMixin.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def spy(self: PreTrainedModel, *arguments: object, **options: object) -> object:
        calls.append(1)
        return prepare(self, *arguments, **options)

    monkeypatch.setattr(type(loaded.model), "prepare_inputs_for_generation", spy)
    assert generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12) == expected
    assert calls


def test_learned_positions_answer_batched_as_one_by_one_and_are_never_exceeded(
    loaded: LoadedModel, prompts: Prompts
) -> None:
    prompts = prompts[::3]
    longest = max(len(loaded.tokenizer.apply_chat_template(prompt)["input_ids"]) for prompt in prompts)
    config = GPT2Config(
        vocab_size=len(loaded.tokenizer),
        n_positions=longest + 6,
        n_embd=16,
        n_layer=2,
        n_head=4,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    learned = LoadedModel(GPT2LMHeadModel(config).eval(), loaded.tokenizer)
    learned.model.generation_config.pad_token_id = loaded.tokenizer.pad_token_id
    assert generation._selects_rows(learned.model)
    said = generate(learned.model, learned.tokenizer, prompts, max_new_tokens=8, batch_size=5)
    lengths = [len(learned.tokenizer.apply_chat_template(p, add_generation_prompt=True)["input_ids"]) for p in prompts]
    limits = [min(8, longest + 6 - length) for length in lengths]
    assert min(limits) < 8
    assert said == [alone(learned, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]


@both_batches
def test_an_answer_ends_where_the_models_positions_do(
    loaded: LoadedModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", None)
    template = len(loaded.tokenizer.apply_chat_template(of_words(0), add_generation_prompt=True)["input_ids"])
    asked = [of_words(63 - template), of_words(60 - template), prompts[0], of_words(60 - template)]
    said = generate(loaded.model, loaded.tokenizer, asked, max_new_tokens=12)
    assert said == [alone(loaded, prompt, new) for prompt, new in zip(asked, (1, 4, 12, 4), strict=True)]


def test_a_prompt_without_room_for_an_answer_is_named_before_anything_is_generated(
    loaded: LoadedModel, prompts: Prompts, passes: list[Pass]
) -> None:
    template = len(loaded.tokenizer.apply_chat_template(of_words(0), add_generation_prompt=True)["input_ids"])
    asked = [*prompts[:2], of_words(64 - template)]
    message = r"requests: number 3 has 64 tokens, and the model has 64 positions .*; shorten it or leave it out"
    with pytest.raises(DataError, match=message) as caught:
        answers(loaded.model, loaded.tokenizer, asked, max_new_tokens=12)  # not even begun
    assert "\n" not in str(caught.value)
    assert not passes


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_training_mode_is_given_back(training: bool, tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny(dropout=0.5)
    prompts = [example.prompt for example in potionworld.examples("scored")[:6]]
    expected = [by_hand(loaded, prompt, 8) for prompt in prompts]
    loaded.model.train(training)
    assert generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=8) == expected
    assert loaded.model.training is training


def test_the_training_mode_is_given_back_when_nobody_wants_the_other_answers(
    tiny: Callable[..., LoadedModel], prompts: Prompts
) -> None:
    loaded = tiny()
    loaded.model.train()
    iterator = answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=8, batch_size=2)
    next(iterator)
    assert not loaded.model.training
    iterator.close()  # type: ignore[attr-defined]
    assert loaded.model.training


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_given_back_after_a_failure(
    training: bool, tiny: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny()
    loaded.model.train(training)
    modes = []

    def fail(_module: object, _inputs: object) -> None:
        modes.append(loaded.model.training)
        raise RuntimeError("the device is gone")

    loaded.model.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        generate(loaded.model, loaded.tokenizer, [of_words(1)], max_new_tokens=8)
    assert modes == [False]
    assert loaded.model.training is training
    assert loaded.model.model.layers[0].training is training
