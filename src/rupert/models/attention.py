"""Attention whose backward pass can itself be differentiated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from rupert.models.packing import PACKED


def is_twice_differentiable(implementation: str) -> bool:
    """Whether an attention of Transformers has a second derivative as it is, or with another backend."""
    return implementation in ("eager", "sdpa", PACKED)


@contextlib.contextmanager
def twice_differentiable(model: PreTrainedModel) -> Iterator[None]:
    """Within, attention has a second derivative: eager stays, PyTorch's takes its math backend, any other is eager.

    `packing`, which takes PyTorch's attention too, is to be entered first.

    The fused kernels (flash attention on CPU and GPU, memory-efficient and cuDNN attention) have none.
    """
    implementation = model.config._attn_implementation
    if not is_twice_differentiable(implementation):
        model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.set_attn_implementation(implementation)
    elif implementation == "eager":
        yield
    else:
        with sdpa_kernel(SDPBackend.MATH):
            yield
