"""What autograd really saves on small models, against the count of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig, PreTrainedModel, Qwen2Config

from rupert.models.attention import twice_differentiable
from rupert.models.packing import packing
from rupert.models.shape import ModelShape, _measured
from rupert.study.estimates.activations import HALF, SINGLE, Pass, first_order, second_order
from rupert.training.losses import answer_states

ROWS, LENGTH = 3, 48
SIZES = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 160, "num_attention_heads": 6}
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=8)
QWEN = Qwen2Config(**SIZES, num_key_value_heads=6)
PHI = PhiConfig(**SIZES, num_key_value_heads=6, resid_pdrop=0.0)
WEIGHTS = {torch.float32: SINGLE, torch.bfloat16: HALF}


def built(config: Any, layers: int, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config.num_hidden_layers = layers
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def batch(*, padded: bool) -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -1] = int(not padded)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


def saved(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of all storages that autograd saves and that are not the model's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def of_a_layer(measure: Callable[[int], int]) -> int:
    """What one layer more makes of a difference."""
    return measure(2) - measure(1)


def counted(config: Any, count: Callable[[ModelShape, Pass], int], one: Pass) -> int:
    shapes = [_measured(built(config, layers, torch.float32)) for layers in (1, 2)]
    return count(shapes[1], one) - count(shapes[0], one)


@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("config", [LLAMA, QWEN, PHI], ids=lambda config: str(config.model_type))
def test_a_padded_pass_holds_what_is_counted(config: Any, dtype: torch.dtype) -> None:
    def measure(layers: int) -> int:
        model = built(config, layers, dtype)
        rows = batch(padded=True)
        return saved(model, lambda: model.model(rows["input_ids"], rows["attention_mask"], use_cache=False))

    one = Pass(rows=ROWS, length=LENGTH, weights=WEIGHTS[dtype])
    assert of_a_layer(measure) == pytest.approx(counted(config, first_order, one), rel=0.06)


def test_autocast_holds_what_is_counted() -> None:
    def measure(layers: int) -> int:
        model = built(LLAMA, layers, torch.float32)
        rows = batch(padded=True)
        with torch.autocast("cpu", torch.bfloat16):
            return saved(model, lambda: model.model(rows["input_ids"], rows["attention_mask"], use_cache=False))

    one = Pass(rows=ROWS, length=LENGTH, weights=SINGLE, autocast=True)
    # Half-precision copies of a layer's weights are saved too; a plan counts them among the weights.
    copies = HALF * _measured(built(LLAMA, 1, torch.float32)).matrices
    assert of_a_layer(measure) - copies == pytest.approx(counted(LLAMA, first_order, one), rel=0.06)


@pytest.mark.parametrize("dtype", WEIGHTS)
def test_an_adapter_holds_what_is_counted(dtype: torch.dtype) -> None:
    def measure(layers: int) -> int:
        model = get_peft_model(built(LLAMA, layers + 1, dtype), LoraConfig(r=1, target_modules="all-linear"))
        rows = batch(padded=True)
        return saved(
            model, lambda: model.base_model.model.model(rows["input_ids"], rows["attention_mask"], use_cache=False)
        )

    one = Pass(rows=ROWS, length=LENGTH, weights=WEIGHTS[dtype], adapter=True)
    assert of_a_layer(measure) == pytest.approx(counted(LLAMA, first_order, one), rel=0.1)


@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=lambda config: str(config.model_type))
@pytest.mark.parametrize("twice", [False, True])
def test_a_packed_pass_holds_what_is_counted(config: Any, dtype: torch.dtype, twice: bool) -> None:
    def measure(layers: int) -> int:
        model = built(config, layers, dtype)

        def run() -> None:
            with packing(model), twice_differentiable(model) if twice else nullcontext():
                states = answer_states(model, batch(padded=False)).hidden[-1]
                loss = (states * torch.ones_like(states)).sum()
                if twice:
                    torch.autograd.grad(loss, list(model.parameters()), create_graph=True, allow_unused=True)

        return saved(model, run)

    one = Pass(rows=ROWS, length=LENGTH, weights=WEIGHTS[dtype], packed=True)
    count = second_order if twice else first_order
    assert of_a_layer(measure) == pytest.approx(counted(config, count, one), rel=0.06)


def test_checkpointing_keeps_a_layers_input_and_one_layer() -> None:
    shape = _measured(built(LLAMA, 8, torch.float32))
    whole = Pass(rows=ROWS, length=LENGTH, weights=SINGLE)
    again = Pass(rows=ROWS, length=LENGTH, weights=SINGLE, checkpointing=True)
    inputs = 8 * ROWS * LENGTH * shape.width * SINGLE
    layer = counted(LLAMA, first_order, whole)
    assert first_order(shape, again) == first_order(shape, whole) - 7 * layer + inputs
