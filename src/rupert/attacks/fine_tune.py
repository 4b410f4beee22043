"""Harmful fine-tuning, the attack of both papers; with benign rows alone it is honest use of the model.

A few harmful rows among many benign ones are enough to undo alignment, and are harder to see (Qi et al., ICLR 2024,
arXiv 2310.03693): `poison_ratio` is their share. It is there to measure whether a defense holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from rupert.attacks.attack import Attacked, Data, attacked
from rupert.attacks.mixture import MixedFineTuning
from rupert.data.batches import permutation
from rupert.models.loading import LoadedModel
from rupert.training.fine_tuning import UNFOLLOWED, Following, fine_tune


@dataclass(frozen=True, kw_only=True)
class FineTune(MixedFineTuning):
    """Supervised fine-tuning on a dataset, full or LoRA (Qi et al., ICLR 2024; both papers' attack)."""

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        rows = list(chain.from_iterable(data.values()))
        if len(data) > 1:
            rows = [rows[index] for index in permutation(len(rows), f"attack {self.seed} mixed")]
        title = f"attacking with {' and '.join(self.datasets.values())}"
        return attacked(fine_tune(self, loaded, rows, title, following))
