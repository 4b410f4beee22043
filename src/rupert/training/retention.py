"""A retain loss that keeps hidden states: the cross entropy, and how far every hidden state is from the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.models.packing import packing
from rupert.training import processes
from rupert.training.gradients import mean_loss, micro_batches, token_share
from rupert.training.losses import answer_states, states_cross_entropy, to_device
from rupert.training.original import Original


def squared_difference(found: Sequence[Tensor], wanted: Sequence[Tensor], is_real: Tensor) -> Tensor:
    """Mean over layers and width of the squared differences, summed over tokens; a scalar, at least in float32.

    Args:
        found: hidden states by layer, [rows, length, width] each.
        wanted: the same of another model.
        is_real: [rows, length], true where a token is; padding does not count.
    """
    parts, places = [], is_real.flatten().nonzero().squeeze(1)
    whole = len(places) == is_real.numel()
    for one, other in zip(found, wanted, strict=True):
        difference = (one - other).flatten(0, 1)
        difference = difference if whole else difference.index_select(0, places.to(one.device))
        precise = difference.to(torch.promote_types(difference.dtype, torch.float32))
        parts.append(precise.square().mean(dim=-1).sum().to(found[0].device))
    return torch.stack(parts).mean()


def backward_retained(
    model: PreTrainedModel, batch: Mapping[str, Tensor], original: Original, *, rows: int, weight: float
) -> float:
    """Add the gradient of cross entropy plus mean squared difference of hidden states to `p.grad`.

    One forward and one backward pass over each row, and a forward pass of the original, whose states of the whole batch
    are held.

    Args:
        model: what is trained.
        batch: input_ids, attention_mask and labels, [rows, length].
        original: whose hidden states are kept.
        rows: of one pass.
        weight: what the gradient is multiplied by.

    Returns:
        the loss, without the weight.
    """
    with packing(model):
        pieces = [to_device(piece, model.device) for piece in micro_batches(batch, rows)]
        with original.in_place():
            kept = [answer_states(model, piece).hidden for piece in pieces]
        share = token_share([batch])
        share_of_all = processes.count() / processes.total(float(batch["attention_mask"].sum()))
        total = 0.0
        for piece, wanted in zip(pieces, kept, strict=True):
            states = answer_states(model, piece)
            difference = squared_difference(states.hidden, wanted, states.is_real)
            entropy = states_cross_entropy(model, states)
            loss = entropy * share + difference.to(entropy.device) * share_of_all
            torch.autograd.backward(loss * weight)
            total += float(loss.detach())
    return mean_loss(total)
