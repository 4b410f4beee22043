"""Sampled answers: how tokens are drawn, so that an answer depends on its prompt and the seed alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: what scores are divided by before a token is drawn from all of them, however unlikely; 0: the
            likeliest is taken.
        seed: of what is drawn.
    """

    temperature: float = 0.0
    seed: int = 0

    def seed_of(self, prompt: Sequence[int]) -> int:
        """The seed of one prompt's draws, below 2**63: which others are asked, and when, does not matter."""
        digest = hashlib.sha256(f"{self.seed} {list(prompt)}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def draws(self, prompt: Sequence[int], count: int) -> list[float]:
        """A number from 0 to 1, 1 left out, for each token of a prompt's answer."""
        generator = random.Random(self.seed_of(prompt))
        return [generator.random() for _ in range(count)]


GREEDY = Sampling()


def sampled(scores: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """[rows], the token on which a row's draw falls when all lie side by side, each as wide as it is likely.

    Args:
        scores: [rows, words].
        draws: [rows], from 0 to 1, 1 left out.
        temperature: above 0.
    """
    import torch

    ends = (scores.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    last = ends[:, -1:]
    # Rounding keeps the last end from being 1; below it, where a draw falls on a token that may come at all.
    places = (draws[:, None] * last).minimum(torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(ends, places, right=True)[:, 0]
