"""Sizes from configurations: parameter counts that are published, and what is said of what is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rupert.errors import UsageError
from rupert.models.loading import POTIONWORLD_FOLDER, ModelSettings, load
from rupert.models.shape import CONFIGURATIONS, SHIPPED, ModelShape, shape_of

# As the Hub's model pages count them.
PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "microsoft/phi-2": 2_779_683_840,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "smollm2": 134_515_008,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_shipped_configuration_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert shape_of(name).parameters == parameters


def test_every_configuration_that_ships_is_some_models() -> None:
    assert {path.stem for path in CONFIGURATIONS.glob("*.json")} == set(SHIPPED.values())


def test_sizes_agree_with_the_loaded_model() -> None:
    model = load(ModelSettings(model="potionworld", device="cpu")).model
    shape = shape_of("potionworld")
    assert shape.parameters == model.num_parameters()
    assert shape.largest == max(parameter.numel() for parameter in model.parameters())
    layers = [parameter.numel() for parameter in model.model.layers.parameters()]
    assert shape.layers * shape.layer_parameters == sum(layers)
    assert shape.head == model.lm_head.weight.numel()


def test_keys_are_narrower_than_queries_where_heads_share_them() -> None:
    shape = shape_of("Qwen/Qwen2.5-7B")
    assert (shape.queries, shape.keys, shape.heads) == (3584, 512, 28)
    assert not shape.tied


def test_a_tied_head_counts_once() -> None:
    shape = shape_of("Qwen/Qwen2.5-3B")
    assert shape.tied
    layers_and_norm = shape.layers * shape.layer_parameters + shape.width
    assert shape.parameters == layers_and_norm + shape.head


def test_phi_has_no_gate_and_is_padded() -> None:
    shape = shape_of("microsoft/phi-2")
    assert (shape.gated, shape.packable, shape.inner) == (False, False, 10240)


def test_a_folder_is_measured_by_its_configuration_alone(tmp_path: Path) -> None:
    config = json.loads((POTIONWORLD_FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    found, whole = shape_of(str(tmp_path)), shape_of("potionworld")
    assert isinstance(found, ModelShape)
    assert whole.parameters - found.parameters == 2 * whole.layer_parameters


def test_a_model_whose_configuration_cannot_be_had_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError) as caught:
        shape_of("nobody/nothing")
    message = str(caught.value)
    assert message.startswith("--model: the sizes of 'nobody/nothing' are not known (")
    assert message.endswith("); name a folder with its config.json")
    assert "\n" not in message


def test_a_configuration_of_no_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match="the sizes of"):
        shape_of(str(tmp_path))
