"""Recovery before the attack: what a defense took is taught back first, and harmful fine-tuning comes second.

A self-destructive defense lets harmful fine-tuning end in a useless model. An attacker who knows that restores ability
first, or undoes what the defense taught: against SDD (Chen et al., arXiv 2508.17361) with clean answers to the
instructions that it paired with irrelevant ones, such as refusals. With θ the defended weights, C the recovery rows, H
the harmful ones with a share of benign ones among them, ℓ the mean cross entropy over answer tokens:

    θ' = argmin ℓ(C), trained from θ;    θ'' = argmin ℓ(H), trained from θ'.

It is there to measure whether a defense survives an attacker who does not go straight for the harm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rupert.attacks.attack import Attacked, Data
from rupert.attacks.mixture import MixedFineTuning, draw
from rupert.data.examples import Example
from rupert.errors import UsageError
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training import processes
from rupert.training.fine_tuning import UNFOLLOWED, Following, fine_tune


@dataclass(frozen=True, kw_only=True)
class Recovery(MixedFineTuning):
    """Fine-tuning on recovery data, then on harmful data with benign rows among it."""

    recovery: str = setting("alpaca-cleaned", "dataset to recover on first: benign rows, or clean answers")
    recovery_num_examples: int = setting(1000, "rows drawn from it")
    recovery_learning_rate: float = setting(5e-5, "peak learning rate of the recovery")
    recovery_num_train_epochs: float = setting(1.0, "passes over the recovery rows, unless recovery_max_steps is given")
    recovery_max_steps: int = setting(-1, "optimizer steps of the recovery; -1: as many as the epochs take")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "recovery_num_examples", "recovery_learning_rate", "recovery_num_train_epochs")
        if self.recovery_max_steps != -1:
            check_positive(self, "recovery_max_steps")

    @property
    def datasets(self) -> Mapping[str, str]:
        """The recovery data, the harmful ones, and benign ones where they are asked for."""
        return {"recovery": self.recovery, **super().datasets}

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows of both trainings.

        Raises:
            DataError: a dataset has fewer than are asked for.
        """
        key = f"attack {self.seed} recovery"
        recovery = draw(self.recovery, "recovery", self.recovery_num_examples, key)
        return {"recovery": recovery, **super().gather()}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        _require_whole()
        following = replace(following, adapter_folder=None)  # the second adapter belongs on a model that is not kept
        first = fine_tune(self._first, loaded, data["recovery"], f"recovering with {self.recovery}", following)
        rows = [*data.get("data", ()), *data.get("benign", ())]
        second = fine_tune(self, first.loaded, rows, f"attacking with {self.data}", following)
        return Attacked(
            second.loaded,
            first.steps + second.steps,
            first.tokens + second.tokens,
            {"loss": second.loss, "recovery_loss": first.loss},
        )

    @property
    def _first(self) -> Recovery:
        """The settings of the first training."""
        return replace(
            self,
            learning_rate=self.recovery_learning_rate,
            num_train_epochs=self.recovery_num_train_epochs,
            max_steps=self.recovery_max_steps,
        )


def _require_whole() -> None:
    """A model that was divided among processes for one training cannot be divided again for the next."""
    divided = (os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    if processes.count() > 1 and any(divided):
        raise UsageError("two trainings cannot be split by FSDP or DeepSpeed; use --accelerate-config replicas")
