"""One simulated step of harmful fine-tuning: weights that are, for a while, where a harmful gradient step leads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.models.packing import packing
from rupert.training.cosine import BatchLoss, differentiate
from rupert.training.gradients import trained
from rupert.training.weights import in_float32, shifted


@contextmanager
def harmful_step(
    model: PreTrainedModel, batch: Mapping[str, Tensor], *, rows: int, distance: float
) -> Iterator[BatchLoss]:
    """Within, the trained weights θ are at θ - distance * g/|g|, with g the gradient of the batch's loss at θ.

    One forward and one backward pass over each row. The norm is that of the gradient of the whole batch, over all
    trained weights, micro-batches and processes. Half-precision weights are float32 ones for the time: for most of them
    their part of the step is below the rounding of bfloat16. (On SmolLM2, at a distance of 0.1, it moved 0.6 % of them,
    and the difference that the step makes to the gradient came out 15 % short.) An adapter is held in float32 anyway.

    Args:
        model: whose trained weights are moved; a copy of them is held.
        batch: the harmful rows: input_ids, attention_mask and labels, [rows, length].
        rows: of one pass.
        distance: how far the weights are moved, all together.

    Yields:
        the batch's loss and gradient at θ. Only the direction of the gradient was needed, and it is no longer: its
        tensors may be used up.

    Raises:
        NonFiniteError: the gradient is zero or not finite, so that it has no direction.
        UsageError: the weights are sharded and of half precision.
    """
    with _precision(model):
        with packing(model):
            harmful = differentiate("harmful", model, batch, rows=rows, twice=False)
        with shifted(harmful.parameters, (-distance / harmful.norm, harmful.gradient)):
            yield harmful


def _precision(model: PreTrainedModel) -> AbstractContextManager[None]:
    are_halves = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in trained(model))
    return in_float32(model) if are_halves else nullcontext()
