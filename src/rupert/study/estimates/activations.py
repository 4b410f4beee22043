"""What a pass through a model holds for its backward passes, in bytes, counted tensor by tensor.

Of one layer and one token, h the width of hidden states, i the MLP's inner one, a the queries' and k the keys', in
elements of the weights' type unless said:

- RMS norms, two a layer, as Transformers computes them: their input made float32, that scaled, and what comes out,
  which the linear maps read: 6 h in float32.
- Attention: queries, keys, values and what comes out, which the output map reads: 2 a + 2 k. With padding a mask is
  needed, keys and values are repeated for every query head (4 a), and the mask is a number for every token of the row.
  Without padding (`packing`) rows are gathered apart and together again: 3 a + 2 k.
- Gated MLP: the gate, what its activation makes of it, the other half, and their product: 4 i.

Differentiated once more, a linear map also holds the gradient of its result, and so does everything else; attention
holds three matrices of all tokens by all tokens of a row for each head, in float32: 12 i + 16 h + 8 a + 4 k.
`tests/study/estimates/test_activations.py` counts both on small models, with autograd's hooks for saved tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from rupert.models.shape import ModelShape

SINGLE, HALF = 4, 2  # bytes of a number in float32, and in bfloat16 or float16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Rows that go through a model together.

    Attributes:
        rows: how many.
        length: tokens of each.
        weights: bytes of one weight.
        autocast: whether float32 weights are computed with in bfloat16.
        adapter: whether an adapter is trained instead of the weights.
        packed: whether padding is left out.
        checkpointing: whether layers are computed again in the backward pass.
    """

    rows: int
    length: int
    weights: int
    autocast: bool = False
    adapter: bool = False
    packed: bool = False
    checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """All of them, padding included."""
        return self.rows * self.length

    @property
    def computed(self) -> int:
        """Bytes of one number that a matrix product gives."""
        return HALF if self.autocast else self.weights


def first_order(shape: ModelShape, one: Pass) -> int:
    """Bytes that are held from the forward to the backward pass, without the output head's."""
    layer = one.tokens * (_norms(shape, one) + _attention(shape, one) + _mlp(shape, one))
    last = one.tokens * shape.width * (SINGLE + 2 * one.weights)  # the final norm
    if not one.checkpointing:
        return shape.layers * layer + last
    kept = one.tokens * shape.width * (SINGLE if one.autocast else one.weights)
    return shape.layers * kept + layer + last


def second_order(shape: ModelShape, one: Pass) -> int:
    """Bytes of the graph of a gradient that is to be differentiated once more, without the output head's.

    A gradient whose layers are computed again in the backward pass still holds all of this.
    """
    c = one.computed
    # Half-precision weights and autocast make norms, and the attention of PyTorch's math backend, partly float32.
    norms = {SINGLE: 16 * SINGLE, HALF: 48}[one.weights] if not one.autocast else 62
    attention = {SINGLE: 8 * SINGLE, HALF: 24}[one.weights] if not one.autocast else 37
    mlp = (12 if shape.gated else 10) * c
    of_token = norms * shape.width + attention * shape.queries + 4 * c * shape.keys + mlp * shape.inner
    return shape.layers * one.tokens * (of_token + 3 * SINGLE * shape.heads * one.length)


def _norms(shape: ModelShape, one: Pass) -> int:
    if not shape.gated:  # one layer norm for both halves of Phi's layer: its input and what comes out
        return shape.width * (4 * SINGLE if one.autocast else 2 * one.weights)
    scaled = 0 if one.adapter else one.weights  # a norm whose weight is not trained does not need what it scales
    if one.autocast:
        return shape.width * (2 * (SINGLE + scaled) + 5 * HALF)  # each of five maps has its input in half precision
    # An adapter is float32: what half-precision layers give to it is made so for each of five maps, and that is held.
    given = 5 * SINGLE if one.adapter and one.weights == HALF else 2 * one.weights
    return shape.width * (2 * (SINGLE + scaled) + given)


def _attention(shape: ModelShape, one: Pass) -> int:
    c = one.computed
    copies = SINGLE * shape.queries if one.adapter and one.weights == HALF else 0
    if not shape.gated:  # rotated queries and keys are put together from two parts
        return 5 * c * shape.queries + c * one.length
    if one.packed and shape.packable:
        return 3 * c * shape.queries + 2 * c * shape.keys + copies
    return 4 * c * shape.queries + c * one.length + copies


def _mlp(shape: ModelShape, one: Pass) -> int:
    held = (4 if shape.gated else 5) * one.computed
    if one.adapter and one.weights == HALF:
        held += SINGLE - HALF  # the product, made float32
    return held * shape.inner
