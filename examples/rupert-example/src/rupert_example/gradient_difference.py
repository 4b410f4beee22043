"""Gradient difference: raise the loss on harmful answers, and keep it low on others.

Liu et al., "Continual Learning and Private Unlearning" (CoLLAs 2022, arXiv 2203.12817); so named by Maini et al.,
"TOFU" (COLM 2024, arXiv 2401.06121). With F harmful rows, R rows to retain, and ℓ the mean cross entropy over
answer tokens,

    L(θ) = ℓ(θ; R) - λ ℓ(θ; F).

It is a baseline that defenses have to beat: it takes harmful answers out, and nothing in it keeps an attacker from
teaching them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from rupert.data import sources
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training.gradients import backward_answer_cross_entropy
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class GradientDifference(TrainingSettings):
    """Unlearning by gradient ascent on harmful rows, with a retain loss (Liu et al., CoLLAs 2022)."""

    harmful: str = setting("beavertails:unsafe", "dataset of harmful requests with harmful answers")
    retain: str = setting("alpaca-cleaned", "dataset of rows whose answers are to be kept")
    forget_weight: float = setting(0.1, "weight of the ascent: λ; the loss on harmful rows has no upper bound")
    max_steps: int = setting(100, "optimizer steps")
    learning_rate: float = setting(1e-5, "peak learning rate")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps")
        check_not_negative(self, "forget_weight")

    @property
    def streams(self) -> Mapping[str, int]:
        """As many harmful rows a step as rows to retain."""
        return {"harmful": self.batch_size, "retain": self.batch_size}

    @property
    def cost(self) -> Cost:
        """One forward and one backward pass over each row, and nothing beside the gradient."""
        return Cost(passes=2 * self.batch_size)

    @property
    def datasets(self) -> Mapping[str, str]:
        """Both datasets, by the setting that names each."""
        return {"harmful": self.harmful, "retain": self.retain}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets; each is a stream of the same name."""
        return Gathered({name: sources.load(spec, field=name) for name, spec in self.datasets.items()})

    def start(self, model: PreTrainedModel) -> Step:
        """Two passes a step; each adds its part to `p.grad`."""
        rows = self.per_device_train_batch_size

        def step(draw: Draw) -> Metrics:
            retained = backward_answer_cross_entropy(model, [draw("retain")], micro_batch_size=rows)
            harmful = backward_answer_cross_entropy(
                model, [draw("harmful")], micro_batch_size=rows, weight=-self.forget_weight
            )
            loss = retained - self.forget_weight * harmful
            return {"loss": loss, "retain_loss": retained, "harmful_loss": harmful}

        return step
