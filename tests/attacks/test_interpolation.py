"""Interpolation: the weights by hand, what is refused, and that the other model is part of what the attack is."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rupert.attacks import FineTune, Interpolation
from rupert.attacks.interpolation import interpolate
from rupert.errors import FolderError, InvalidValue, UnknownName, UsageError
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.saving import save
from rupert.study.stage import Attack, attack
from rupert.training.fine_tuning import Following, fine_tune

Tiny = Callable[..., LoadedModel]


def saved(loaded: LoadedModel, folder: Path) -> str:
    folder.mkdir()
    save(loaded.model, loaded.tokenizer, folder)
    return str(folder)


def same(left: Any, right: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("bfloat16", 4e-3)])
def test_each_weight_is_between(tiny: Tiny, dtype: str, tolerance: float) -> None:
    model, here, there = tiny(dtype=dtype).model, tiny().model, tiny(seed=1).model
    interpolate(model, there, 0.25, "other")
    for mine, w, u in zip(model.parameters(), here.parameters(), there.parameters(), strict=True):
        assert str(mine.dtype) == f"torch.{dtype}"
        assert torch.allclose(mine.double(), 0.75 * w + 0.25 * u, rtol=tolerance, atol=tolerance)


def test_the_ends_are_the_models_themselves(tiny: Tiny) -> None:
    model, here, there = tiny().model, tiny().model, tiny(seed=1).model
    interpolate(model, there, 0.0, "other")
    assert same(model, here)
    interpolate(model, there, 1.0, "other")
    assert same(model, there)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_of_another_shape_is_one_line(tiny: Tiny, potionworld: ModelSettings) -> None:
    loaded = tiny(dtype="float32")
    with pytest.raises(UsageError) as caught:
        Interpolation(towards="potionworld").run(loaded, {})
    assert str(caught.value) == (
        "towards: 'potionworld' has other weights than the model (38, such as 'model.embed_tokens.weight'); "
        "name one of the same shape"
    )
    assert same(loaded.model, tiny(dtype="float32").model)


def test_without_data_nothing_is_trained(tiny: Tiny, potionworld: ModelSettings, tmp_path: Path) -> None:
    other = load(potionworld)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(0.5)
    method = Interpolation(towards=saved(other, tmp_path / "other"), weight=0.5)
    record = attack(method, potionworld, tmp_path / "attacked")
    assert (record.report["steps"], record.report["tokens"]) == (0, 0)
    after = load(ModelSettings(model=str(tmp_path / "attacked"))).model
    for mine, w in zip(after.parameters(), load(potionworld).model.parameters(), strict=True):
        assert torch.allclose(mine, 0.75 * w)
    assert record.data == Attack(settings=method, model=potionworld).request().data


def test_with_data_it_is_fine_tuning_from_there(potionworld: ModelSettings, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"data": "potionworld:attacker", "num_examples": 8, "max_steps": 2, "max_length": 64}
    method = Interpolation(towards="potionworld", weight=0.5, lora=True, **shared)
    data = method.gather()
    result = method.run(load(potionworld), data, Following(adapter_folder=tmp_path / "adapter"))
    expected = fine_tune(FineTune(lora=True, **shared), load(potionworld), data["data"], "")
    assert same(result.loaded.model, expected.loaded.model)  # half of the way to itself is itself
    assert (result.steps, result.tokens) == (expected.steps, expected.tokens)
    assert not (tmp_path / "adapter").exists()


def test_the_other_models_content_counts_and_not_its_name(
    tiny: Tiny, potionworld: ModelSettings, tmp_path: Path
) -> None:
    def identity(folder: str) -> str:
        return Attack(settings=Interpolation(towards=folder), model=potionworld).request().identity

    first = saved(tiny(), tmp_path / "first")
    copied = str(shutil.copytree(first, tmp_path / "copied"))
    other = saved(tiny(seed=1), tmp_path / "other")
    assert identity(first) == identity(copied)
    assert identity(first) != identity(other)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("", UsageError, "towards is missing; name potionworld, smollm2, a folder, or a model on the Hub"),
        ("potionwrld", UnknownName, "towards: 'potionwrld' is unknown; did you mean 'potionworld'?"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(
    name: str, kind: type[UsageError], message: str, potionworld: ModelSettings, tmp_path: Path
) -> None:
    for refused in (
        Interpolation(towards=name).check,
        Attack(settings=Interpolation(towards=name), model=potionworld).request,
    ):
        with pytest.raises(kind) as caught:
            refused()
        assert str(caught.value) == message


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"^towards: .* holds no config.json; name a folder in Hugging"):
        Interpolation(towards=str(tmp_path)).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.1}, "weight: 1.1 is not valid; must be from 0.0 to 1.0"),
        ({"weight": -0.1}, "weight: -0.1 is not valid; must be from 0.0 to 1.0"),
        ({"num_examples": 0}, "num_examples: 0 is not valid; must be above 0"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        dataclasses.replace(Interpolation(towards="potionworld"), **settings)
    assert str(caught.value) == message
