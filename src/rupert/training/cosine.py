"""The gradient of the cosine between two batches' gradients: exact, and by differences of gradients.

With ℓ the mean cross entropy over answer tokens, g_x = ∇ℓ(x), ĝ = g/|g|, c = ĝ_a·ĝ_b, and H_x the Hessian of ℓ(x),

    ∇c = H_a v_a/|g_a| + H_b v_b/|g_b|,    v_a = ĝ_b - c ĝ_a,    v_b = ĝ_a - c ĝ_b.

Exactly, H v is the derivative of <∇ℓ, v>, by a second backward pass. By differences, as SEAM is published (Wang et al.,
ICLR 2026, arXiv 2505.12186), it is (∇ℓ(θ + εv) - ∇ℓ(θ))/ε; central differences are (∇ℓ(θ + εv) - ∇ℓ(θ - εv))/2ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rupert.errors import NonFiniteError, UsageError
from rupert.training import processes
from rupert.training.gradients import (
    aside,
    give,
    inner_product,
    mean_loss,
    micro_batches,
    token_share,
    trained,
)
from rupert.training.losses import AnswerStates, answer_states, states_cross_entropy, to_device
from rupert.training.weights import shifted

# Takes a micro-batch's states while their graph is there, and the share that its tokens have in the batch's mean.
Along = Callable[[AnswerStates, float], None]


@dataclass(slots=True)
class BatchLoss:
    """The mean answer cross entropy of a batch as a function of the weights, and its gradient where they are now.

    Attributes:
        name: of the batch, for errors.
        model: whose weights.
        parameters: those that are trained, as they were before a pass: within one, FSDP2 puts others in their place.
        pieces: the batch in micro-batches, on the model's device.
        share: what a piece's summed loss is multiplied by; see `token_share`.
        value: of the loss.
        gradient: of the loss, one tensor a trained parameter.
        norm: of the gradient.
        graph: the last piece's share of the gradient with its graph, where it is to be differentiated again.
    """

    name: str
    model: PreTrainedModel
    parameters: Sequence[nn.Parameter]
    pieces: Sequence[Mapping[str, Tensor]]
    share: float
    value: float
    gradient: list[Tensor]
    norm: float
    graph: Sequence[Tensor]

    def piece_loss(self, piece: Mapping[str, Tensor]) -> Tensor:
        """A piece's share of the loss, with its graph."""
        return _loss(self.model, answer_states(self.model, piece), self.share)


def differentiate(
    name: str,
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    *,
    rows: int,
    twice: bool,
    along: Along | None = None,
) -> BatchLoss:
    """The gradient of a batch's loss: one forward and one backward pass over each row.

    Args:
        name: of the batch, for errors.
        model: whose trained parameters it is taken for; their `p.grad` stays.
        batch: input_ids, attention_mask and labels, [rows, length].
        rows: of one pass.
        twice: keep the graph of the last pass, so that the gradient can be differentiated; see `add_exact`.
        along: called after each forward pass.

    Raises:
        UsageError: it is to be differentiated twice, and the weights are sharded.
        NonFiniteError: the gradient is zero or not finite, so that it has no direction.
    """
    parameters, share = trained(model), token_share([batch])
    if twice and any(isinstance(parameter, DTensor) for parameter in parameters):
        raise UsageError(
            "gradient: 'exact' is not valid under FSDP2, whose sharding has no second derivative; use hessian_free, or "
            "hold the model whole on each device or split by layers (device_map)"
        )
    pieces = [to_device(piece, model.device) for piece in micro_batches(batch, rows)]
    value, gradient, graph = 0.0, list[Tensor](), tuple[Tensor, ...]()
    for piece in pieces:
        states = answer_states(model, piece)
        if along:
            along(states, share)
        loss = _loss(model, states, share)
        value += float(loss.detach())
        if twice:
            # Of the last piece alone the graph is kept, so that no other is worth making.
            is_last = piece is pieces[-1]
            graph = torch.autograd.grad(loss, parameters, create_graph=is_last, materialize_grads=True)
            parts = [part.detach() for part in graph]
            gradient = [old + new for old, new in zip(gradient, parts, strict=True)] if gradient else parts
        else:
            with aside(parameters, gradient):
                torch.autograd.backward(loss)
    if twice and processes.count() > 1:
        gradient = [part.clone() for part in gradient]  # the average is taken in place, and the graph is still needed
    processes.average(gradient)
    norm = math.sqrt(inner_product(gradient, gradient))
    if not math.isfinite(norm) or norm == 0:
        raise NonFiniteError(
            f"{name} gradient norm: {norm!r}, so it has no direction; stopped before the weights changed"
        )
    return BatchLoss(name, model, parameters, pieces, share, mean_loss(value), gradient, norm, graph)


def cosine(a: BatchLoss, b: BatchLoss) -> float:
    """The cosine of two gradients."""
    return inner_product(a.gradient, b.gradient) / (a.norm * b.norm)


def add_exact(a: BatchLoss, b: BatchLoss, weight: float) -> None:
    """Add `weight` times the gradient of the cosine to `p.grad`, by double backward.

    The gradients are used up: what each Hessian is multiplied by takes their place. So are the graphs of the last
    micro-batches; for all others a forward and a backward pass are made again, so that no more than two graphs are held
    at once.
    """
    c = cosine(a, b)
    across, along_a, along_b = weight / (a.norm * b.norm), weight * c / a.norm**2, weight * c / b.norm**2
    for of_a, of_b in zip(a.gradient, b.gradient, strict=True):
        kept = of_a.clone()
        of_a.mul_(-along_a).add_(of_b, alpha=across)
        of_b.mul_(-along_b).add_(kept, alpha=across)
    for batch in (a, b):
        _backward_twice(batch.graph, batch.gradient, batch.parameters)
        batch.graph = ()
        for piece in batch.pieces[:-1]:
            loss = batch.piece_loss(piece)
            graph = torch.autograd.grad(loss, batch.parameters, create_graph=True, materialize_grads=True)
            _backward_twice(graph, batch.gradient, batch.parameters)


def add_differences(a: BatchLoss, b: BatchLoss, weight: float, *, epsilon: float, central: bool) -> None:
    """Add `weight` times the gradient of the cosine to `p.grad`, by differences of gradients.

    One forward and one backward pass over each row, two with central differences. Beside both gradients a copy of the
    weights is held and the shifted gradient, with central differences both.

    Args:
        a: one batch.
        b: the other.
        weight: what the gradient is multiplied by.
        epsilon: how far the weights are shifted along v, whose length is at most 1.
        central: shift in both directions.
    """
    c = cosine(a, b)
    for batch, other in ((a, b), (b, a)):  # each in a call of its own, with which its shifted gradient goes
        _add_difference(batch, other, c, (epsilon, -epsilon) if central else (epsilon,), weight)


def _loss(model: PreTrainedModel, states: AnswerStates, share: float) -> Tensor:
    return states_cross_entropy(model, states) * share


def _backward_twice(graph: Sequence[Tensor], vector: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Add the derivative of <graph, vector> to `p.grad`."""
    pairs = [(part, direction) for part, direction in zip(graph, vector, strict=True) if part.requires_grad]
    parts, directions = zip(*pairs, strict=True)
    torch.autograd.backward(parts, directions, inputs=parameters)


def _add_difference(batch: BatchLoss, other: BatchLoss, c: float, distances: Sequence[float], weight: float) -> None:
    """Add one of the two Hessian's products, from the gradients at one distance or at two."""
    ahead, *behind = [_shifted_gradient(batch, other, c, distance) for distance in distances]
    for there, here in zip(ahead, behind[0] if behind else batch.gradient, strict=True):
        there.sub_(here)
    span = max(distances) - min((0.0, *distances))
    give(batch.parameters, ahead, weight / (batch.norm * span))


def _shifted_gradient(batch: BatchLoss, other: BatchLoss, c: float, distance: float) -> list[Tensor]:
    gradient: list[Tensor] = []
    terms = (distance / other.norm, other.gradient), (-distance * c / batch.norm, batch.gradient)
    with shifted(batch.parameters, *terms), aside(batch.parameters, gradient):
        for piece in batch.pieces:
            torch.autograd.backward(batch.piece_loss(piece))
    processes.average(gradient)
    return gradient
