"""What modules in the middle of a model give out: the gradient of a loss there, and perturbations added there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED
from rupert.errors import NonFiniteError, UsageError
from rupert.training import processes
from rupert.training.gradients import mean_loss, micro_batches, token_share
from rupert.training.losses import answer_cross_entropy, to_device

Hook = Callable[[nn.Module, Any, Any], Any]  # module, inputs, output -> another output, or None


@contextlib.contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Within, the first output of each module is kept, by module, so that a gradient can be taken there.

    An output that nothing trained leads to is made the beginning of a graph. Backward passes belong within, too.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        states = _states(output)
        if not states.requires_grad:
            states.requires_grad_()
        outputs.setdefault(module, states)  # recomputed activations come by once more

    with _hooked(modules, keep):
        yield outputs


@contextlib.contextmanager
def perturbed(perturbations: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Within, each module gives out what it did with its perturbation added; backward passes belong within, too."""

    def add(module: nn.Module, _inputs: Any, output: Any) -> Any:
        states = _states(output)
        moved = states + perturbations[module].to(states)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    with _hooked(perturbations, add):
        yield


@contextlib.contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, the parameters get no gradient, and nothing is kept of a forward pass for one.

    Raises:
        UsageError: the weights are sharded; FSDP2 computes with others than it shows, on which this has no effect.
    """
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    if any(isinstance(parameter, DTensor) for parameter, _ in before):
        raise UsageError(
            "Vaccine and T-Vaccine freeze weights, which FSDP2 does not heed; use replicas, or --device auto"
        )
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, was_trained in before:
            parameter.requires_grad_(was_trained)


def output_gradients(
    model: PreTrainedModel, piece: Mapping[str, Tensor], modules: Sequence[nn.Module], share: float
) -> tuple[float, dict[nn.Module, Tensor]]:
    """A loss and its gradient at the output of each module: a forward pass and a backward pass without weights.

    Args:
        model: whose parameters are all left alone.
        piece: a micro-batch on the model's device, [rows, length].
        modules: each of which takes part in a forward pass once.
        share: what the summed loss is multiplied by.

    Returns:
        the loss, and [rows, length, width] of each module; zero where there is padding.
    """
    with frozen(model.parameters()), recorded(modules) as outputs:
        loss = answer_cross_entropy(model, piece) * share
        gradients = torch.autograd.grad(loss, [outputs[module] for module in modules])
    return float(loss.detach()), dict(zip(modules, gradients, strict=True))


def mean_output_norms(
    model: PreTrainedModel, batch: Mapping[str, Tensor], modules: Sequence[nn.Module], *, micro_batch_size: int
) -> list[float]:
    """For each module, the mean over a batch's rows of the norm of the gradient of the row's own loss at its output.

    Args:
        model: whose parameters are all left alone.
        batch: of all processes together; this one's rows, [rows, length].
        modules: each of which takes part in a forward pass once.
        micro_batch_size: rows of one pass.
    """
    sums = [0.0] * len(modules)
    for piece in micro_batches(batch, micro_batch_size):
        tokens = (piece["labels"][:, 1:] != IGNORED).sum(dim=1)
        _, gradients = output_gradients(model, to_device(piece, model.device), modules, 1.0)
        for number, module in enumerate(modules):
            norms = gradients[module].flatten(1).to(torch.float64).norm(dim=1)
            sums[number] += float((norms / tokens.to(norms)).sum())
    rows = processes.total(len(batch["labels"]))
    return [processes.total(part) / rows for part in sums]


@dataclass(frozen=True, slots=True)
class Perturbed:
    """What `backward_perturbed` found.

    Attributes:
        loss: on the perturbed model, whose gradient is left.
        unperturbed: the loss before.
        norm: of the gradient at all outputs together.
    """

    loss: float
    unperturbed: float
    norm: float


def backward_perturbed(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, Tensor]],
    modules: Sequence[nn.Module],
    *,
    rho: float,
    micro_batch_size: int,
) -> Perturbed:
    """Add to `p.grad` the gradient of a loss under the perturbation of modules' outputs that raises it most.

    To first order, of all perturbations of norm `rho` that is `rho * d / |d|`, with d the loss's gradient at the
    outputs, and one norm over all modules, rows and tokens of the step, in all micro-batches and processes. The first
    pass finds d, and is one of outputs alone, the second one is of the perturbed model. All of d is held between them:
    one number for each output, which is less than a tenth of what a forward pass of as many rows keeps.

    Args:
        model: what is trained.
        batches: whose loss is the mean over all their answer tokens; each [rows, length].
        modules: whose outputs are perturbed.
        rho: norm of the perturbation.
        micro_batch_size: rows of one pass.

    Raises:
        NonFiniteError: the gradient at the outputs is zero or not finite, so that it has no direction.
    """
    share, unperturbed, loss = token_share(batches), 0.0, 0.0
    pieces = [to_device(piece, model.device) for batch in batches for piece in micro_batches(batch, micro_batch_size)]
    found = []
    for piece in pieces:
        value, gradients = output_gradients(model, piece, modules, share)
        unperturbed += value
        found.append(gradients)
    norm = math.sqrt(processes.total(sum(_square(part) for gradients in found for part in gradients.values())))
    if not math.isfinite(norm) or norm == 0:
        raise NonFiniteError(
            f"norm of the gradient at the outputs: {norm!r}, so it has no direction; stopped before the weights changed"
        )
    for piece in pieces:
        perturbations = {module: part.mul_(rho / norm) for module, part in found.pop(0).items()}
        with perturbed(perturbations):
            value_there = answer_cross_entropy(model, piece) * share
            torch.autograd.backward(value_there)
        loss += float(value_there.detach())
    return Perturbed(mean_loss(loss), mean_loss(unperturbed), norm / processes.count())


@contextlib.contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Hook) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(hook))  # leaving the handle removes it
        yield


def _states(output: Any) -> Tensor:
    """A module's hidden states; attention gives its weights out beside them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _square(tensor: Tensor) -> float:
    """The sum of squares, of half-precision numbers in float32."""
    return float(tensor.to(torch.promote_types(tensor.dtype, torch.float32)).pow(2).sum())
