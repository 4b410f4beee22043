"""How far a sample is from Gaussian noise: the maximum mean discrepancy of two samples, and noise for tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rupert.training import processes


def maximum_mean_discrepancy(one: Tensor, other: Tensor, *, kernels: int, factor: float) -> Tensor:
    """The mean over i and j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j).

    k(u, v) is the sum over m below `kernels` of exp(-|u - v|² / w_m), with w_m = w factor^(m - kernels // 2), and w the
    mean of |u - v|² over all pairs of different points of both samples. w is a number to the gradient. So it is in the
    published code of RepNoise (Rosati et al., NeurIPS 2024, arXiv 2405.14577).

    Args:
        one: the points x, [points, features], at least in float32.
        other: the points y, of the same shape and type.
        kernels: how many widths.
        factor: of each width to the one before.

    Returns:
        a scalar; 0 where all points are the same.
    """
    # In half precision, the products of distances would be all noise.
    with torch.autocast(one.device.type, enabled=False):
        points = torch.cat([one, other])
        products = points @ points.T
        squares = products.diagonal()
        distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
    count = len(points)
    mean = distances.detach().sum() / (count * (count - 1))
    width = mean.where(mean > 0, 1.0)  # any will do where there is no distance
    powers = [factor ** (number - kernels // 2) for number in range(kernels)]
    kernel = torch.stack([(-distances / (width * power)).exp() for power in powers]).sum(dim=0)
    half = len(one)
    return (kernel[:half, :half] + kernel[half:, half:] - kernel[:half, half:] - kernel[half:, :half]).mean()


class RowNoise:
    """Gaussian noise for the tokens of rows, which depends on each row's number alone, and not on how they are cut.

    Its seed is of the global generator, which checkpoints keep, and that of the first process counts for all.

    Args:
        rows: the number of each token's row, [tokens]; the tokens of a row stand together.
        device: where noise is drawn.
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        seed = processes.common_seed()
        self._device = device
        numbers, counts = rows.unique_consecutive(return_counts=True)
        self._counts: list[int] = counts.tolist()
        self._generators = [torch.Generator(device).manual_seed(seed + number) for number in numbers.tolist()]

    def draw(self, width: int) -> Tensor:
        """The next noise, [tokens, width], in float32."""
        noise = torch.empty(sum(self._counts), width, dtype=torch.float32, device=self._device)
        for row, generator in zip(noise.split(self._counts), self._generators, strict=True):
            row.normal_(generator=generator)
        return noise
