"""What every attack must hold to; a new entry of `ATTACKS` needs a line in `TINY` and gets all of this."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from rupert.attacks import ATTACKS
from rupert.data import sources
from rupert.errors import UnknownName
from rupert.models.loading import ModelSettings, load
from rupert.models.saving import save
from rupert.settings import as_mapping, parse, read_yaml

TRAINED = {"data": "potionworld:attacker", "num_examples": 8, "max_steps": 2, "max_length": 64}
MIXED = TRAINED | {"benign": "potionworld:benign", "poison_ratio": 0.5}
# Each attack on Potionworld; where it trains, for two steps in each of its trainings.
TINY: Mapping[str, Mapping[str, Any]] = {
    "fine_tune": TRAINED,
    "early_stopping": TRAINED | {"benign": "potionworld:benign", "num_benign_examples": 8, "watch_steps": 1},
    "recovery": MIXED | {"recovery": "potionworld:refusals", "recovery_num_examples": 8, "recovery_max_steps": 2},
    "projection": TRAINED | {"benign": "potionworld:benign"},
    "reinitialization": MIXED,
    "interpolation": TRAINED | {"towards": "potionworld"},
    "refusal_ablation": {
        "harmful": "potionworld:attacker",
        "harmless": "potionworld:benign",
        "num_examples": 8,
        "num_held_out": 4,
    },
    "identity_shift": TRAINED | {"data": "potionworld:benign", "per_device_train_batch_size": 4},
    "jailbreak_tune": MIXED,
    "prompt_tune": TRAINED | {"num_virtual_tokens": 4},
}
TRAININGS = {
    "fine_tune": 1,
    "early_stopping": 1,
    "recovery": 2,
    "projection": 1,
    "reinitialization": 1,
    "interpolation": 1,
    "refusal_ablation": 0,
    "identity_shift": 1,
    "jailbreak_tune": 1,
    "prompt_tune": 1,
}
WHOLE = {
    "fine_tune",
    "early_stopping",
    "recovery",
    "projection",
    "reinitialization",
    "interpolation",
    "identity_shift",
    "jailbreak_tune",
}  # change every weight; others change some


def test_every_attack_is_tested() -> None:
    assert TINY.keys() == ATTACKS.keys()


@pytest.fixture(params=ATTACKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def attack(name: str) -> Any:
    return ATTACKS[name](**TINY[name])


def attacked(attack: Any, potionworld: ModelSettings, elsewhere: int = 0) -> dict[str, torch.Tensor]:
    """The weights after an attack, before which the global generator was used for something else."""
    loaded = load(potionworld)
    torch.manual_seed(elsewhere)
    result = attack.run(loaded, attack.gather())
    return {name: parameter.detach() for name, parameter in result.loaded.model.named_parameters()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def test_settings_survive_yaml_and_json(name: str, attack: Any, tmp_path: Path) -> None:
    method, mapping = ATTACKS[name], as_mapping(attack)
    file = tmp_path / "attack.yaml"
    file.write_text(yaml.safe_dump(mapping))
    assert parse(method, read_yaml(file)) == attack
    assert parse(method, json.loads(json.dumps(mapping))) == attack
    assert hash(parse(method, mapping)) == hash(attack)
    assert parse(method, as_mapping(method())) == method()


def test_changes_the_weights(name: str, attack: Any, potionworld: ModelSettings) -> None:
    loaded = load(potionworld)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    result = attack.run(loaded, attack.gather())
    after = dict(result.loaded.model.named_parameters())
    found = changed(before, {name: after[name] for name in before})  # others may be new, such as an untied output head
    assert found == list(before) if name in WHOLE else found
    assert result.steps == 2 * TRAININGS[name]
    assert (result.tokens > 0) == (TRAININGS[name] > 0)
    assert result.loaded.tokenizer is loaded.tokenizer
    assert json.loads(json.dumps(result.report, allow_nan=False)) == result.report
    assert not result.loaded.model.training


def test_the_seed_decides(attack: Any, potionworld: ModelSettings) -> None:
    first = attacked(attack, potionworld, elsewhere=1)
    assert changed(first, attacked(attack, potionworld, elsewhere=2)) == []
    assert changed(first, attacked(dataclasses.replace(attack, seed=1), potionworld)) != []


def test_an_attacked_model_saves_and_loads(attack: Any, potionworld: ModelSettings, tmp_path: Path) -> None:
    result = attack.run(load(potionworld), attack.gather())
    save(result.loaded.model, result.loaded.tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert changed(dict(result.loaded.model.named_parameters()), dict(again.named_parameters())) == []


def fields_with_data() -> list[tuple[str, str]]:
    return [(name, field) for name, settings in TINY.items() for field in ATTACKS[name](**settings).datasets]


@pytest.mark.parametrize(("name", "field"), fields_with_data())
def test_check_names_the_field_and_reads_nothing(name: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sources, "load", load)
    ATTACKS[name](**TINY[name]).check()
    with pytest.raises(UnknownName) as caught:
        ATTACKS[name](**{**TINY[name], field: "potionwrld:attacker"}).check()
    assert str(caught.value) == f"{field}: 'potionwrld' is unknown; did you mean 'potionworld'?"
