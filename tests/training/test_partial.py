"""Which part of a model is trained: some layers, or an adapter of direction and magnitude in some; all else stays."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rupert.data import sources
from rupert.errors import InvalidValue, UnknownName
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training.adapters import adapted
from rupert.training.fine_tuning import FineTuningSettings, fine_tune

Tiny = Callable[..., LoadedModel]
TUNING = FineTuningSettings(learning_rate=1e-3, max_steps=2, max_length=64, per_device_train_batch_size=4)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    after = weights(model)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_layers(names: Any, *numbers: int) -> set[str]:
    return {name for name in names if any(name.startswith(f"model.layers.{number}.") for number in numbers)}


@pytest.mark.parametrize(
    "others",
    [{}, {"gradient_checkpointing": True}, {"bf16": True}, {"weight_decay": 0.1, "optim": "muon"}, {"optim": "lion"}],
    ids=str,
)
def test_some_layers_alone_are_trained_and_then_all_that_was_before(
    potionworld: ModelSettings, others: dict[str, Any]
) -> None:
    loaded = load(potionworld)
    loaded.model.model.norm.weight.requires_grad_(False)
    before = weights(loaded.model)
    settings = dataclasses.replace(TUNING, layers_to_transform=(1, -1), **others)
    tuned = fine_tune(settings, loaded, sources.load("potionworld:attacker")[:8], "fine-tuning")
    last = loaded.model.config.num_hidden_layers - 1
    assert changed(before, tuned.loaded.model) == of_layers(before, 1, last)
    frozen = {name for name, parameter in tuned.loaded.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.norm.weight"}


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_goes_into_some_layers(potionworld: ModelSettings, use_dora: bool) -> None:
    loaded = load(potionworld)
    before = weights(loaded.model)
    settings = dataclasses.replace(
        TUNING, layers_to_transform=(-2,), lora=True, use_dora=use_dora, lora_target_modules=("q_proj", "mlp.up_proj")
    )
    tuned = fine_tune(settings, loaded, sources.load("potionworld:attacker")[:8], "fine-tuning")
    layer = f"model.layers.{loaded.model.config.num_hidden_layers - 2}"
    expected = {f"{layer}.self_attn.q_proj.weight", f"{layer}.mlp.up_proj.weight"}
    assert changed(before, tuned.loaded.model) == expected
    assert all(parameter.requires_grad for parameter in tuned.loaded.model.parameters())


def test_dora_is_magnitude_times_direction(tiny: Tiny) -> None:
    """W' = m (W + s B A) / |W + s B A|, the norm of each output's row, m at first that of W; Liu et al. 2024."""
    loaded = tiny()
    before = weights(loaded.model)
    settings = FineTuningSettings(lora=True, use_dora=True, lora_r=2, lora_alpha=3, lora_target_modules=("o_proj",))
    with adapted(settings, loaded.model):
        parts = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad and "layers.1" in name}
        lower, upper, magnitude = (
            next(part for name, part in parts.items() if wanted in name)
            for wanted in ("lora_A", "lora_B", "magnitude_vector")
        )
        torch.nn.init.constant_(upper, 0.5)
        with torch.no_grad():
            magnitude.mul_(2.0)
        delta = 3 / 2 * upper.detach() @ lower.detach()
    name = "model.layers.1.self_attn.o_proj.weight"
    moved = before[name] + delta
    expected = 2 * before[name].norm(dim=1, keepdim=True) * moved / moved.norm(dim=1, keepdim=True)
    # PEFT holds the magnitude in float32.
    torch.testing.assert_close(weights(loaded.model)[name], expected, rtol=1e-6, atol=1e-7)
    assert changed(before, loaded.model) == {name}


@pytest.mark.parametrize(
    "settings",
    [
        FineTuningSettings(layers_to_transform=(1,)),
        FineTuningSettings(layers_to_transform=(-1,), lora=True, use_dora=True),
    ],
    ids=["layer", "dora"],
)
def test_a_loop_of_ones_own_trains_the_same_part_and_restores_also_when_it_fails(
    tiny: Tiny, settings: FineTuningSettings
) -> None:
    class Broken(RuntimeError):
        pass

    loaded = tiny()
    before = weights(loaded.model)

    def fail() -> None:
        with adapted(settings, loaded.model):
            names = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
            assert names
            assert set(names) == of_layers(names, 1)
            raise Broken

    with pytest.raises(Broken):
        fail()
    assert changed(before, loaded.model) == set()
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("kind", [{}, {"lora": True}, {"lora": True, "use_dora": True}], ids=str)
@pytest.mark.parametrize("number", [2, -3])
def test_a_layer_outside_of_the_model_is_one_line(tiny: Tiny, kind: dict[str, Any], number: int) -> None:
    loaded = tiny(dtype="float32")
    settings = FineTuningSettings(layers_to_transform=(0, number), **kind)
    message = f"layers_to_transform: {number} is not valid; the model has 2 layers: 0 to 1, or -1 to -2 from the end"
    with pytest.raises(InvalidValue, match=re.escape(message) + "$"):
        fine_tune(settings, loaded, sources.load("potionworld:attacker")[:4], "fine-tuning")
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize(
    ("others", "target"),
    [({"use_dora": True}, "v_prj"), ({"layers_to_transform": (1,)}, "layers.0.self_attn.v_proj")],
    ids=str,
)
def test_a_target_that_matches_nothing_is_one_line(tiny: Tiny, others: dict[str, Any], target: str) -> None:
    loaded = tiny(dtype="float32")
    before = weights(loaded.model)
    settings = FineTuningSettings(lora=True, lora_target_modules=("q_proj", target), max_steps=1, **others)
    with pytest.raises(UnknownName, match=rf"^lora_target_modules: '{target}' is unknown; [^\n]+$"):
        fine_tune(settings, loaded, sources.load("potionworld:attacker")[:4], "fine-tuning")
    assert changed(before, loaded.model) == set()
