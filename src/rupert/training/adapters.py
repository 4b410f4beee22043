"""What of a model is trained: all weights, some layers, or a low-rank adapter that is merged into them afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from rupert.errors import FolderError, InvalidValue, UnknownName
from rupert.models.anatomy import layers
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

    @property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """Decoder layers that alone are trained, -1 being the last; None for the whole model."""
        return None


class Adapting(Protocol):
    """What `adapted` needs to know of a training; `AdapterSettings` with a seed."""

    @property
    def lora_target_modules(self) -> tuple[str, ...]:
        """Modules that get an adapter."""

    @property
    def seed(self) -> int:
        """Of the adapter's first weights, and of the data's order."""

    @property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """Decoder layers that alone are trained, -1 being the last; None for the whole model."""

    def adapter(self) -> LoraConfig | None:
        """PEFT's configuration, or None for a training of the model's own weights."""


def adapter_for(settings: Adapting, model: PreTrainedModel) -> LoraConfig | None:
    """PEFT's configuration for a model, or None for a training of its own weights.

    Where only some layers are trained, their modules are named one by one: PEFT has no other way for `all-linear`.

    Raises:
        UnknownName: the model has no layer of that name for an adapter.
        InvalidValue: the model has no decoder layer of that number.
    """
    config = settings.adapter()
    if config is None:
        return None
    names = _adaptable(model, settings.chosen_layers)
    check_targets(settings.lora_target_modules, names)
    if settings.chosen_layers is not None:
        wanted = settings.lora_target_modules
        config.target_modules = {name for name in names if any(_is_named(name, target) for target in wanted)}
    return config


@contextlib.contextmanager
def partly_trained(settings: Adapting, model: PreTrainedModel) -> Iterator[None]:
    """Within, only the layers that the settings name are trained; afterwards whatever was trained before.

    Nothing is frozen for an adapter, which is put into these layers alone; see `adapter_for`.

    Raises:
        InvalidValue: the model has no decoder layer of that number.
    """
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        if settings.chosen_layers is not None and settings.adapter() is None:
            model.requires_grad_(False)
            for layer in _layers_of(model, settings.chosen_layers):
                layer.requires_grad_()
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, parameter.requires_grad))


@contextlib.contextmanager
def adapted(settings: Adapting, model: PreTrainedModel) -> Iterator[PreTrainedModel | PeftModel]:
    """Within, the model is as the settings train it: with an adapter, only some of its layers, or all of it.

    Where LoRA is asked for, the adapter alone is trained, and merged afterwards. Its layers are put into `model`
    itself, so that it computes with them. When the training fails, the model is left as it was.

    Raises:
        UnknownName: the model has no layer of that name for an adapter.
        InvalidValue: the model has no decoder layer of that number.
    """
    adapter = adapter_for(settings, model)
    with partly_trained(settings, model):
        if adapter is None:
            yield model
            return
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


def save_adapter(model: PeftModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a model's adapter as PEFT does; the same adapter gives the same bytes, wherever its model lies.

    Args:
        model: with an adapter that is not merged yet.
        folder: made where it is missing.
        weights: all weights of a model of which each process holds a part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[model.active_adapter].to_dict() | {"base_model_name_or_path": None}
    ordered = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    (folder / CONFIG_NAME).write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    adapter = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.items()}
    (folder / SAFETENSORS_WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge a saved adapter into the model that it was trained on, whose weights change in place.

    On the CPU that gives the bits of the model that was merged when the training was done.

    Args:
        model: as it was before the training.
        folder: what `save_adapter` wrote.

    Raises:
        FolderError: the adapter is missing or damaged.
    """
    if not (folder / CONFIG_NAME).exists() or not (folder / SAFETENSORS_WEIGHTS_NAME).exists():
        raise FolderError(f"{str(folder)!r} holds no adapter; train it again")
    try:
        PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":")
        raise FolderError(f"{str(folder)!r} holds no adapter of this model ({reason}); train it again") from error
    return model.requires_grad_()


def base_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a model without its adapter, under their own names, of all weights of a model with one."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): weight
        for name, weight in weights.items()
        if ".lora_" not in name
    }


def check_targets(targets: Sequence[str], names: Sequence[str]) -> None:
    """Find out whether there is a module for every target.

    PEFT leaves out a name that it does not find beside one that it does, which would make a weaker attack.

    Args:
        targets: what the user names, `all-linear` or the ends of modules' names.
        names: of the modules that an adapter can be put into.

    Raises:
        UnknownName: there is none for one of them.
    """
    for target in targets:
        if not any(_is_named(name, target) for name in names):
            raise UnknownName("lora_target_modules", target, {ALL_LINEAR, *(name.split(".")[-1] for name in names)})


def _is_named(name: str, target: str) -> bool:
    """Whether a module is meant, as PEFT understands its targets."""
    return target == ALL_LINEAR or f".{name}".endswith(f".{target}")


def _adaptable(model: PreTrainedModel, numbers: Sequence[int] | None) -> list[str]:
    """The names of the linear modules but the output head, of the decoder layers of these numbers or of all."""
    head = model.get_output_embeddings()
    within = [model] if numbers is None else _layers_of(model, numbers)
    found = {id(module) for part in within for module in part.modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and id(module) in found
    ]


def _layers_of(model: PreTrainedModel, numbers: Sequence[int]) -> list[nn.Module]:
    every = layers(model)
    for number in numbers:
        if not -len(every) <= number < len(every):
            remedy = f"the model has {len(every)} layers: 0 to {len(every) - 1}, or -1 to -{len(every)} from the end"
            raise InvalidValue("layers_to_transform", number, remedy)
    return [every[number] for number in numbers]
