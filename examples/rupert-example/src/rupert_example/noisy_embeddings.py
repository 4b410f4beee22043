"""Harmful fine-tuning with noise on the embeddings, which generalizes better from few rows.

Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (ICLR 2024, arXiv 2310.05914). In training, the
embeddings of a row of L tokens and width d get uniform noise on top:

    x' = x + α / sqrt(L d) u,    each u uniform in [-1, 1].

TRL does it. It is there to measure whether a defense also holds against an attacker with a common trick of the trade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rupert.attacks.attack import AsUsual, Attacked, Data, attacked
from rupert.attacks.mixture import draw
from rupert.data.examples import Example
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training.fine_tuning import UNFOLLOWED, Following, PublishedFineTuning, fine_tune


@dataclass(frozen=True, kw_only=True)
class NoisyEmbeddings(AsUsual, PublishedFineTuning):
    """Supervised fine-tuning with noise on the embeddings (NEFTune; Jain et al., ICLR 2024)."""

    data: str = setting("beavertails:unsafe", "dataset to fine-tune on")
    num_examples: int = setting(1000, "rows drawn from it")
    neftune_noise_alpha: float = setting(5.0, "size of the noise: α (paper: 5, 10 and 15)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples", "neftune_noise_alpha")

    @property
    def datasets(self) -> Mapping[str, str]:
        """The dataset, by the setting that names it."""
        return {"data": self.data}

    def arguments(self) -> dict[str, Any]:
        """What TRL's trainer takes, and the noise."""
        return super().arguments() | {"neftune_noise_alpha": self.neftune_noise_alpha}

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows, each once.

        Raises:
            DataError: the dataset has fewer than `num_examples`.
        """
        return {"data": draw(self.data, "data", self.num_examples, f"attack {self.seed}")}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        return attacked(fine_tune(self, loaded, data["data"], "attacking with noisy embeddings", following))
