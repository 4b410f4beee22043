"""Weights that are different for a while come back bit for bit, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rupert.models.loading import LoadedModel
from rupert.training.weights import as_they_were, holding, in_float32, shifted

Tiny = Callable[..., LoadedModel]

HALVES = [torch.bfloat16, torch.float16]


class Broken(RuntimeError):
    """What happens meanwhile."""


def parameter(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def test_shifted_by_the_sum_of_the_terms() -> None:
    first, second = parameter(1.0, 2.0), parameter(3.0)
    directions = [torch.tensor([10.0, 20.0]), torch.tensor([30.0])], [torch.tensor([0.0, 4.0]), torch.tensor([8.0])]
    with shifted([first, second], (0.1, directions[0]), (-0.5, directions[1])):
        assert first.tolist() == pytest.approx([2.0, 2.0])
        assert second.tolist() == pytest.approx([2.0])
    assert first.tolist() == [1.0, 2.0]
    assert second.tolist() == [3.0]
    assert directions[0][0].tolist() == [10.0, 20.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_shifted_weights_come_back_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator).to(dtype)
    direction = torch.randn(1000, generator=generator).to(dtype)
    there_and_back = (start + direction * 0.3) - direction * 0.3
    assert not torch.equal(there_and_back, start)  # what the copy is for
    weights, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    with shifted([weights], (0.3, [direction])):
        assert not torch.equal(weights, start)
        assert weights.requires_grad
    assert torch.equal(weights, start)
    with pytest.raises(Broken), shifted([other], (0.3, [direction])):
        raise Broken
    assert torch.equal(other, start)


@pytest.mark.parametrize("breaks", [False, True])
def test_what_is_done_to_weights_meanwhile_is_undone_to_the_bit(breaks: bool) -> None:
    weight = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16))
    held, before, storage = weight, weight.detach().clone(), weight.data_ptr()
    try:
        with as_they_were([weight]):
            optimizer = torch.optim.AdamW([weight], lr=0.1)
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            assert not torch.equal(weight, before)
            if breaks:
                raise Broken
    except Broken:
        assert breaks
    assert weight is held
    assert weight.data_ptr() == storage
    assert torch.equal(weight, before)


def test_weights_hold_other_values_for_a_while() -> None:
    first, second = parameter(1.0, 2.0), parameter(3.0)
    values = [torch.tensor([5.0, 6.0], dtype=torch.float32), torch.tensor([7.0])]
    with holding([first, second], values):
        assert (first.tolist(), second.tolist()) == ([5.0, 6.0], [7.0])
        assert first.requires_grad
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [3.0])
    with pytest.raises(ValueError, match="shorter"), holding([first, second], values[:1]):
        raise AssertionError
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [3.0])


def test_a_shift_that_fails_half_way_is_undone() -> None:
    first, second = parameter(1.0), parameter(2.0)
    with pytest.raises(RuntimeError), shifted([first, second], (1.0, [torch.ones(1), torch.ones(3)])):
        raise AssertionError
    assert (first.item(), second.item()) == (1.0, 2.0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("breaks", [False, True])
def test_half_precision_is_float32_for_a_while(dtype: torch.dtype, breaks: bool) -> None:
    model = nn.Linear(2, 1).to(dtype)
    held, before = model.weight, model.weight.detach().clone()
    storage = model.weight.data_ptr()
    model.weight.grad = torch.tensor([[1.0, 2.0]], dtype=dtype)
    try:
        with in_float32(model):
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert torch.equal(model.weight, before.float())
            assert model.weight.grad.dtype == torch.float32
            model(torch.tensor([[0.5, -1.0]])).sum().backward()
            with torch.no_grad():
                model.weight.add_(1.0)
            if breaks:
                raise Broken
    except Broken:
        assert breaks
    assert model.weight is held
    assert model.weight.data_ptr() == storage
    assert torch.equal(model.weight, before)
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {dtype}
    assert model.weight.grad.tolist() == [[1.5, 1.0]]
    assert model.bias.grad.tolist() == [1.0]


def test_float32_weights_and_missing_gradients_are_let_be() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).to(torch.bfloat16))
    single = model[0].weight.data_ptr()
    with in_float32(model):
        assert model[0].weight.data_ptr() == single
        assert all(p.grad is None for p in model.parameters())
    assert [p.dtype for p in model.parameters()] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert all(p.grad is None for p in model.parameters())


def test_tied_embeddings_stay_tied(tiny: Tiny) -> None:
    model = tiny(dtype="bfloat16").model
    with in_float32(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.dtype == torch.float32
        assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_autocast_sees_the_shift() -> None:
    """It keeps half-precision copies of the weights, which do not follow them."""
    model, ones = nn.Linear(2, 1, bias=False), torch.ones(1, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(ones).item() == 2.0
        with shifted([model.weight], (1.0, [torch.full((1, 2), 3.0)])):
            assert model(ones).item() == 8.0
        assert model(ones).item() == 2.0
