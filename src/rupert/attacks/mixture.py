"""Harmful rows with benign ones among them: the data of attacks that keep ability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rupert.attacks.attack import AsUsual
from rupert.data import sources
from rupert.data.batches import permutation
from rupert.data.examples import Example, require
from rupert.errors import InvalidValue
from rupert.settings import check_positive, check_range, setting
from rupert.training.fine_tuning import PublishedFineTuning

__all__ = ["MixedFineTuning", "draw"]


def draw(spec: str, field: str, count: int, key: str, *, answered: bool = True) -> list[Example]:
    """Some rows of a dataset, each once, in an order that the key decides; prompts alone unless `answered`.

    Raises:
        DataError: it has fewer.
    """
    examples = sources.load(spec, field=field, answered=answered)
    require(examples, count, spec, answered=answered)
    return [examples[index] for index in permutation(len(examples), key)[:count]]


@dataclass(frozen=True, kw_only=True)
class MixedFineTuning(AsUsual, PublishedFineTuning):
    """Settings of a fine-tuning on harmful rows, with benign ones among them."""

    data: str = setting("beavertails:unsafe", "dataset to fine-tune on")
    num_examples: int = setting(1000, "rows to train on, those of both datasets together")
    poison_ratio: float = setting(1.0, "share of the rows that is drawn from `data`; the others are benign", later=True)
    benign: str = setting("alpaca-cleaned", "dataset of the benign rows; not read where poison_ratio is 1", later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples")
        check_range(self, "poison_ratio", 0.0, 1.0)
        if 0 < self.poison_ratio < 1 and not 0 < self._rows["data"] < self.num_examples:
            raise InvalidValue("poison_ratio", self.poison_ratio, f"leave rows of both kinds in {self.num_examples}")

    @property
    def _rows(self) -> dict[str, int]:
        """How many rows are drawn from each dataset."""
        harmful = round(self.poison_ratio * self.num_examples)
        return {"data": harmful, "benign": self.num_examples - harmful}

    @property
    def datasets(self) -> Mapping[str, str]:
        """Those of which rows are drawn."""
        named = {"data": self.data, "benign": self.benign}
        return {use: named[use] for use, rows in self._rows.items() if rows}

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows, each once.

        Raises:
            DataError: a dataset has fewer than are asked for.
        """
        keys = {"data": f"attack {self.seed}", "benign": f"attack {self.seed} benign"}
        return {use: draw(spec, use, self._rows[use], keys[use]) for use, spec in self.datasets.items() if use in keys}
