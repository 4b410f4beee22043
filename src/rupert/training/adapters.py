"""LoRA: a low-rank adapter is trained in place of the weights, and merged into them afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from rupert.errors import InvalidValue, UnknownName
from rupert.settings import check_positive, check_range, setting

ALL_LINEAR = "all-linear"  # PEFT's name for every linear layer but the output head


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Whether a training changes all weights or an adapter, and which."""

    lora: bool = setting(False, "train a low-rank adapter, merged into the weights afterwards")
    lora_r: int = setting(8, "rank of the adapter")
    lora_alpha: int = setting(16, "scale of the adapter")
    lora_dropout: float = setting(0.0, "dropout inside the adapter")
    lora_target_modules: tuple[str, ...] = setting((ALL_LINEAR,), "modules that get an adapter")

    def __post_init__(self) -> None:
        check_positive(self, "lora_r", "lora_alpha")
        check_range(self, "lora_dropout", 0.0, 1.0)
        if not self.lora_target_modules:
            raise InvalidValue("lora_target_modules", self.lora_target_modules, "name at least one")

    def adapter(self) -> LoraConfig | None:
        """PEFT's configuration, where LoRA is asked for."""
        if not self.lora:
            return None
        targets = list(self.lora_target_modules)
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=ALL_LINEAR if ALL_LINEAR in targets else targets,
            task_type="CAUSAL_LM",
        )


class Adapting(Protocol):
    """What `adapted` needs to know of a training; `AdapterSettings` with a seed."""

    @property
    def lora_target_modules(self) -> tuple[str, ...]:
        """Modules that get an adapter."""

    @property
    def seed(self) -> int:
        """Of the adapter's first weights, and of the data's order."""

    def adapter(self) -> LoraConfig | None:
        """PEFT's configuration, or None for a training of all weights."""


@contextlib.contextmanager
def adapted(settings: Adapting, model: PreTrainedModel) -> Iterator[PreTrainedModel | PeftModel]:
    """Within, where LoRA is asked for, the model has an adapter, and it alone is trained; afterwards it is merged.

    The adapter's layers are put into `model` itself, so that it computes with them. When the training fails, the model
    is left as it was.

    Raises:
        UnknownName: the model has no layer of that name for an adapter.
    """
    adapter = settings.adapter()
    if adapter is None:
        yield model
        return
    check_targets(settings.lora_target_modules, model)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    set_seed(settings.seed)
    wrapped = get_peft_model(model, adapter)
    merged = False
    try:
        yield wrapped
        wrapped.merge_and_unload()
        merged = True
    finally:
        if not merged:
            wrapped.unload()
        for parameter, was_trained in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(was_trained)


def check_targets(targets: Sequence[str], model: PreTrainedModel) -> None:
    """Find out whether the model has a layer for every name.

    PEFT leaves out a name that it does not find beside one that it does, which would make a weaker attack.

    Raises:
        UnknownName: it has none for one of them.
    """
    head = model.get_output_embeddings()
    layers = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    ]
    for target in targets:
        if target != ALL_LINEAR and not any(f".{name}".endswith(f".{target}") for name in layers):
            raise UnknownName("lora_target_modules", target, {ALL_LINEAR, *(name.split(".")[-1] for name in layers)})
