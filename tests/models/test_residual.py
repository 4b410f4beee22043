"""What writes into the residual stream: by hand, and on every kind of model that is known."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from rupert.errors import UsageError
from rupert.models.residual import residual_writes, take_out, without

SIZES = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, biased": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SIZES),
    "phi": PhiConfig(**SIZES),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "gpt2": GPT2Config(vocab_size=11, n_embd=8, n_layer=3, n_head=2, n_positions=16),
}
R = torch.nn.functional.normalize(torch.arange(1.0, 9.0, dtype=torch.float64), dim=0)


def made(config: PreTrainedConfig) -> PreTrainedModel:
    """Random weights, biases too: those of a fresh model are zero."""
    model = AutoModelForCausalLM.from_config(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def along(model: PreTrainedModel) -> float:
    """The largest component along R of what any layer is given, and of what the last one adds."""
    tokens = torch.tensor([[3, 4, 5, 6]])
    last = model.get_decoder()
    layer = (last.layers if hasattr(last, "layers") else last.h)[-1]
    given: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: object) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    with torch.no_grad(), layer.register_forward_hook(keep):
        hidden = model(tokens, output_hidden_states=True).hidden_states
    return max(float((states @ R).abs().max()) for states in [*hidden[:-1], *given])


def test_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    r = torch.tensor([0.6, 0.8], dtype=torch.float64)
    # rᵀ W = [3, 4.4] and W r = [2.2, 5].
    assert without(weight, r, 0).flatten().tolist() == pytest.approx([1 - 1.8, 2 - 2.64, 3 - 2.4, 4 - 3.52])
    assert without(weight, r, 1).flatten().tolist() == pytest.approx([1 - 1.32, 2 - 1.76, 3 - 3, 4 - 4])
    assert without(torch.tensor([5.0, 10.0]), r, 0).tolist() == pytest.approx([5 - 6.6, 10 - 8.8])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_along_the_direction(kind: str) -> None:
    model = made(KINDS[kind])
    assert along(model) > 0.1
    take_out(model, R)
    assert along(model) < 1e-10


def test_only_writes_change_and_ties_stay() -> None:
    model = made(KINDS["llama, tied"])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    take_out(model, R)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {
        "model.embed_tokens.weight",
        *(
            f"model.layers.{layer}.{part}.weight"
            for layer in range(3)
            for part in ("self_attn.o_proj", "mlp.down_proj")
        ),
    }
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(residual_writes(model)) == 7


def test_an_untied_head_stays() -> None:
    model = made(KINDS["llama"])
    before = model.lm_head.weight.detach().clone()
    take_out(model, R)
    assert torch.equal(model.lm_head.weight, before)


def test_half_precision_is_rounded_once() -> None:
    weight = torch.randn(64, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = without(weight, R, 1)
    assert found.dtype == torch.float32
    exact = weight.double() - (weight.double() @ R)[:, None] * R
    assert torch.allclose(found.double(), exact, atol=1e-6)


def test_experts_are_refused_in_one_line() -> None:
    model = AutoModelForCausalLM.from_config(MixtralConfig(**SIZES, num_local_experts=2))
    with pytest.raises(
        UsageError, match=r"^--model: MixtralSparseMoeBlock has no linear layer named down_proj, fc2, .*$"
    ):
        residual_writes(model)


def test_a_quantized_model_is_refused_in_one_line() -> None:
    model = made(KINDS["llama"])
    layer = model.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(torch.zeros(8, 12, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UsageError, match=r"^--model: its embeddings were not found, or weights are quantized; .*$"):
        residual_writes(model)
