"""Final norm and output head of several families give the logits that the model itself gives; layers are all found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rupert.errors import UsageError
from rupert.models.anatomy import anatomy, attention_blocks, layers
from rupert.models.loading import LoadedModel

Tiny = Callable[..., LoadedModel]

SMALL: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": GROUPED,
    "qwen3": GROUPED,
    "gpt2": SMALL,
    "gpt_neox": SMALL,
    "phi": SMALL,
    "phi3": GROUPED,
    "opt": SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gemma2": GROUPED | {"final_logit_softcapping": 0.5},
    "cohere": GROUPED | {"logit_scale": 0.3},
    "granite": GROUPED | {"logits_scaling": 4.0},
}
TOKENS = torch.tensor([[5, 9, 14, 3, 40, 7]])


def made(family: str, settings: Mapping[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).double().eval()
    with torch.no_grad():  # a new norm's weights are all 1 and 0, which would hide what is left out
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own(family: str) -> None:
    model = made(family, FAMILIES[family])
    parts, entered = anatomy(model), list[Tensor]()
    parts.norm.register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))
    output = model(TOKENS, output_hidden_states=True, use_cache=False)
    assert len(entered) == 1
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(parts.logits(output.hidden_states[-1]), output.logits, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.logits(parts.norm(entered[0])), output.logits, rtol=1e-12, atol=0)
    assert not torch.allclose(parts.logits(entered[0]), output.logits, rtol=0.01)


@pytest.mark.parametrize(
    ("family", "scale", "cap"),
    [("llama", 1.0, None), ("gemma2", 1.0, 0.5), ("cohere", 0.3, None), ("granite", 0.25, None)],
)
def test_scale_and_cap_are_the_configurations(family: str, scale: float, cap: float | None) -> None:
    parts = anatomy(made(family, FAMILIES[family]))
    assert (parts.scale, parts.cap) == (scale, cap)


def test_parts_of_a_model_with_an_adapter_are_its_own(tiny: Tiny) -> None:
    model = tiny().model
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    parts = anatomy(wrapped.get_base_model())
    assert parts.norm is model.model.norm
    assert parts.head is model.lm_head


def test_an_unknown_norm_is_one_line() -> None:
    model = made("llama", GROUPED)
    model.model.last_norm = model.model.norm
    del model.model.norm
    with pytest.raises(UsageError) as caught:
        anatomy(model)
    assert str(caught.value) == "--model: no final norm found in LlamaModel; its name must be in FINAL_NORMS"


def test_a_family_whose_norm_is_called_otherwise_is_refused() -> None:
    model = made("mpt", {"vocab_size": 50, "d_model": 16, "n_heads": 4, "n_layers": 2})
    with pytest.raises(UsageError, match=re.escape("no final norm found in MptModel")):
        anatomy(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_their_attention_take_part_in_this_order(family: str) -> None:
    model, order = made(family, FAMILIES[family]), list[nn.Module]()
    parts = [part for pair in zip(attention_blocks(model), layers(model), strict=True) for part in pair]
    for part in parts:
        part.register_forward_hook(lambda module, inputs, output: order.append(module))
    model(TOKENS, use_cache=False)
    assert len(parts) == 2 * model.config.num_hidden_layers
    assert [id(module) for module in order] == [id(part) for part in parts]
    projections = [name for part in attention_blocks(model) for name, _ in part.named_modules() if "." not in name]
    assert {"q_proj", "qkv_proj", "query_key_value", "c_attn"} & set(projections)


def test_layers_of_a_model_with_an_adapter_are_its_own(tiny: Tiny) -> None:
    model = tiny().model
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert layers(wrapped.get_base_model()) == list(model.model.layers)


def test_a_family_whose_layers_are_called_otherwise_is_one_line() -> None:
    model = made("mpt", {"vocab_size": 50, "d_model": 16, "n_heads": 4, "n_layers": 2})
    with pytest.raises(UsageError) as caught:
        layers(model)
    assert str(caught.value) == "--model: no layers found in MptModel; their name must be in LAYERS"


def test_a_layer_without_attention_is_one_line() -> None:
    model = made("llama", GROUPED)
    del model.model.layers[1].self_attn
    with pytest.raises(UsageError) as caught:
        attention_blocks(model)
    assert str(caught.value) == "--model: no attention found in LlamaDecoderLayer; its name must be in ATTENTIONS"
