"""The maximum mean discrepancy against a double loop, and noise that does not depend on how rows are cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rupert.training.discrepancy import RowNoise, maximum_mean_discrepancy


def by_hand(one: Tensor, other: Tensor, kernels: int, factor: float, width: float | None = None) -> Tensor:
    """From the definition, one pair of points at a time; `width` is a number, which autograd does not see."""
    points = [*one, *other]
    if width is None:
        squares = [
            float(((u - v).detach() ** 2).sum()) for i, u in enumerate(points) for j, v in enumerate(points) if i != j
        ]
        width = sum(squares) / len(squares)

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        square = ((u - v) ** 2).sum()
        widths = [width * factor ** (m - kernels // 2) for m in range(kernels)]
        return torch.stack([torch.exp(-square / w) for w in widths]).sum()

    total = torch.zeros((), dtype=one.dtype)
    for x, y in zip(one, other, strict=True):
        for u, v in zip(one, other, strict=True):
            total = total + kernel(x, u) + kernel(y, v) - kernel(x, v) - kernel(y, u)
    return total / len(one) ** 2


def samples(rows: int = 4, width: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return 0.3 * one + 1, other


@pytest.mark.parametrize(("kernels", "factor"), [(5, 2.0), (1, 2.0), (4, 3.0)])
@pytest.mark.parametrize("rows", [1, 4])
def test_is_the_definition_with_its_gradient(rows: int, kernels: int, factor: float) -> None:
    one, other = samples(rows)
    one.requires_grad_()
    found = maximum_mean_discrepancy(one, other, kernels=kernels, factor=factor)
    expected = by_hand(one, other, kernels, factor)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, one)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_two_points_by_hand() -> None:
    """One point each, 3 apart: w = 9, widths 9/4, 9/2, 9, 18, 36, so that k(x, y) sums exp(-4, -2, -1, -1/2, -1/4)."""
    kernel = sum(math.exp(-power) for power in (4, 2, 1, 0.5, 0.25))
    found = maximum_mean_discrepancy(torch.tensor([[0.0]]), torch.tensor([[3.0]]), kernels=5, factor=2.0)
    assert found.item() == pytest.approx(10 - 2 * kernel, rel=1e-6)


def test_zeros_behind_change_nothing() -> None:
    one, other = samples()
    padded = [torch.nn.functional.pad(points, (0, 5)) for points in (one, other)]
    expected = maximum_mean_discrepancy(one, other, kernels=5, factor=2.0)
    torch.testing.assert_close(maximum_mean_discrepancy(*padded, kernels=5, factor=2.0), expected)


def test_points_that_are_all_the_same_are_not_apart() -> None:
    one = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    found = maximum_mean_discrepancy(one, torch.ones(3, 2, dtype=torch.float64), kernels=5, factor=2.0)
    (gradient,) = torch.autograd.grad(found, one)
    assert found.item() == 0
    assert gradient.abs().max() < 1e-12


def test_is_precise_within_autocast() -> None:
    one, other = (points.float() for points in samples(width=300))
    expected = maximum_mean_discrepancy(one, other, kernels=5, factor=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(maximum_mean_discrepancy(one, other, kernels=5, factor=2.0), expected)


def draws(rows: list[int]) -> list[Tensor]:
    torch.manual_seed(5)
    noise = RowNoise(torch.tensor(rows), torch.device("cpu"))
    return [noise.draw(width) for width in (3, 3, 40)]


def test_noise_of_a_row_depends_on_its_number_alone() -> None:
    whole, turned, alone = draws([0, 0, 1, 2, 2, 2]), draws([2, 2, 2, 0, 0, 1]), draws([1])
    for one, other, single in zip(whole, turned, alone, strict=True):
        assert torch.equal(one, other.roll(3, dims=0))
        assert torch.equal(one[2:3], single)
    assert not torch.equal(*whole[:2])
    assert len(whole[2].unique()) == whole[2].numel()


def test_noise_is_normal_and_of_the_global_generator() -> None:
    torch.manual_seed(1)
    first, second = (RowNoise(torch.arange(50), torch.device("cpu")).draw(400) for _ in range(2))
    torch.manual_seed(1)
    again = RowNoise(torch.arange(50), torch.device("cpu")).draw(400)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0, abs=0.03)
    assert first.std().item() == pytest.approx(1, abs=0.03)
