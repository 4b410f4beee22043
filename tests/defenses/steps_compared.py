"""What a step has left, held against what it should have; and a model with an adapter to take it on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel


def left(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient that a step has left, by parameter."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-10) -> None:
    """Two gradients are the same, up to a share of their norm."""
    assert found.keys() == expected.keys()
    error = sum(float((found[name] - part).pow(2).sum()) for name, part in expected.items()) ** 0.5
    assert error <= tolerance * sum(float(part.pow(2).sum()) for part in expected.values()) ** 0.5


def with_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """An adapter whose second matrix is not zero, which would hide the first."""
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model
