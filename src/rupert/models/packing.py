"""Batches without padding: all rows in one, which attention alone takes apart again.

Everything that a transformer does but attention, it does for each token by itself. So the tokens of all rows are laid
end to end, and only attention's queries, keys and values are spread over rows as long as the longest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

PACKED = "rupert_packed"
REPLACED = ("eager", "sdpa")  # what computes the same; an attention that the user chose stays
# Whose attention is causal, over the whole row, and no more than that; others are given padded rows.
PACKABLE = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the tokens of rows are, end to end and side by side.

    Attributes:
        spread: [rows * longest], for each place side by side the token end to end; for padding, any.
        real: [tokens], for each token end to end its place side by side.
        positions: [tokens], each token's position in its row.
        shape: rows, and the length of the longest.
    """

    spread: Tensor
    real: Tensor
    positions: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, attention_mask: Tensor) -> Rows:
        """The rows of a batch that is padded on the right; the mask is [rows, longest]."""
        is_real = attention_mask.flatten().bool()
        rows, longest = attention_mask.shape
        places = torch.arange(longest, device=attention_mask.device).repeat(rows)
        spread = is_real.cumsum(0).sub_(1).clamp_(min=0)
        return cls(spread, is_real.nonzero().squeeze(1), places[is_real], (rows, longest))

    def apart(self, tokens: Tensor) -> Tensor:
        """From [1, heads, tokens, width] to [rows, heads, longest, width]; what stands in padding is to be left out."""
        spread = tokens[0].transpose(0, 1).index_select(0, self.spread)
        rows: Tensor = spread.unflatten(0, self.shape)
        return rows.transpose(1, 2)

    def together(self, rows: Tensor) -> Tensor:
        """From [rows, heads, longest, width] to [1, tokens, heads, width]."""
        return rows.transpose(1, 2).flatten(0, 1).index_select(0, self.real)[None]


@contextlib.contextmanager
def packing(model: PreTrainedModel) -> Iterator[None]:
    """Within, a model that can takes batches without padding; see `packed`. Backward passes belong within, too."""
    implementation = model.config._attn_implementation
    if implementation not in REPLACED or not _is_packable(model):
        yield
        return
    model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def is_packing(model: PreTrainedModel) -> bool:
    """Whether a model is within `packing`, and can."""
    return bool(model.config._attn_implementation == PACKED)


def packed(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    """What a model within `packing` takes for a batch of [rows, longest]: input_ids and position_ids of [1, tokens]."""
    rows = Rows.of(attention_mask)
    ids = input_ids.flatten().index_select(0, rows.real)
    return {"input_ids": ids[None], "position_ids": rows.positions[None], "rows": rows}


def _is_packable(model: PreTrainedModel) -> bool:
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return config.model_type in PACKABLE and layers == {"full_attention"} and getattr(config, "is_causal", True)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: Rows,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row: padding, which comes last, is seen by padding alone."""
    del module, attention_mask, kwargs
    query, key, value = map(rows.apart, (query, key, value))
    found = scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
    )
    return rows.together(found), None


AttentionInterface.register(PACKED, _attend)
