"""Weights that are different for a while, and afterwards what they were, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rupert.errors import UsageError

Term = tuple[float, Sequence[Tensor]]  # a number, and a tensor for each parameter that it multiplies


@contextlib.contextmanager
def as_they_were(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, the parameters may be changed in place; a copy of them is held for the time, and put back."""
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        _set(parameters, kept)


@contextlib.contextmanager
def holding(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Within, the parameters are these values, one tensor each, which nothing may change; nothing is copied.

    Of sharded parameters, and of half-precision values of float32 ones, a copy is held for the time.
    """
    if any(isinstance(parameter, DTensor) for parameter in parameters):  # FSDP2 holds on to the tensors it sharded
        with as_they_were(parameters):
            _set(parameters, values)
            yield
        return
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.to(parameter.dtype)
        torch.clear_autocast_cache()  # of the weights as they were, in half precision
        yield
    finally:
        for parameter, value in zip(parameters, own, strict=True):
            parameter.data = value
        torch.clear_autocast_cache()


@contextlib.contextmanager
def shifted(parameters: Sequence[nn.Parameter], *terms: Term) -> Iterator[None]:
    """Within, the parameters are moved by the sum of the terms, in place; a copy of them is held for the time.

    They are restored from the copy: subtracting what was added does not give the same bits back.
    """
    with as_they_were(parameters):
        with torch.no_grad():
            for weight, direction in terms:
                for parameter, part in zip(parameters, direction, strict=True):
                    parameter.add_(part, alpha=weight)
        torch.clear_autocast_cache()  # of the weights as they were, in half precision
        yield


def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    torch.clear_autocast_cache()  # of the weights as they were, in half precision


@contextlib.contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Within, a model of half-precision weights has float32 ones; its gradients are given back in its own type.

    Raises:
        UsageError: the weights are sharded and of half precision; FSDP2 holds on to the tensors that it sharded.
    """
    halves = [p for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    if any(isinstance(p, DTensor) for p in halves):
        raise UsageError(f"dtype: {str(halves[0].dtype)!r} is not valid under FSDP2 with small shifts; load in float32")
    kept = [parameter.data for parameter in halves]
    gradients = [parameter.grad for parameter in halves]
    try:
        for parameter, gradient in zip(halves, gradients, strict=True):
            parameter.grad = None
            parameter.data = parameter.data.float()
            parameter.grad = None if gradient is None else gradient.float()
        yield
    finally:
        for parameter, original in zip(halves, kept, strict=True):
            gradient, parameter.grad = parameter.grad, None
            parameter.data = original
            parameter.grad = None if gradient is None else gradient.to(original.dtype)
