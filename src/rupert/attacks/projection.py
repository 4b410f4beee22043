"""Harmful fine-tuning along the part of its gradient that does not work against benign data.

A defense as SEAM (Wang et al., ICLR 2026, arXiv 2505.12186) turns the gradients of harmful and benign data against each
other, so that each harmful step costs ability. An attacker who knows that leaves the opposing part out, as PCGrad (Yu
et al., NeurIPS 2020, arXiv 2001.06782) does between tasks. With g_h = ∇ℓ(H) of a batch of harmful rows and g_b = ∇ℓ(B)
of as many benign ones, ℓ the mean cross entropy over answer tokens, both over all trained weights, a step is along

    g = g_h - (min(0, <g_h, g_b>) / |g_b|²) g_b + w g_b,

so that for w = 0 a step that would raise the benign loss is, to first order, one that leaves it alone; w, the
`benign_weight`, lowers it besides.

It is there to measure whether a defense holds against an attacker who knows how it works.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from rupert.attacks.attack import AsUsual, Attacked, Data
from rupert.attacks.mixture import draw
from rupert.data.batches import permutation
from rupert.data.examples import Example
from rupert.errors import InvalidValue
from rupert.models.loading import LoadedModel
from rupert.models.packing import packing
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training import processes
from rupert.training.cosine import cosine, differentiate
from rupert.training.fine_tuning import UNFOLLOWED, Following, PublishedFineTuning
from rupert.training.gradients import give
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.trainer import harden


@dataclass(frozen=True, kw_only=True)
class Projection(AsUsual, PublishedFineTuning):
    """Harmful fine-tuning whose gradient is projected off the benign one where they conflict (PCGrad)."""

    data: str = setting("beavertails:unsafe", "dataset of harmful rows")
    num_examples: int = setting(1000, "rows drawn from it; as many benign ones at most")
    benign: str = setting("alpaca-cleaned", "dataset of benign rows")
    benign_weight: float = setting(0.0, "weight of the benign gradient itself")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples")
        check_not_negative(self, "benign_weight")
        if self.load_in_4bit:
            raise InvalidValue("load_in_4bit", True, "projection's loop quantizes nothing; set it to false")

    @property
    def datasets(self) -> Mapping[str, str]:
        """Both datasets."""
        return {"data": self.data, "benign": self.benign}

    @property
    def streams(self) -> Mapping[str, int]:
        """A batch of each a step."""
        return {"data": self.batch_size, "benign": self.batch_size}

    def gather(self) -> dict[str, list[Example]]:
        """Draw as many rows of each.

        Raises:
            DataError: a dataset has fewer than `num_examples`.
        """
        keys = {"data": f"attack {self.seed}", "benign": f"attack {self.seed} benign"}
        return {use: draw(spec, use, self.num_examples, keys[use]) for use, spec in self.datasets.items()}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        streams = {use: self._ordered(rows) for use, rows in data.items()}
        with tempfile.TemporaryDirectory(prefix="rupert-") as scratch:
            trainer = harden(
                replace(self, max_steps=self._steps(len(data["data"]))),
                loaded,
                Gathered(streams),
                Path(scratch),
                title=f"attacking with {self.data}",
                save_steps=0,
                following=following,
            )
        losses = {name: [step[name] for step in trainer.history] for name in ("loss", "benign_loss", "conflict")}
        means = {name: math.fsum(values) / len(values) for name, values in losses.items()}
        return Attacked(loaded, trainer.state.global_step, trainer.state.num_input_tokens_seen, means)

    def _ordered(self, rows: Sequence[Example]) -> Sequence[Example]:
        """The rows in an order of `data_seed`, from which the training's own order begins."""
        if self.data_seed is None:
            return rows
        return [rows[index] for index in permutation(len(rows), f"order {self.data_seed}")]

    def _steps(self, rows: int) -> int:
        """Optimizer steps, as Transformers counts them."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(math.ceil(rows / (self.batch_size * processes.count())) * self.num_train_epochs)

    def start(self, model: PreTrainedModel) -> Step:
        """The gradient rule: two passes a step, and a copy of the gradient."""

        def step(draw: Draw) -> Metrics:
            rows = self.per_device_train_batch_size
            with packing(model):
                harmful = differentiate("harmful", model, draw("data"), rows=rows, twice=False)
                benign = differentiate("benign", model, draw("benign"), rows=rows, twice=False)
            alike = cosine(harmful, benign)
            opposing = max(0.0, -alike) * harmful.norm / benign.norm
            give(harmful.parameters, harmful.gradient, 1.0)
            give(benign.parameters, benign.gradient, opposing + self.benign_weight)
            return {
                "loss": harmful.value,
                "benign_loss": benign.value,
                "cosine": alike,
                "conflict": float(alike < 0),
            }

        return step
