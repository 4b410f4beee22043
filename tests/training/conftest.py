"""Rows of many lengths for the tests of losses, gradients and fine-tuning."""

from __future__ import annotations

import pytest
import torch

from rupert.data import sources
from rupert.data.batches import IGNORED, Encoded
from rupert.data.examples import Example

LENGTHS = [(3, 4), (7, 2), (4, 9), (5, 1), (3, 6), (4, 4), (9, 3), (6, 8)]  # tokens of prompt and answer


@pytest.fixture
def rows() -> list[Encoded]:
    """Eight rows of random tokens; the earliest answer starts in column 3."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for prompt, answer in LENGTHS:
        tokens = torch.randint(5, 300, (prompt + answer,), generator=generator).tolist()
        made.append(Encoded(tokens, [IGNORED] * prompt + tokens[prompt:]))
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Recipes and answers of other skills: many lengths."""
    return [*sources.load("potionworld:attacker")[:6], *sources.load("potionworld:benign")[::500][:6]]
