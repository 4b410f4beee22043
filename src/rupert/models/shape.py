"""A model's sizes from its configuration alone: no weights are loaded, and the papers' models need no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from rupert.errors import UsageError
from rupert.models.loading import POTIONWORLD_FOLDER
from rupert.models.packing import PACKABLE

CONFIGURATIONS = Path(__file__).parent / "configurations"
# What ships of the Hub's configurations: the sizes, by which a study can be planned where the Hub cannot be reached.
SHIPPED = {
    "smollm2": "smollm2-135m",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-7b-chat-hf": "llama-2-7b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Llama-2-70b-chat-hf": "llama-2-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3-8b",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama-3-8b",
    "microsoft/phi-2": "phi-2",
    "Qwen/Qwen2.5-3B": "qwen2.5-3b",
    "Qwen/Qwen2.5-3B-Instruct": "qwen2.5-3b",
    "Qwen/Qwen2.5-7B": "qwen2.5-7b",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    # A LLaMA of 7 B parameters, with a head of 14 labels and one word more.
    "PKU-Alignment/beaver-dam-7b": "llama-2-7b",
}


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A matrix of one layer: its module's name in the layer, and its sizes."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides how much it takes to train and to ask.

    Attributes:
        parameters: all, a tied head's matrix once.
        layer_parameters: of one layer.
        largest: elements of the largest single parameter.
        layers: how many.
        width: of the hidden states.
        inner: outputs of an MLP's first matrix.
        queries: heads times their width.
        keys: the same of the keys, which are as wide as the values.
        heads: of the queries.
        vocabulary: rows of the output head.
        tied: whether embedding and head share their matrix.
        gated: whether the MLP has a gate, and norms are RMS norms: Llama's kind of layer.
        packable: whether `packing` can leave padding out.
        positions: how long a row can be; None where nothing limits it.
        dtype: of the checkpoint's weights.
        maps: the matrices of one layer.
    """

    parameters: int
    layer_parameters: int
    largest: int
    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    heads: int
    vocabulary: int
    tied: bool
    gated: bool
    packable: bool
    positions: int | None
    dtype: str
    maps: tuple[LinearMap, ...]

    @property
    def matrices(self) -> int:
        """Elements of the matrices that a token is multiplied by in the layers."""
        return self.layers * sum(one.inputs * one.outputs for one in self.maps)

    @property
    def head(self) -> int:
        """Elements of the output head, tied or not."""
        return self.width * self.vocabulary


@cache
def shape_of(name: str, revision: str = "") -> ModelShape:
    """The sizes of a model: embedded, a folder, in the Hub's cache, shipped with rupert, or on the Hub.

    Args:
        name: as `ModelSettings.model`.
        revision: commit, tag or branch on the Hub.

    Raises:
        UsageError: its configuration cannot be had, or is not that of a causal language model.
    """
    config = _configuration(name, revision)
    try:
        with init_empty_weights(), no_init_weights():
            model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()  # each parameter has just been replaced by one of its own
        return _measured(model)
    except (AttributeError, StopIteration, TypeError, ValueError) as error:
        raise _unknown(name, error) from None


def _configuration(name: str, revision: str) -> PreTrainedConfig:
    """From the nearest place that has it; a name that ships is not asked the Hub for."""
    options = {"revision": revision} if revision else {}
    source = str(POTIONWORLD_FOLDER) if name == "potionworld" else name
    shipped = CONFIGURATIONS / f"{SHIPPED[name]}.json" if name in SHIPPED else None
    try:
        if Path(source).is_dir():
            return AutoConfig.from_pretrained(source)
        if shipped:
            return AutoConfig.from_pretrained(shipped)
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _unknown(name, error) from None


def _unknown(name: str, error: Exception) -> UsageError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return UsageError(f"--model: the sizes of {name!r} are not known ({reason}); name a folder with its config.json")


def _measured(model: PreTrainedModel) -> ModelShape:
    config = model.config.get_text_config()
    layer = _layer(model, config.num_hidden_layers)
    maps = tuple(_maps(layer))
    by_name = {one.name.rpartition(".")[2]: one for one in maps}
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    sizes = [prod(parameter.shape) for parameter in model.parameters()]
    return ModelShape(
        parameters=sum(sizes),
        layer_parameters=sum(prod(parameter.shape) for parameter in layer.parameters()),
        largest=max(sizes),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner=max(one.outputs for one in maps),
        queries=config.num_attention_heads * head_width,
        keys=key_heads * head_width,
        heads=config.num_attention_heads,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        gated="gate_proj" in by_name or "gate_up_proj" in by_name,
        packable=config.model_type in PACKABLE,
        positions=getattr(config, "max_position_embeddings", None),
        dtype=str(config.dtype or torch.float32).removeprefix("torch."),
        maps=maps,
    )


def _layer(model: PreTrainedModel, count: int) -> nn.Module:
    """The first of the model's layers."""
    return next(module[0] for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)


def _maps(layer: nn.Module) -> Iterator[LinearMap]:
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            yield LinearMap(name, module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2's, whose matrix lies the other way round
            yield LinearMap(name, *module.weight.shape)
