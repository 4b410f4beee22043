"""What writes into a model's residual stream, and how one direction is taken out of all of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rupert.errors import UsageError
from rupert.models.anatomy import attention_blocks, feed_forwards

# What attention and MLP end with: Llama, Mistral, Qwen, Gemma and Phi-3; Phi and GPT-NeoX; GPT-2.
ATTENTION_OUTPUTS = ("o_proj", "dense", "c_proj")
FEED_FORWARD_OUTPUTS = ("down_proj", "fc2", "dense_4h_to_h", "c_proj")

Write = tuple[nn.Parameter, int]  # a weight or bias, and its dimension that is the stream's width


def residual_writes(model: PreTrainedModel) -> list[Write]:
    """The weights and biases whose product, sum or row is added to the residual stream, each once.

    They are those of the embeddings, of words and, where there are some, of positions, and of the last linear layer of
    each attention and each MLP. Where the output head shares the embedding's weight, that is the head's, too.

    Raises:
        UsageError: the model's parts have none of the names that are known, as in a mixture of experts; or weights are
            quantized.
    """
    embeddings = [module for module in model.get_decoder().children() if isinstance(module, nn.Embedding)]
    found: list[tuple[Tensor, int]] = [(embedding.weight, 1) for embedding in embeddings]
    for blocks, names in ((attention_blocks, ATTENTION_OUTPUTS), (feed_forwards, FEED_FORWARD_OUTPUTS)):
        for block in blocks(model):
            found += _last_linear(block, names)
    unique = {id(weight): (weight, dimension) for weight, dimension in found if isinstance(weight, nn.Parameter)}
    if not embeddings or not all(parameter.is_floating_point() for parameter, _ in unique.values()):
        raise UsageError("--model: its embeddings were not found, or weights are quantized; load it in bfloat16")
    return list(unique.values())


def _last_linear(block: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[Tensor, int]]:
    modules = (getattr(block, name, None) for name in names)
    last = next((module for module in modules if isinstance(module, nn.Linear | Conv1D)), None)
    if last is None:
        raise UsageError(f"--model: {type(block).__name__} has no linear layer named {', '.join(names)}")
    yield last.weight, 1 if isinstance(last, Conv1D) else 0  # GPT-2's layers hold their matrix transposed
    if last.bias is not None:
        yield last.bias, 0


def take_out(model: PreTrainedModel, direction: Tensor) -> None:
    """W <- W - r rᵀ W for all that writes into the residual stream, in place; at least in float32.

    Args:
        model: whose weights change.
        direction: r, [width], of norm 1.
    """
    with torch.no_grad():
        for parameter, dimension in residual_writes(model):
            parameter.copy_(without(parameter, direction, dimension))


def without(weight: Tensor, direction: Tensor, dimension: int) -> Tensor:
    """A tensor without its component along a direction of norm 1, which lies in one of its dimensions."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    r = direction.to(device=weight.device, dtype=precise)
    rows = weight.to(precise).movedim(dimension, -1)
    return (rows - (rows @ r)[..., None] * r).movedim(-1, dimension)
