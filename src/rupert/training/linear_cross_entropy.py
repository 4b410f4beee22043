"""Cross entropy behind a linear output head, with first and second derivatives that hold one matrix of logits' size.

With z = h Wᵀ and D = softmax(z) - (ones at the targets), [tokens, vocabulary], the summed loss has

    ∂h = D W,    ∂W = Dᵀ h.

For cotangents A of ∂h and B of ∂W, with Z = A Wᵀ + h Bᵀ, e = rowsum(D ∘ Z) and r = Z at the targets + e, their
derivatives are, with Q = D ∘ (Z - r) - (e at the targets),

    D B + Q W    for h,    Dᵀ A + Qᵀ h    for W.

Autograd comes to the same with about ten matrices of that size at once, and as many passes over each. D is held and
not the softmax: where the model is sure of the target, rounding would swallow their difference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def linear_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of the logits `states @ weight.T`, which can be differentiated twice.

    Args:
        states: [tokens, width].
        weight: of the output head, [vocabulary, width]. Computed in its type, also within autocast.
        targets: [tokens], numbers of words.

    Returns:
        a scalar, in float32 or in float64 for such weights.
    """
    loss: Tensor = _Loss.apply(states.to(weight.dtype), weight, targets)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def backward_linear_cross_entropy(
    states: Tensor, weight: Tensor, targets: Tensor, scale: float
) -> tuple[float, Tensor]:
    """Add the gradient of `scale` times the loss to `weight.grad`, in place, if it is trained.

    For a head that is used again and again: autograd would make its gradient anew each time, and add it.

    Returns:
        the loss, and `scale` times its gradient at the states, [tokens, width].
    """
    states = states.to(weight.dtype)
    loss, d = _loss_and_difference(states, weight, targets)
    with _without_autocast(weight):
        if weight.requires_grad and weight.grad is None:
            weight.grad = d.T @ (states * scale)
        elif weight.requires_grad and weight.grad is not None:
            weight.grad.addmm_(d.T, states * scale)
        return float(loss), (d @ weight).mul_(scale)


def _loss_and_difference(states: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and D; the logits become the softmax, and that becomes D, in place."""
    with _without_autocast(weight):
        logits = states @ weight.T
    found = logits.to(torch.promote_types(logits.dtype, torch.float32))
    columns = targets[:, None]
    wanted, highest = found.gather(1, columns), found.amax(dim=1, keepdim=True)
    found.sub_(highest).exp_()
    at_target = found.gather(1, columns)
    others = found.scatter_(1, columns, 0.0).sum(dim=1, keepdim=True)
    sums = at_target + others
    found.div_(sums).scatter_(1, columns, -others / sums)  # the target's softmax less 1, without their difference
    return (highest + sums.log() - wanted).sum(), found.to(logits.dtype)


class _Loss(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        loss, d = _loss_and_difference(states, weight, targets)
        ctx.save_for_backward(states, weight, targets, d)
        return loss

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        gradient = _Gradient.apply(*cotangents, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return *gradient, None


class _Gradient(Function):
    """∂h and, if W is trained, ∂W, times the cotangent of the loss."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, *held: Tensor) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(scale, *held)
        states, weight, _, d = held
        with _without_autocast(weight):
            return (d @ weight).mul_(scale), d.T @ (states * scale) if weight.requires_grad else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_states: Tensor, for_weight: Tensor | None) -> Any:
        scale, states, weight, targets, d = ctx.saved_tensors
        with _without_autocast(weight):
            z = for_states @ weight.T
            if for_weight is not None:
                z.addmm_(states, for_weight.T)
            e = (d * z).sum(dim=1, keepdim=True)
            q = z.sub_(z.gather(1, targets[:, None]) + e).mul_(d).scatter_add_(1, targets[:, None], -e)
            to_states, to_weight = q @ weight, None
            if for_weight is not None:
                to_states.addmm_(d, for_weight)
                to_weight = (d.T @ (for_states * scale)).addmm_(q.T, states * scale)
        return e.sum(), to_states.mul_(scale), to_weight, None, None


def _without_autocast(tensor: Tensor) -> torch.autocast:
    """What is computed here has types that fit already, and in-place products do not take others."""
    return torch.autocast(tensor.device.type, enabled=False)
