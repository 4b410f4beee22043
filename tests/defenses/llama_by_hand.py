"""A Llama written out in float64, one row at a time, with something added to what each attention gives out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rupert.data.batches import Encoded

Added = Sequence[Sequence[Tensor]]  # for each row and layer, [length, width]


def zeros(model: PreTrainedModel, rows: Sequence[Encoded]) -> list[list[Tensor]]:
    """Nothing to add, ready to be differentiated by."""
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    return [
        [torch.zeros(len(row.input_ids), width, dtype=torch.float64, requires_grad=True) for _ in range(layers)]
        for row in rows
    ]


def row_losses(model: PreTrainedModel, rows: Sequence[Encoded], added: Added) -> list[Tensor]:
    """Cross entropy summed over each row's answer tokens."""
    losses = []
    for row, perturbations in zip(rows, added, strict=True):
        predictions = _logits(model, torch.tensor(row.input_ids), perturbations).log_softmax(dim=-1)
        picked = [-predictions[place, token] for place, token in enumerate(row.labels[1:]) if token != -100]
        losses.append(torch.stack(picked).sum())
    return losses


def answer_count(row: Encoded) -> int:
    """How many tokens of a row count."""
    return sum(label != -100 for label in row.labels[1:])


def mean_loss(model: PreTrainedModel, rows: Sequence[Encoded], added: Added) -> Tensor:
    """The mean over all answer tokens of all rows."""
    return torch.stack(row_losses(model, rows, added)).sum() / sum(map(answer_count, rows))


def _logits(model: PreTrainedModel, ids: Tensor, added: Sequence[Tensor]) -> Tensor:
    decoder, epsilon = model.model, model.config.rms_norm_eps
    hidden = decoder.embed_tokens.weight[ids]
    tables = decoder.rotary_emb(hidden[None], torch.arange(len(ids))[None])
    for layer, perturbation in zip(decoder.layers, added, strict=True):
        normed = _norm(layer.input_layernorm.weight, hidden, epsilon)
        hidden = hidden + _attention(layer.self_attn, normed, tables, model) + perturbation
        normed = _norm(layer.post_attention_layernorm.weight, hidden, epsilon)
        gate, up = normed @ _weight(layer.mlp.gate_proj).T, normed @ _weight(layer.mlp.up_proj).T
        hidden = hidden + (gate * gate.sigmoid() * up) @ _weight(layer.mlp.down_proj).T
    return _norm(decoder.norm.weight, hidden, epsilon) @ model.lm_head.weight.T


def _attention(attention: nn.Module, hidden: Tensor, tables: tuple[Tensor, Tensor], model: PreTrainedModel) -> Tensor:
    count, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    length, size = len(hidden), model.config.hidden_size // count
    cos, sin = tables[0][0], tables[1][0]
    mixed = []
    projected = {name: hidden @ _weight(getattr(attention, f"{name}_proj")).T for name in "qkv"}
    for head in range(count):
        group = head * groups // count
        query = _turned(projected["q"][:, head * size : (head + 1) * size], cos, sin)
        key = _turned(projected["k"][:, group * size : (group + 1) * size], cos, sin)
        scores = query @ key.T / size**0.5
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        mixed.append(weights @ projected["v"][:, group * size : (group + 1) * size])
    return torch.cat(mixed, dim=1) @ _weight(attention.o_proj).T


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _norm(weight: Tensor, states: Tensor, epsilon: float) -> Tensor:
    return weight * states / (states.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def _weight(linear: nn.Module) -> Tensor:
    """A linear layer's matrix, with its adapter's where it has one."""
    if not hasattr(linear, "base_layer"):
        return linear.weight
    a, b = linear.lora_A["default"].weight, linear.lora_B["default"].weight
    return linear.base_layer.weight + linear.scaling["default"] * b @ a
