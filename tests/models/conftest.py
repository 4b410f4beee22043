"""Prompts, and their answers one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rupert.data import potionworld
from rupert.models.loading import LoadedModel, ModelSettings, load

from .prompts_by_hand import SKILLS, Pass, Prompts, by_hand


@pytest.fixture(scope="module")
def loaded(potionworld: ModelSettings) -> LoadedModel:
    return load(potionworld)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """Questions of every skill and of several lengths, the long ones not at one end."""
    examples = potionworld.examples("benign-test")
    of_skills = [[example.prompt for example in examples if example.category == skill] for skill in SKILLS]
    chosen = [skill[number] for number in range(4) for skill in of_skills]
    return [*chosen, *[example.prompt for example in potionworld.examples("scored")[:4]]]


@pytest.fixture(scope="module")
def expected(loaded: LoadedModel, prompts: Prompts) -> list[str]:
    """The greedy answers of up to 12 tokens."""
    return [by_hand(loaded, prompt, 12) for prompt in prompts]


@pytest.fixture
def passes(loaded: LoadedModel) -> Iterator[list[Pass]]:
    """What the model read, pass by pass."""
    seen: list[Pass] = []
    hook = loaded.model.register_forward_hook(
        lambda _model, _inputs, options, output: seen.append(Pass(options["input_ids"], output.logits.shape[1])),
        with_kwargs=True,
    )
    yield seen
    hook.remove()


@pytest.fixture(params=["dynamic", "whole"])
def _batches(request: pytest.FixtureRequest, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rupert's own batches, or those of Transformers, because of a setting that is not rupert's and changes nothing."""
    if request.param == "whole":
        monkeypatch.setattr(loaded.model.generation_config, "remove_invalid_values", True)
