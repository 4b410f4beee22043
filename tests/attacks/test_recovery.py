"""Recovery: two trainings, each with its own data and course, and nothing but them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rupert.attacks import FineTune, Recovery
from rupert.errors import DataError, UsageError
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training import processes
from rupert.training.fine_tuning import Following, fine_tune

ATTACK = Recovery(
    recovery="potionworld:refusals",
    recovery_num_examples=12,
    recovery_learning_rate=1e-3,
    recovery_max_steps=3,
    data="potionworld:attacker",
    num_examples=8,
    benign="potionworld:benign",
    poison_ratio=0.75,
    learning_rate=1e-4,
    max_steps=2,
    max_length=64,
)


class Counts(TrainerCallback):
    """Counts trainings and steps."""

    def __init__(self) -> None:
        self.trainings: list[int] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainings.append(0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainings[-1] += 1


def weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


def test_it_is_two_trainings_one_after_the_other(potionworld: ModelSettings) -> None:
    data, watch = ATTACK.gather(), Counts()
    result = ATTACK.run(load(potionworld), data, Following(callbacks=(watch,)))
    shared: dict[str, Any] = {"data": "potionworld:attacker", "max_length": 64}
    first = FineTune(learning_rate=1e-3, max_steps=3, **shared)
    second = FineTune(learning_rate=1e-4, max_steps=2, **shared)
    recovered = fine_tune(first, load(potionworld), data["recovery"], "")
    expected = fine_tune(second, recovered.loaded, [*data["data"], *data["benign"]], "")
    assert torch.equal(weights(result.loaded), weights(expected.loaded))
    assert (result.steps, result.tokens) == (5, recovered.tokens + expected.tokens)
    assert result.report == {"loss": expected.loss, "recovery_loss": recovered.loss}
    assert watch.trainings == [3, 2]


def test_no_adapter_is_kept_of_two_that_belong_together(potionworld: ModelSettings, tmp_path: Path) -> None:
    adapting = dataclasses.replace(ATTACK, lora=True)
    loaded = load(potionworld)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    result = adapting.run(loaded, adapting.gather(), Following(adapter_folder=tmp_path / "adapter"))
    assert not (tmp_path / "adapter").exists()
    changed = {name for name, tensor in result.loaded.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "proj" in name}


def test_rows_are_drawn_apart(potionworld: ModelSettings) -> None:
    assert {use: len(rows) for use, rows in ATTACK.gather().items()} == {"recovery": 12, "data": 6, "benign": 2}
    assert ATTACK.datasets == {
        "recovery": "potionworld:refusals",
        "data": "potionworld:attacker",
        "benign": "potionworld:benign",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recovery_num_examples": 0}, "recovery_num_examples: 0 is not valid; must be above 0"),
        ({"recovery_learning_rate": 0.0}, "recovery_learning_rate: 0.0 is not valid; must be above 0"),
        ({"recovery_num_train_epochs": -1.0}, "recovery_num_train_epochs: -1.0 is not valid; must be above 0"),
        ({"recovery_max_steps": 0}, "recovery_max_steps: 0 is not valid; must be above 0"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(ATTACK, **settings)
    assert str(caught.value) == message


def test_too_few_rows_is_one_line() -> None:
    with pytest.raises(
        DataError, match=r"^potionworld:refusals: \d+ examples, 9999 needed; add rows or ask for fewer$"
    ):
        dataclasses.replace(ATTACK, recovery_num_examples=9999).gather()


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED"])
def test_a_divided_model_is_refused_before_a_training(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UsageError, match=r"^two trainings cannot be split by FSDP or DeepSpeed; use .* replicas$"):
        ATTACK.run(None, {})  # type: ignore[arg-type]
