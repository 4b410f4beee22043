"""Gradients at modules' outputs and perturbations of them: in several families, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rupert.errors import UsageError
from rupert.models.anatomy import attention_blocks, layers
from rupert.training.activations import frozen, output_gradients, perturbed, recorded
from rupert.training.losses import answer_cross_entropy

SMALL: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Attention that gives out a tuple with its weights, and one that stands beside the MLP and not before it.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {},
    "phi": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 4},
}
# Two rows; the second one is shorter.
BATCH = {
    "input_ids": torch.tensor([[5, 9, 14, 3, 40, 7], [8, 4, 11, 6, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    "labels": torch.tensor([[-100, -100, -100, 3, 40, 7], [-100, -100, 11, 6, -100, -100]]),
}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **SMALL, **FAMILIES[request.param])
    made = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("find", [attention_blocks, layers])
def test_the_gradient_is_how_the_loss_follows_a_perturbation(model: PreTrainedModel, find: Any) -> None:
    modules = find(model)
    loss, gradients = output_gradients(model, BATCH, modules, 0.5)
    assert loss == pytest.approx(0.5 * answer_cross_entropy(model, BATCH).item(), rel=1e-12)
    generator = torch.Generator().manual_seed(1)
    for module in modules:
        direction = torch.randn(gradients[module].shape, generator=generator, dtype=torch.float64)
        moved = []
        for distance in (1e-4, -1e-4):
            with perturbed({module: distance * direction}), torch.no_grad():
                moved.append(0.5 * float(answer_cross_entropy(model, BATCH)))
        # Transformers norms a model in float64 in float32, which differences show.
        expected = float((gradients[module] * direction).sum())
        assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(expected, rel=0.02, abs=2e-3)
        assert gradients[module].norm() > 1e-3
        assert not gradients[module][1, 4:].any()


def test_nothing_stays(model: PreTrainedModel) -> None:
    before = hooks(model)
    output_gradients(model, BATCH, layers(model), 1.0)
    assert hooks(model) == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


class Broken(RuntimeError):
    """What is raised within."""


def test_nothing_stays_after_an_error(model: PreTrainedModel) -> None:
    blocks = attention_blocks(model)
    zeros = {block: torch.zeros(2, 6, 16) for block in blocks}
    first, *others = model.parameters()
    first.requires_grad_(False)
    before = hooks(model)
    with pytest.raises(Broken), recorded(blocks), perturbed(zeros), frozen(model.parameters()):
        raise Broken
    assert hooks(model) == before
    assert not first.requires_grad
    assert all(parameter.requires_grad for parameter in others)


def saved(model: PreTrainedModel) -> int:
    """Numbers that a forward pass keeps for its backward pass, beside the weights."""
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = answer_cross_entropy(model, BATCH)
        numbers = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return numbers


def test_a_pass_for_the_outputs_alone_keeps_less(model: PreTrainedModel) -> None:
    whole = saved(model)
    with frozen(model.parameters()), recorded(attention_blocks(model)):
        assert 0 < saved(model) < 0.9 * whole


def test_sharded_weights_are_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rupert.training.activations.DTensor", torch.nn.Parameter)  # as if every weight were sharded
    with pytest.raises(UsageError, match="which FSDP2 does not heed"), frozen([torch.nn.Parameter()]):
        pass
