"""The matrix products of a SEAM step, counted from the model's configuration, and how fast this machine multiplies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from measuring import now
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PretrainedConfig

# Products of one matrix product Y = XW: one forward; two backward, dX and dW; six in a double backward, because dX and
# dW are products themselves that are each differentiated by both their factors (four), and then Y is, by both (two).
FORWARD, BACKWARD, DOUBLE_BACKWARD = 1, 2, 6
RECOMPUTED = 0.5  # a fused attention makes one of its two forward products again in its backward
REPEATS = 5
CALLS_ON_CUDA = 20  # between two synchronizations
# PyTorch's counter does not know the fused attention of CPUs; further arguments do not matter for the count.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value)
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """What of a model decides its matrix products.

    Attributes:
        layers: number of layers.
        maps: (inputs, outputs) of the linear maps of one layer.
        head: (width, vocabulary) of the output head.
        attention: heads times their width.
    """

    layers: int
    maps: tuple[tuple[int, int], ...]
    head: tuple[int, int]
    attention: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Size:
        """Of a model of Llama's architecture."""
        width, inner = config.hidden_size, config.intermediate_size
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        maps = [(width, queries), (width, keys), (width, keys), (queries, width)]
        maps += [(width, inner), (width, inner), (inner, width)]
        return cls(config.num_hidden_layers, tuple(maps), (width, config.vocab_size), queries)


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, a multiplication and an addition counted as two.

    Attributes:
        layers: in the layers' linear maps.
        head: in the output head.
        attention: in attention scores and their products with values.
    """

    layers: float = 0.0
    head: float = 0.0
    attention: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.layers + other.layers, self.head + other.head, self.attention + other.attention)

    @property
    def total(self) -> float:
        """All of it."""
        return self.layers + self.head + self.attention


@dataclass(frozen=True, slots=True)
class Tokens:
    """One batch.

    Attributes:
        rows: tokens of each row.
        answers: tokens that the loss is taken over.
    """

    rows: tuple[int, ...]
    answers: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations a second that products of these kinds reach."""

    layers: float
    head: float

    def seconds(self, work: Work) -> float:
        """How long `work` takes at these rates; attention at that of the layers."""
        return (work.layers + work.attention) / self.layers + work.head / self.head


def published_flops(size: Size, batches: Mapping[str, Tokens], max_length: int) -> Work:
    """Six forward and backward passes over rows padded to `max_length`.

    n tokens through P weights are 2nP operations forward and twice as many backward. The head runs at all positions, in
    the layer-wise pass on every hidden state (one more than there are layers), in the five others on one. Attention is
    a row's length squared times the width, for the scores and for the values; masked scores are computed too.
    """
    once = FORWARD + BACKWARD
    padded = {name: Tokens((max_length,) * len(batch.rows), 0) for name, batch in batches.items()}
    work = Work()
    for name in ("harmful", "alignment", "harmful", "benign", "harmful", "benign"):
        work += _layers(size, padded[name], once, attention=once + RECOMPUTED)
    positions = max_length * len(batches["harmful"].rows)
    return work + _head(size, positions, once * (size.layers + 1 + 5))


def rupert_flops(size: Size, batches: Mapping[str, Tokens], *, exact: bool, unlearning_layers: int | None) -> Work:
    """What a step of `rupert.defenses.SEAM` has to multiply: tokens without padding, heads on answer tokens alone.

    Every batch goes forward and backward once. The layer-wise loss shares the harmful batch's forward pass: it adds a
    head, forward and backward, for each of its hidden states but the last, whose loss is the model's own, and one
    backward pass from the deepest of these. Then the harmful and the benign batch each take a double backward, six
    times a forward pass, or by differences one more forward and backward pass. An attention that can be differentiated
    twice computes nothing again; a fused one does, once each backward pass.

    Args:
        size: of the model.
        batches: "harmful", "alignment" and "benign".
        exact: by double backward; else by one-sided differences.
        unlearning_layers: hidden states drawn for the layer-wise loss; None for all. Which are drawn is left to chance,
            and the mean over draws is counted.
    """
    once, states = FORWARD + BACKWARD, size.layers + 1
    again = DOUBLE_BACKWARD if exact else once
    drawn = unlearning_layers or states
    deepest = min(size.layers - 1, drawn * (states + 1) / (drawn + 1) - 1)
    unlearning = BACKWARD * deepest / size.layers
    fused = 0 if exact else RECOMPUTED
    work = _head(size, batches["harmful"].answers, once * drawn * size.layers / states)
    work += _layers(size, batches["harmful"], unlearning, attention=unlearning * (1 + fused / BACKWARD))
    work += _layers(size, batches["alignment"], once, attention=once + RECOMPUTED)
    work += _head(size, batches["alignment"].answers, once)
    for name in ("harmful", "benign"):
        work += _layers(size, batches[name], once + again, attention=once + again + 2 * fused)
        work += _head(size, batches[name].answers, once + again)
    return work


def _layers(size: Size, batch: Tokens, passes: float, *, attention: float) -> Work:
    weights = size.layers * sum(map(prod, size.maps))
    squares = sum(length**2 for length in batch.rows)
    return Work(
        layers=passes * 2 * sum(batch.rows) * weights, attention=attention * 4 * squares * size.attention * size.layers
    )


def _head(size: Size, positions: int, passes: float) -> Work:
    return Work(head=passes * 2 * positions * prod(size.head))


def counted_flops(step: Callable[[], object]) -> float:
    """What PyTorch's own counter finds in a step, which is run for it."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return float(counter.get_total_flops())


def measure_rates(size: Size, tokens: int, answers: int, like: Tensor) -> Rates:
    """The rates of a forward and both backward products: of each of a layer's maps, and of the head.

    Each product is timed by itself, the best of several times; the rate is all operations over the sum of these.

    Args:
        size: of the model.
        tokens: rows of the layers' products.
        answers: rows of the head's.
        like: a tensor of the type and on the device to multiply with.
    """
    return Rates(_rate(tokens, size.maps, like), _rate(answers, [size.head], like))


def _rate(rows: int, maps: Sequence[tuple[int, int]], like: Tensor) -> float:
    seconds = sum(_seconds(rows, inputs, outputs, like) for inputs, outputs in maps)
    return (FORWARD + BACKWARD) * 2 * rows * sum(map(prod, maps)) / seconds


def _seconds(rows: int, inputs: int, outputs: int, like: Tensor) -> float:
    x, y = torch.randn(rows, inputs).to(like), torch.randn(rows, outputs).to(like)
    weight = torch.randn(outputs, inputs).to(like)
    factors = ((x, weight.t()), (y, weight), (y.t(), x))
    calls = CALLS_ON_CUDA if like.is_cuda else 1
    best = [float("inf")] * len(factors)
    for _, (index, (left, right)) in product(range(REPEATS), enumerate(factors)):
        start = now(like.device)
        for _ in range(calls):
            torch.mm(left, right)
        best[index] = min(best[index], (now(like.device) - start) / calls)
    return sum(best)
