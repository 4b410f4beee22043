"""The tamper-resistance losses of TAR, taken of an attacked model on data that the attack has not seen.

Tamirisa et al., ICLR 2025, arXiv 2408.00761. Either the negative entropy of the next token, so that there is nothing to
descend to, or for refusals a preference (Rafailov et al., NeurIPS 2023, arXiv 2305.18290) of refusing over answering:

    entropy:     mean over answer tokens of Σ_w p(w) log p(w)
    preference:  mean over pairs of -log sigmoid(β ((log p(r) - log p₀(r)) - (log p(h) - log p₀(h))))

with a refusal r and a harmful answer h, each given its own request, and p₀ the model that the training began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED
from rupert.models.anatomy import anatomy
from rupert.models.packing import packing
from rupert.training import processes
from rupert.training.gradients import mean_loss, micro_batches, token_share
from rupert.training.losses import answer_logits, answer_states, to_device
from rupert.training.original import Original

Batch = Mapping[str, Tensor]
Backward = Callable[
    [float], float
]  # adds so much of the gradient to p.grad, where the weights are now; returns the loss


def negative_entropy(logits: Tensor) -> Tensor:
    """Summed negative entropy of predictions, [tokens, vocabulary]; a scalar, at least in float32."""
    logs = functional.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return (logs.exp() * logs).sum()


def answer_log_probability(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The log-probability of each row's answer, summed over its tokens: [rows], at least in float32."""
    logits, labels = answer_logits(model, batch)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
    return -functional.cross_entropy(precise, labels, ignore_index=IGNORED, reduction="none").sum(dim=1)


def entropy_resistance(model: PreTrainedModel, batch: Batch, *, rows: int) -> Backward:
    """The negative entropy on a batch: one forward and one backward pass over each row, of at most `rows` at once."""
    share = token_share([batch])

    def backward(weight: float) -> float:
        total = 0.0
        with packing(model):
            for piece in micro_batches(batch, rows):
                states = answer_states(model, to_device(piece, model.device))
                loss = negative_entropy(anatomy(model).logits(states.layer(-1))) * share
                torch.autograd.backward(loss * weight)
                total += float(loss.detach())
        return mean_loss(total)

    return backward


def preference_resistance(
    model: PreTrainedModel, refused: Batch, answered: Batch, original: Original, *, rows: int, beta: float
) -> Backward:
    """The preference on as many pairs as the batches have rows: two forward passes and one backward pass over both.

    Streams are shuffled apart, so that a pair's refusal and its harmful answer are to different requests; the loss only
    compares what has become of each since the original.

    Args:
        model: whose preference it is.
        refused: requests with refusals.
        answered: as many with harmful answers.
        original: what is preferred is measured against it; run here, once over all rows.
        rows: of one pass.
        beta: how soon a preference is enough.
    """
    pairs = list(zip(_in_order(refused, rows, model.device), _in_order(answered, rows, model.device), strict=True))
    share = processes.count() / processes.total(float(len(refused["labels"])))
    with original.in_place():
        before = [_preferred(model, *pair) for pair in pairs]

    def backward(weight: float) -> float:
        total = 0.0
        for pair, reference in zip(pairs, before, strict=True):
            loss = -functional.logsigmoid(beta * (_preferred(model, *pair) - reference)).sum() * share
            torch.autograd.backward(loss * weight)
            total += float(loss.detach())
        return mean_loss(total)

    return backward


def _preferred(model: PreTrainedModel, refused: Batch, answered: Batch) -> Tensor:
    return answer_log_probability(model, refused) - answer_log_probability(model, answered)


def _in_order(batch: Batch, rows: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Pieces of the batch that keep its order, each no longer than its longest row."""
    for first in range(0, len(batch["labels"]), rows):
        longest = int(batch["attention_mask"][first : first + rows].sum(dim=1).max())
        yield to_device({name: tensor[first : first + rows, :longest] for name, tensor in batch.items()}, device)
