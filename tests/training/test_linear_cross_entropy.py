"""Cross entropy behind a linear head: by hand, against autograd to the second derivative, and in every precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rupert.training.linear_cross_entropy import backward_linear_cross_entropy, linear_cross_entropy

TOKENS, WIDTH, WORDS = 5, 3, 7


def example(dtype: torch.dtype = torch.float64, *, frozen: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """States, weight and targets; two tokens have the same target, and one word is the first, one the last."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    return states.requires_grad_(), weight.requires_grad_(not frozen), torch.tensor([0, 4, 4, 2, WORDS - 1])


def of_logits(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition."""
    return functional.cross_entropy(states @ weight.T, targets, reduction="sum")


def sure(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Two tokens of which the model is sure: the target's logit, 30, is far above the others, which are near 0."""
    weight = torch.tensor([[30.0, 0.0], [0.5, 1.0], [-0.25, 2.0], [0.125, -1.0]], dtype=dtype)
    states = torch.tensor([[1.0, 0.0], [1.0, 0.125]], dtype=dtype)
    return states.requires_grad_(), weight.requires_grad_(), torch.tensor([0, 0])


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found.double() - expected.double()).norm() <= tolerance * expected.double().norm()


def test_two_tokens_and_two_words_by_hand() -> None:
    """Logits of (ln 3, 0) and (0, 0): softmax (3/4, 1/4) and (1/2, 1/2), so that D is (-1/4, 1/4) and (1/2, -1/2)."""
    states = torch.tensor([[math.log(3), 0.0], [0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = linear_cross_entropy(states, weight, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(2), rel=1e-14)
    # D W: the second word's row is zero.
    torch.testing.assert_close(states.grad, torch.tensor([[-0.25, 0.0], [0.5, 0.0]], dtype=torch.float64))
    expected = torch.tensor([[-math.log(3) / 4, 1.0], [math.log(3) / 4, -1.0]], dtype=torch.float64)  # Dᵀ h
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("far", [0.0, 500.0])
def test_is_the_cross_entropy_of_explicit_logits(far: float) -> None:
    """Also of logits whose exponentials overflow."""
    states, weight, targets = example()
    states = (states * (1 + far)).detach().requires_grad_()
    found, expected = (loss(states, weight, targets) for loss in (linear_cross_entropy, of_logits))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    for one, other in zip(*(torch.autograd.grad(of, (states, weight)) for of in (found, expected)), strict=True):
        close(one, other, 1e-13)


def test_derivatives_of_states_and_weight() -> None:
    states, weight, targets = example()
    assert torch.autograd.gradcheck(lambda *over: linear_cross_entropy(*over, targets), (states, weight))
    assert torch.autograd.gradgradcheck(lambda *over: linear_cross_entropy(*over, targets), (states, weight))


def test_second_derivatives_with_a_factor_that_is_differentiated_too() -> None:
    states, weight, targets = example()
    factor = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)

    def scaled(states: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        return linear_cross_entropy(states, weight, targets) * factor

    assert torch.autograd.gradcheck(scaled, (states, weight, factor))
    assert torch.autograd.gradgradcheck(scaled, (states, weight, factor))


def test_a_frozen_weight_gets_no_gradient() -> None:
    states, weight, targets = example(frozen=True)
    assert torch.autograd.gradcheck(lambda over: linear_cross_entropy(over, weight, targets), (states,))
    assert torch.autograd.gradgradcheck(lambda over: linear_cross_entropy(over, weight, targets), (states,))
    linear_cross_entropy(states, weight, targets).backward()
    assert weight.grad is None
    assert states.grad is not None


def test_states_without_a_gradient() -> None:
    """Only the head is trained."""
    states, weight, targets = example()
    assert torch.autograd.gradgradcheck(lambda over: linear_cross_entropy(states.detach(), over, targets), (weight,))


def second(states: Tensor, weight: Tensor, targets: Tensor, *, definition: bool = False) -> tuple[Tensor, ...]:
    """The gradient, then its derivative along (1, 2, ...) of the states and of the weight."""
    loss = (of_logits if definition else linear_cross_entropy)(states, weight, targets)
    first = torch.autograd.grad(loss, (states, weight), create_graph=True)
    along = [torch.arange(1, part.numel() + 1, device=part.device).reshape(part.shape).to(part) for part in first]
    return *first, *torch.autograd.grad(first, (states, weight), along)


def test_a_sure_target_keeps_the_relative_precision_of_its_gradients() -> None:
    """In float32, softmax is 1 at the target to the last bit, and D, of about -3e-13, would be 0 as their difference.

    Autograd of explicit logits loses it: even in float64, three digits are left.
    """
    states, weight, targets = sure(torch.float64)
    likely = (states @ weight.T).softmax(dim=1)[:, 1:].detach()  # of each word that is not the target
    away = likely.sum(dim=1, keepdim=True)
    expected = (
        likely @ weight[1:] - away * weight[0],
        torch.cat([-away.T, likely.T]) @ states,
        *second(states, weight, targets)[2:],
    )
    found = second(*sure(torch.float32))
    for part, precise in zip(found, expected, strict=True):
        for one, other in zip(part, precise, strict=True):  # row by row, as the rows of likely words are larger
            close(one, other, 1e-5)
    close(backward_linear_cross_entropy(*sure(torch.float32), 1.0)[1], expected[0], 1e-5)


def test_bfloat16_keeps_the_difference_and_not_the_softmax() -> None:
    """A logit 8 above: 1 - softmax is about 1e-3, and bfloat16 rounds such a softmax to 1."""
    weight = torch.tensor([[8.0, 0.0], [0.0, 1.0], [0.0, -2.0]], dtype=torch.bfloat16, requires_grad=True)
    states = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([0])
    precise = [part.detach().double().requires_grad_() for part in (states, weight)]
    found = torch.autograd.grad(linear_cross_entropy(states, weight, targets), (states, weight))
    for one, other in zip(found, torch.autograd.grad(of_logits(*precise, targets), precise), strict=True):
        assert one.dtype == torch.bfloat16
        close(one, other, 0.02)


def test_bfloat16_weights_are_close_and_give_float32() -> None:
    states, weight, targets = example(torch.bfloat16)
    precise = [part.detach().double().requires_grad_() for part in (states, weight)]
    loss = linear_cross_entropy(states, weight, targets)
    assert loss.dtype == torch.float32
    # Three digits of the logits, of which each loss is a difference.
    assert loss.item() == pytest.approx(of_logits(*precise, targets).item(), rel=0.01)
    expected = second(*precise, targets, definition=True)
    for found, part in zip(second(states, weight, targets), expected, strict=True):
        assert found.dtype == torch.bfloat16
        close(found, part, 0.03)


def test_float16_states_take_the_type_of_the_weight() -> None:
    states, weight, targets = example()
    low = states.detach().half().requires_grad_()
    loss = linear_cross_entropy(low, weight, targets)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(of_logits(low.double(), weight, targets).item(), rel=1e-13)
    loss.backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_does_not_change_the_type(dtype: torch.dtype) -> None:
    states, weight, targets = example(dtype)
    plain = [linear_cross_entropy(states, weight, targets), *second(states, weight, targets)]
    plain.append(backward_linear_cross_entropy(states, weight, targets, 0.5)[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = [linear_cross_entropy(states, weight, targets), *second(states, weight, targets)]
        within.append(backward_linear_cross_entropy(states, weight, targets, 0.5)[1])
        # A model within autocast hands over states in bfloat16.
        rounded = linear_cross_entropy(states.bfloat16(), weight, targets)
    for found, expected in zip(within, plain, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, expected)
    assert rounded.item() == pytest.approx(of_logits(states.bfloat16().to(dtype), weight, targets).item(), rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_backward_is_that_of_autograd(scale: float) -> None:
    states, weight, targets = example()
    value, seed = backward_linear_cross_entropy(states, weight, targets, scale)
    loss = of_logits(states, weight, targets)
    expected = torch.autograd.grad(loss * scale, (states, weight))
    assert value == pytest.approx(loss.item(), rel=1e-13)
    close(seed, expected[0], 1e-13)
    assert states.grad is None  # it is returned alone
    assert weight.grad is not None
    close(weight.grad, expected[1], 1e-13)


def test_backward_adds_in_place() -> None:
    states, weight, targets = example()
    (expected,) = torch.autograd.grad(of_logits(states, weight, targets), weight)
    weight.grad = torch.ones_like(weight)
    grad, place = weight.grad, weight.grad.data_ptr()
    for times in (1, 2):
        backward_linear_cross_entropy(states, weight, targets, 2.0)
        assert weight.grad is grad
        assert grad.data_ptr() == place
        torch.testing.assert_close(grad, 1 + times * 2.0 * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("left", [False, True])
def test_backward_leaves_a_frozen_weight_alone(left: bool) -> None:
    """Also one that was trained before, and still has a gradient."""
    states, weight, targets = example(frozen=True)
    weight.grad = torch.ones_like(weight) if left else None
    _, seed = backward_linear_cross_entropy(states, weight, targets, 1.0)
    assert (weight.grad is None) is not left
    assert weight.grad is None or weight.grad.eq(1).all()
    close(seed, torch.autograd.grad(of_logits(states, weight, targets), states)[0], 1e-13)


def test_inputs_stay_what_they_were() -> None:
    """Logits are turned in place into what is held; nothing else may be."""
    states, weight, targets = example()
    before = [part.detach().clone() for part in (states, weight, targets)]
    backward_linear_cross_entropy(states, weight, targets, 3.0)
    second(states, weight, targets)
    assert all(torch.equal(part, old) for part, old in zip((states, weight, targets), before, strict=True))
