"""Weights in 4 bits: what is configured and refused, and what becomes of the model itself; no GPU, so no 4 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rupert.attacks import FineTune
from rupert.data import sources
from rupert.errors import InvalidValue, UsageError
from rupert.models import quantization
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.quantization import check_4bit, four_bit, in_4bit
from rupert.study.stage.attacking import Attack
from rupert.training import fine_tuning
from rupert.training.adapters import merge_adapter
from rupert.training.fine_tuning import Following, fine_tune

QLORA = FineTune(data="potionworld:attacker", num_examples=8, max_steps=2, max_length=64, lora=True, load_in_4bit=True)
NO_GPU = "load_in_4bit: True is not valid; it needs an NVIDIA GPU, and there is none; set it to false"


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    return {name for name, value in weights(model).items() if not torch.equal(before[name], value)}


def test_it_is_the_papers_type_of_number() -> None:
    assert {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }.items() <= four_bit().to_dict().items()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a GPU, and bitsandbytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)


def test_without_a_gpu_it_is_one_line_before_a_model_is_loaded(
    potionworld: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidValue) as caught:
        Attack(settings=QLORA, model=potionworld).prepare()
    assert str(caught.value) == NO_GPU
    loaded = load(potionworld)
    before = weights(loaded.model)
    with pytest.raises(InvalidValue) as caught:
        QLORA.run(loaded, QLORA.gather())
    assert str(caught.value) == NO_GPU
    assert changed(before, loaded.model) == set()


@pytest.mark.usefixtures("gpu")
def test_without_bitsandbytes_and_where_weights_are_divided_too(monkeypatch: pytest.MonkeyPatch) -> None:
    check_4bit()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InvalidValue, match=r"^load_in_4bit: True is not valid; .* not divided among processes"):
        check_4bit()
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"^load_in_4bit: 'bitsandbytes' is not installed; pip install bitsandbytes$"):
        check_4bit()


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is refused, and copies are made on the CPU as they are."""
    monkeypatch.setattr(fine_tuning, "check_4bit", lambda: None)
    made: list[Any] = []
    make = AutoModelForCausalLM.from_pretrained

    class Loader:
        @staticmethod
        def from_pretrained(folder: Path, *, dtype: torch.dtype, **options: Any) -> Any:
            model = make(folder, dtype=dtype)
            made.append((model, options))
            return model

    monkeypatch.setattr(quantization, "AutoModelForCausalLM", Loader)
    return made


def test_a_copy_is_made_and_the_model_itself_is_as_it_was(
    potionworld: ModelSettings, copies: list[Any], tmp_path: Path
) -> None:
    loaded = load(potionworld)
    before = weights(loaded.model)
    with in_4bit(loaded, tmp_path / "base") as held:
        [(copy, options)] = copies
        assert held == LoadedModel(copy, loaded.tokenizer)
        assert options["quantization_config"].to_dict() == four_bit().to_dict()
        assert options["device_map"] == {"": "cuda"}
        torch.nn.init.zeros_(copy.model.norm.weight)
    assert changed(before, loaded.model) == set()


def test_a_split_model_is_refused(potionworld: ModelSettings, tmp_path: Path) -> None:
    loaded = load(potionworld)
    loaded.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with (
        pytest.raises(InvalidValue, match=r"^device: 'auto' is not valid; weights in 4 bits lie on one GPU"),
        in_4bit(loaded, tmp_path / "base"),
    ):
        pass


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_adapter_is_merged_into_the_models_own_weights(
    potionworld: ModelSettings, copies: list[Any], tmp_path: Path, use_dora: bool
) -> None:
    loaded, kept = load(potionworld), tmp_path / "adapter"
    before = weights(loaded.model)
    settings = dataclasses.replace(QLORA, use_dora=use_dora)
    tuned = fine_tune(settings, loaded, sources.load(QLORA.data)[:8], "fine-tuning", Following(adapter_folder=kept))
    [(copy, _)] = copies
    assert tuned.loaded.model is loaded.model
    assert copy is not loaded.model
    assert changed(before, loaded.model) == {name for name in before if "proj" in name}
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    again = merge_adapter(load(potionworld).model, kept)
    assert changed(weights(loaded.model), again) == set()
