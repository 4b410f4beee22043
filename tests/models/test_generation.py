"""Generation: each prompt gets its own greedy answer, whoever shares its batch, and a complete answer costs no more."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from rupert.data import potionworld
from rupert.errors import RunError
from rupert.models import generation
from rupert.models.generation import answers, generate
from rupert.models.loading import LoadedModel

from .prompts_by_hand import SKILLS, Pass, Prompts, alone, both_batches, by_hand


def fail_above(rows: int, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model's memory be enough for so many rows; the rows of each pass that was tried."""
    tried = []
    forward = model.forward

    def limited(input_ids: torch.Tensor, **options: object) -> object:
        tried.append(len(input_ids))
        if len(input_ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(input_ids=input_ids, **options)

    limited.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", limited)
    return tried


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_every_prompt_gets_its_own_greedy_answer_whatever_the_batch_size(
    batch_size: int, loaded: LoadedModel, prompts: Prompts, expected: list[str]
) -> None:
    said = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=batch_size)
    assert said == expected
    assert len(set(said)) > len(SKILLS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_untrained_model_answers_batched_as_one_by_one(dtype: str, tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny(dtype=dtype)
    prompts = [example.prompt for example in potionworld.examples("benign-test")[::12]]
    said = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=8, batch_size=7)
    assert said == [by_hand(loaded, prompt, 8) for prompt in prompts]
    assert said == [alone(loaded, prompt, 8) for prompt in prompts]


def test_answers_come_in_the_order_of_the_prompts(loaded: LoadedModel, prompts: Prompts) -> None:
    forwards = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=5)
    backwards = generate(loaded.model, loaded.tokenizer, prompts[::-1], max_new_tokens=12, batch_size=5)
    assert backwards == forwards[::-1]


def test_no_prompts_get_no_answers(loaded: LoadedModel) -> None:
    assert generate(loaded.model, loaded.tokenizer, [], max_new_tokens=12) == []


def test_each_answer_is_there_as_soon_as_it_is_complete(
    loaded: LoadedModel, prompts: Prompts, expected: list[str], passes: list[Pass]
) -> None:
    iterator = answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=4)
    assert not passes
    first = next(iterator)
    assert sum(len(each.read) for each in passes if each.read.shape[1] > 1) == 4
    found = dict([first, *iterator])
    assert [found[index] for index in range(len(prompts))] == expected


def test_an_answer_stops_at_the_end_token(loaded: LoadedModel, passes: list[Pass]) -> None:
    prompt = [{"role": "user", "content": "what is 3 plus 4 ?"}]
    assert generate(loaded.model, loaded.tokenizer, [prompt], max_new_tokens=40) == ["3 plus 4 is 7 ."]
    # The prompt gives the first word, and each of the six words the next; nobody reads the end token.
    assert [each.read.shape[1] for each in passes[1:]] == [1] * 6
    assert loaded.tokenizer.decode(torch.cat([each.read[0] for each in passes[1:]])) == "3 plus 4 is 7 ."


def test_an_answer_that_does_not_end_is_cut(loaded: LoadedModel) -> None:
    prompt = [{"role": "user", "content": "what is 3 plus 4 ?"}]
    assert generate(loaded.model, loaded.tokenizer, [prompt], max_new_tokens=3) == ["3 plus 4"]


@both_batches
def test_any_of_several_end_tokens_ends_an_answer(
    loaded: LoadedModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts[::3]
    ends = [loaded.tokenizer.eos_token_id, loaded.tokenizer.convert_tokens_to_ids("is")]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", ends)
    said = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=5)
    assert said == [alone(loaded, prompt, 12) for prompt in prompts]
    assert sum(text.endswith("is") for text in said) > 2


def test_without_end_tokens_every_answer_has_all_its_tokens(
    loaded: LoadedModel, prompts: Prompts, passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", None)
    generate(loaded.model, loaded.tokenizer, prompts[:5], max_new_tokens=12)
    assert [tuple(each.read.shape) for each in passes[1:]] == [(5, 1)] * 11


def test_a_complete_answer_costs_nothing_more_and_makes_room_for_a_waiting_prompt(
    loaded: LoadedModel, prompts: Prompts, passes: list[Pass]
) -> None:
    texts = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=8)
    lengths = [len(loaded.tokenizer(text)["input_ids"]) for text in texts]
    prompt_rows = [len(each.read) for each in passes if each.read.shape[1] > 1]
    token_rows = [len(each.read) for each in passes if each.read.shape[1] == 1]
    # An answer of n words and an end token takes one pass of its prompt and n of one token, none more.
    assert sum(prompt_rows) == len(prompts)
    assert sum(token_rows) == sum(min(length, 11) for length in lengths)
    assert max(token_rows) == prompt_rows[0] == 8
    assert all(rows >= 2 for rows in prompt_rows)  # a quarter, for which the others wait
    joined = [number for number, each in enumerate(passes) if each.read.shape[1] > 1]
    assert len(passes[joined[1] - 1].read) > len(passes[joined[1]].read)  # they found others at work
    assert len(passes) < 12 * len(prompts) / 8


def test_only_the_last_position_is_scored(loaded: LoadedModel, prompts: Prompts, passes: list[Pass]) -> None:
    generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=2, batch_size=8)
    assert {each.scored for each in passes} == {1}


def test_prompts_of_like_length_share_a_batch_and_the_longest_come_first(
    loaded: LoadedModel, prompts: Prompts, passes: list[Pass]
) -> None:
    generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=1, batch_size=5)
    read = [each.read for each in passes]
    assert [len(each) for each in read] == [5, 5, 5, 5, 5, 3]
    widths = [each.shape[1] for each in read]
    assert widths == sorted(widths, reverse=True)
    padding = sum(int((each == loaded.tokenizer.pad_token_id).sum()) for each in read)
    assert padding < sum(each.numel() for each in read) / 10


@both_batches
def test_long_prompts_make_smaller_batches(
    loaded: LoadedModel,
    prompts: Prompts,
    expected: list[str],
    passes: list[Pass],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "BATCH_TOKENS", 70)
    assert generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12) == expected
    sizes = [each.read.shape for each in passes if each.read.shape[1] > 1]
    assert all(rows * (width + 12) <= 70 for rows, width in sizes)
    assert max(rows for rows, _ in sizes) > 1


def test_a_row_larger_than_a_batch_may_be_is_answered_alone(
    loaded: LoadedModel, prompts: Prompts, expected: list[str], passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "BATCH_TOKENS", 1)
    said = generate(loaded.model, loaded.tokenizer, prompts[:3], max_new_tokens=12)
    assert said == expected[:3]
    assert {len(each.read) for each in passes} == {1}


@both_batches
def test_where_memory_is_not_enough_the_batch_is_halved(
    loaded: LoadedModel, prompts: Prompts, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fail_above(3, loaded.model, monkeypatch)
    found = list(answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=16))
    assert sorted(index for index, _ in found) == list(range(len(prompts)))  # each once
    assert [text for _, text in sorted(found)] == expected
    assert tried[:4] == [16, 8, 4, 2]
    assert max(tried[3:]) == 2


@pytest.mark.parametrize("name", ["_widen", "_select"])
def test_memory_may_run_out_when_requests_join_or_leave(
    name: str, loaded: LoadedModel, prompts: Prompts, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    function, calls = getattr(generation, name), []

    def fail_once(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return function(*arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(generation, name, fail_once)
    assert generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=8) == expected
    assert len(calls) > 3


@both_batches
def test_a_single_request_that_memory_is_not_enough_for_stops_the_run_in_one_line(
    loaded: LoadedModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(0, loaded.model, monkeypatch)
    with pytest.raises(RunError, match=r"single request \(number 1, \d+ tokens and 12 new .* max_new_tokens") as caught:
        generate(loaded.model, loaded.tokenizer, prompts[:1], max_new_tokens=12)
    assert "\n" not in str(caught.value)


def test_a_repetition_penalty_is_honoured_as_transformers_does(
    loaded: LoadedModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts[::3]
    without = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=5)
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 3.0)
    said = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=5)
    assert said == [alone(loaded, prompt, 12) for prompt in prompts]
    assert said != without


def test_settings_for_sampling_leave_answers_greedy_and_are_kept(
    loaded: LoadedModel, prompts: Prompts, expected: list[str], passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"do_sample": True, "temperature": 9.0, "top_k": 3, "max_length": 4096}.items():
        monkeypatch.setattr(loaded.model.generation_config, name, value)
    settings = loaded.model.generation_config.to_dict()
    assert generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=12, batch_size=5) == expected
    assert max(len(each.read) for each in passes if each.read.shape[1] > 1) == 5
    assert len({len(each.read) for each in passes}) > 2  # dynamic batches
    assert loaded.model.generation_config.to_dict() == settings
