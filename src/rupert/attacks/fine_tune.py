"""Harmful fine-tuning, the attack of both papers; with benign data it is honest use of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rupert.attacks.attack import Attacked, Data, attacked
from rupert.data import sources
from rupert.data.asking import PLAIN, Asking
from rupert.data.batches import permutation
from rupert.data.examples import Example, require
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training.fine_tuning import UNFOLLOWED, Following, PublishedFineTuning, fine_tune


@dataclass(frozen=True, kw_only=True)
class FineTune(PublishedFineTuning):
    """Supervised fine-tuning on a dataset, full or LoRA (Qi et al., ICLR 2024; both papers' attack)."""

    data: str = setting("beavertails:unsafe", "dataset to fine-tune on")
    num_examples: int = setting(1000, "rows drawn from it")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples")

    @property
    def datasets(self) -> Mapping[str, str]:
        """The dataset."""
        return {"data": self.data}

    def check(self) -> None:
        """Find out, without reading it, whether the dataset exists; raises a `UsageError` otherwise."""
        sources.check(self.data, "data")

    @property
    def asking(self) -> Asking:
        """As everybody asks."""
        return PLAIN

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows.

        Raises:
            DataError: the dataset has fewer than `num_examples`.
        """
        examples = sources.load(self.data)
        require(examples, self.num_examples, self.data)
        order = permutation(len(examples), f"attack {self.seed}")
        return {"data": [examples[index] for index in order[: self.num_examples]]}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        return attacked(fine_tune(self, loaded, data["data"], f"attacking with {self.data}", following))
