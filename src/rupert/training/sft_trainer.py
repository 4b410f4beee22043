"""TRL's trainer without padding: what is no token is not computed, and what predicts no answer gets no logits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.training_args import ParallelMode
from trl import SFTTrainer

from rupert.data.batches import IGNORED
from rupert.models.packing import is_packing, packed, packing
from rupert.training.losses import answer_states, states_cross_entropy


class PaddingFreeTrainer(SFTTrainer):
    """Leaves padding out where one process trains a model that can be packed; the loss is TRL's.

    TRL has batches without padding for flash attention alone. Its fused output head leaves prompts out where there is
    Triton, and elsewhere makes logits of every position, twice: on a CPU the house's own head is used instead.
    """

    def training_step(self, model: Any, *arguments: Any, **options: Any) -> Tensor:
        """Forward and backward within `packing`; between steps the model is what it was, and can generate."""
        alone = self.args.parallel_mode == ParallelMode.NOT_PARALLEL
        with packing(model) if alone else contextlib.nullcontext():
            loss: Tensor = super().training_step(model, *arguments, **options)
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross entropy summed over answers, divided by their tokens in all rows of the step."""
        if not is_packing(self.model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, without_padding(inputs), return_outputs, num_items_in_batch)
        states = answer_states(model, inputs)
        total = states_cross_entropy(model, states)
        return total / (states.targets.numel() if num_items_in_batch is None else num_items_in_batch)


def without_padding(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """A padded batch of [rows, longest] as a model within `packing` takes it, with labels of [1, tokens].

    The first token of a row loses its label: the last one of the row before would predict it.
    """
    mask = batch["attention_mask"]
    labels = functional.pad(batch["labels"][:, 1:], (1, 0), value=IGNORED)
    return {**packed(batch["input_ids"], mask), "labels": labels[mask.bool()][None]}
