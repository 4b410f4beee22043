"""Attention inside `twice_differentiable` has a second derivative, and is afterwards what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rupert.models.attention import twice_differentiable
from rupert.models.loading import LoadedModel

Tiny = Callable[..., LoadedModel]

OTHER = "fused-by-somebody"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Another implementation than PyTorch's and eager, which lists its calls."""
    called: list[str] = []

    def attend(*inputs: Any, **named: Any) -> Any:
        called.append(OTHER)
        return sdpa_attention_forward(*inputs, **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, OTHER, attend)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, OTHER, sdpa_mask)
    return called


def second_derivative(model: PreTrainedModel) -> Tensor:
    """The gradient of half the squared length of the loss's gradient."""
    tokens = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 0, 0]])
    mask = (tokens > 0).long()
    loss = model(tokens, attention_mask=mask).logits.logsumexp(dim=-1)[mask.bool()].sum()
    first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    half_square = torch.stack([part.pow(2).sum() for part in first]).sum() / 2
    return torch.cat([part.flatten() for part in torch.autograd.grad(half_square, list(model.parameters()))])


def attending(model: PreTrainedModel, implementation: str) -> PreTrainedModel:
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager", OTHER])
def test_has_a_second_derivative(tiny: Tiny, calls: list[str], implementation: str) -> None:
    expected = second_derivative(attending(tiny().model, "eager"))
    model = attending(tiny().model, implementation)
    with twice_differentiable(model):
        found = second_derivative(model)
    # Eager attention takes the softmax of a model in float64 in float32.
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert calls == []


def test_pytorchs_fused_attention_has_none(tiny: Tiny) -> None:
    """What the context is for; once this fails, there is no need of it on the CPU."""
    with pytest.raises(RuntimeError, match=r"derivative for aten::_scaled_dot_product.* is not implemented"):
        second_derivative(attending(tiny().model, "sdpa"))


@pytest.mark.parametrize(("implementation", "inside"), [("sdpa", "sdpa"), ("eager", "eager"), (OTHER, "eager")])
@pytest.mark.parametrize("breaks", [False, True])
def test_what_it_was_it_is_again(tiny: Tiny, calls: list[str], implementation: str, inside: str, breaks: bool) -> None:
    model = attending(tiny().model, implementation)
    try:
        with twice_differentiable(model):
            assert model.config._attn_implementation == inside
            flash = torch.backends.cuda.flash_sdp_enabled()
            if breaks:
                raise RuntimeError("broken")
    except RuntimeError:
        assert breaks
    assert flash is (implementation != "sdpa")
    assert torch.backends.cuda.flash_sdp_enabled()
    assert model.config._attn_implementation == implementation
    model(torch.tensor([[7, 8]]))
    assert len(calls) == (2 if implementation == OTHER else 0)  # layers
