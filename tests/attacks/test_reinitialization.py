"""Reinitialization: which weights are fresh, which are not, and that the seed alone decides them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rupert.attacks import FineTune, Reinitialization
from rupert.attacks.reinitialization import reinitialize
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.models.loading import ModelSettings, load
from rupert.training.fine_tuning import Following, fine_tune

ATTACK = Reinitialization(
    data="potionworld:attacker",
    benign="potionworld:benign",
    num_examples=8,
    reinitialized_layers=2,
    max_steps=2,
    max_length=64,
    seed=5,
)


def reinitialized(potionworld: ModelSettings, *arguments: Any, elsewhere: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Each weight before and after."""
    model = load(potionworld).model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(elsewhere)
    reinitialize(model, *arguments)
    return {name: (before[name], parameter.detach()) for name, parameter in model.named_parameters()}


def changed(weights: dict[str, tuple[Tensor, Tensor]]) -> set[str]:
    return {name for name, (before, after) in weights.items() if not torch.equal(before, after)}


def test_the_last_layers_are_as_before_any_training(potionworld: ModelSettings) -> None:
    weights = reinitialized(potionworld, 2, (), 0)
    assert changed(weights) == {name for name in weights if ".layers.2." in name or ".layers.3." in name}
    for name in changed(weights):
        fresh = weights[name][1]
        if "norm" in name:
            assert torch.equal(fresh, torch.ones_like(fresh))
        else:  # the model's initializer_range is 0.02; 16,384 numbers or more have it within 2 %
            assert float(fresh.std()) == pytest.approx(0.02, rel=0.03)
            assert abs(float(fresh.mean())) < 6e-4


def test_chosen_modules_alone_are_fresh(potionworld: ModelSettings) -> None:
    weights = reinitialized(potionworld, 1, ("down_proj", "self_attn"), 0)
    attention = {f"model.layers.3.self_attn.{name}_proj.weight" for name in "qkvo"}
    assert changed(weights) == {"model.layers.3.mlp.down_proj.weight", *attention}


def test_the_seed_alone_decides(potionworld: ModelSettings) -> None:
    def fresh(seed: int, elsewhere: int) -> Tensor:
        weights = reinitialized(potionworld, 1, ("down_proj",), seed, elsewhere=elsewhere)
        return weights["model.layers.3.mlp.down_proj.weight"][1]

    assert torch.equal(fresh(0, 1), fresh(0, 2))
    assert not torch.equal(fresh(0, 1), fresh(1, 1))


def test_it_is_fine_tuning_from_there(potionworld: ModelSettings, tmp_path: Path) -> None:
    data = ATTACK.gather()
    result = ATTACK.run(load(potionworld), data, Following(adapter_folder=tmp_path / "adapter"))
    reference = load(potionworld)
    reinitialize(reference.model, 2, (), 5)
    plain = FineTune(data="potionworld:attacker", max_steps=2, max_length=64, seed=5)
    expected = fine_tune(plain, reference, [*data["data"], *data["benign"]], "")
    pairs = zip(result.loaded.model.parameters(), expected.loaded.model.parameters(), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)
    assert (len(data["data"]), len(data["benign"])) == (4, 4)


def test_an_adapter_alone_is_not_kept(potionworld: ModelSettings, tmp_path: Path) -> None:
    adapting = dataclasses.replace(ATTACK, lora=True)
    adapting.run(load(potionworld), adapting.gather(), Following(adapter_folder=tmp_path / "adapter"))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"reinitialized_layers": 5}, InvalidValue, "reinitialized_layers: 5 is not valid; the model has 4"),
        (
            {"reinitialized_modules": ("down_porj",)},
            UnknownName,
            "reinitialized_modules: 'down_porj' is unknown; did you mean 'down_proj'?",
        ),
    ],
)
def test_what_the_model_has_not_is_one_line(
    settings: dict[str, Any], kind: type[UsageError], message: str, potionworld: ModelSettings
) -> None:
    with pytest.raises(kind) as caught:
        dataclasses.replace(ATTACK, **settings).run(load(potionworld), {})
    assert str(caught.value) == message


def test_no_layers_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^reinitialized_layers: 0 is not valid; must be above 0$"):
        dataclasses.replace(ATTACK, reinitialized_layers=0)
