"""Sampled answers: what is drawn is drawn as often as it is likely, and depends on prompt and seed alone."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from rupert.data import potionworld
from rupert.models.generation import answers
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.sampling import Sampling, sampled

PROMPTS = [example.prompt for example in potionworld.examples("scored")[:12]]
HOT = Sampling(temperature=3.0, seed=0)


@pytest.fixture(scope="module")
def loaded(potionworld: ModelSettings) -> LoadedModel:
    return load(potionworld)


@pytest.fixture(params=["dynamic", "whole"])
def _batches(request: pytest.FixtureRequest, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rupert's own batches, or those of Transformers, because of a setting that is not rupert's and changes nothing."""
    if request.param == "whole":
        monkeypatch.setattr(loaded.model.generation_config, "remove_invalid_values", True)


both_batches = pytest.mark.usefixtures("_batches")


def texts(loaded: LoadedModel, sampling: Sampling, prompts: list[object] | None = None, rows: int = 32) -> list[str]:
    found = dict(
        answers(
            loaded.model,
            loaded.tokenizer,
            PROMPTS if prompts is None else prompts,  # type: ignore[arg-type]
            max_new_tokens=12,
            batch_size=rows,
            sampling=sampling,
        )
    )
    return [found[index] for index in range(len(found))]


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 0), (0.15, 0), (0.17, 1), (0.49, 1), (0.51, 3), (0.99, 3), (1 - 2**-53, 3)]
)
def test_a_draw_falls_on_the_token_that_lies_there(draw: float, token: int) -> None:
    """Shares of 1/6, 2/6, 0 and 3/6 end at 0.167, 0.5, 0.5 and 1; the last draw is rounded to 1."""
    scores = torch.tensor([[math.log(1), math.log(2), -math.inf, math.log(3), -math.inf]])
    assert sampled(scores, torch.tensor([draw]), 1.0).tolist() == [token]


@pytest.mark.parametrize(
    ("temperature", "share"), [(1.0, 3 / 4), (0.5, 9 / 10), (2.0, math.sqrt(3) / (1 + math.sqrt(3)))]
)
def test_tokens_come_as_often_as_the_temperature_says(temperature: float, share: float) -> None:
    """Scores of ln 1 and ln 3, divided by t, are the shares 1 : 3^(1/t)."""
    draws = torch.arange(1000) / 1000
    found = sampled(torch.tensor([[0.0, math.log(3)]]).expand(1000, 2), draws, temperature)
    assert found.float().mean().item() == pytest.approx(share, abs=0.002)


def test_draws_are_uniform_and_those_of_prompt_and_seed() -> None:
    drawn = Sampling(1.0, seed=5).draws([1, 2, 3], 4000)
    counts = Counter(int(10 * number) for number in drawn)
    assert set(counts) == set(range(10))
    assert all(330 < count < 470 for count in counts.values())  # 400, and 3.7 standard deviations
    assert drawn[:7] == Sampling(2.0, seed=5).draws([1, 2, 3], 7)
    assert len({tuple(Sampling(1.0, seed).draws(ids, 3)) for seed in (0, 1) for ids in ([1, 2], [1, 3], [12])}) == 6


@both_batches
def test_sampled_answers_are_reproducible_whoever_is_asked_beside(loaded: LoadedModel) -> None:
    found = texts(loaded, HOT)
    torch.manual_seed(1)
    assert texts(loaded, HOT, rows=3) == found
    assert texts(loaded, HOT, PROMPTS[::-1], rows=5) == found[::-1]
    assert texts(loaded, HOT, PROMPTS[4:5]) == found[4:5]


@both_batches
def test_sampled_answers_differ_from_greedy_ones_and_between_seeds(loaded: LoadedModel) -> None:
    greedy, hot, other = (texts(loaded, sampling) for sampling in (Sampling(), HOT, Sampling(3.0, seed=1)))
    assert sum(map(str.__eq__, greedy, hot)) < len(PROMPTS) / 2
    assert sum(map(str.__eq__, other, hot)) < len(PROMPTS) / 2


@both_batches
def test_hardly_any_temperature_is_greedy(loaded: LoadedModel) -> None:
    assert texts(loaded, Sampling(1e-4)) == texts(loaded, Sampling())


def test_both_kinds_of_batches_draw_the_same(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = texts(loaded, HOT)
    monkeypatch.setattr(loaded.model.generation_config, "remove_invalid_values", True)
    assert texts(loaded, HOT) == found
