"""Gradients of whole batches, in micro-batches: what makes 8 x 1 rows and 1 x 8 rows the same step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED
from rupert.models.packing import packing
from rupert.training import processes
from rupert.training.losses import answer_tokens, backward_answers, to_device

# Any token fills a row: what attends to nothing and is no label does not count.
PADDING = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}

__all__ = [
    "PADDING",
    "aside",
    "backward_answer_cross_entropy",
    "give",
    "inner_product",
    "joined",
    "mean_loss",
    "micro_batches",
    "token_share",
    "trained",
]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a training changes: all, or those of an adapter."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def micro_batches(batch: Mapping[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into pieces of at most `rows` rows of like length, each no longer than its longest row.

    Rows are sorted by length first: a sum over the batch does not depend on their order, and less is padding.
    """
    lengths = batch["attention_mask"].sum(dim=1)
    for indices in lengths.argsort(stable=True).split(rows):
        longest = int(lengths[indices].max())
        yield {name: tensor[indices, :longest] for name, tensor in batch.items()}


def token_share(batches: Iterable[Mapping[str, Tensor]]) -> float:
    """What a summed loss over some of the batches' answer tokens is multiplied by to be a share of their mean.

    In several processes each has its own rows of a batch: the mean over processes of the gradients of these shares is
    the gradient of the mean over the answer tokens of all.
    """
    return processes.count() / processes.total(float(sum(map(answer_tokens, batches))))


def backward_answer_cross_entropy(
    model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]], *, micro_batch_size: int, weight: float = 1.0
) -> float:
    """Add the gradient of the mean cross entropy over all answer tokens of the batches to `p.grad`.

    One forward and one backward pass over each row; the mean is over the tokens of all batches together, however they
    are cut. A pass takes rows of several batches, where they are few, and none is padded where `packing` knows how.

    Args:
        model: what is trained.
        batches: each with input_ids, attention_mask and labels, [rows, length].
        micro_batch_size: rows of one pass.
        weight: what the gradient is multiplied by.

    Returns:
        the loss, without the weight.
    """
    share, total = token_share(batches), 0.0
    with packing(model):
        for piece in micro_batches(joined(batches), micro_batch_size):
            total += share * backward_answers(model, to_device(piece, model.device), share * weight)
    return mean_loss(total)


def joined(batches: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The rows of several batches in one, padded on the right to the longest of all."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch["labels"].shape[1] for batch in batches)
    return {
        name: torch.cat([pad(batch[name], (0, longest - batch[name].shape[1]), value=fill) for batch in batches])
        for name, fill in PADDING.items()
    }


def mean_loss(total: float) -> float:
    """The loss of a whole batch, the same in every process, from the sum of this process's shares."""
    return processes.total(total) / processes.count()


@contextmanager
def aside(parameters: Sequence[nn.Parameter], gradient: list[Tensor]) -> Iterator[None]:
    """What backward passes within add to is `gradient` instead of `p.grad`, which is as it was afterwards.

    No tensor is copied. It goes through `p.grad` because that is where FSDP2 leaves what it has summed over processes.

    Args:
        parameters: what the gradient is of.
        gradient: one tensor a parameter, or empty for a gradient of zero; it holds the sum once the context is left.
    """
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        for parameter, part in zip(parameters, gradient, strict=bool(gradient)):
            parameter.grad = part
        yield
        gradient[:] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad


def give(parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor], weight: float) -> None:
    """Add `weight` times a gradient to `p.grad`; its tensors are used up, so that none is copied."""
    for parameter, part in zip(parameters, gradient, strict=True):
        if parameter.grad is None:
            parameter.grad = part.mul_(weight)
        else:
            parameter.grad.add_(part, alpha=weight)


def inner_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """<left, right> over all parameters; for sharded ones over all processes.

    Half-precision tensors are multiplied in float32: a product of their own type is rounded to three digits.
    """
    sharded = [isinstance(tensor, DTensor) for tensor in left]
    products = [_inner_product(a, b) for a, b in zip(left, right, strict=True)]
    own = sum(product for product, is_sharded in zip(products, sharded, strict=True) if not is_sharded)
    if not any(sharded):
        return own
    return own + processes.total(
        sum(product for product, is_sharded in zip(products, sharded, strict=True) if is_sharded)
    )


def _inner_product(left: Tensor, right: Tensor) -> float:
    left, right = (t.to_local() if isinstance(t, DTensor) else t for t in (left, right))
    precise = torch.promote_types(left.dtype, torch.float32)
    return float(torch.dot(left.flatten().to(precise), right.flatten().to(precise)))
