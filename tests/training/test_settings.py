"""Training settings: bad values are one line before anything is loaded, good ones reach Transformers as they are."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainingArguments

from rupert.errors import UsageError
from rupert.training.fine_tuning import FineTuningSettings
from rupert.training.irrelevant_pairs import PairingSettings
from rupert.training.settings import TrainingSettings

NAN = float("nan")
BAD: list[tuple[type, dict[str, Any], str]] = [
    (TrainingSettings, {"learning_rate": 0.0}, "learning_rate: 0.0 is not valid; must be above 0"),
    (TrainingSettings, {"learning_rate": NAN}, "learning_rate: nan is not valid; must be above 0"),
    (
        TrainingSettings,
        {"per_device_train_batch_size": 0},
        "per_device_train_batch_size: 0 is not valid; must be above 0",
    ),
    (
        TrainingSettings,
        {"gradient_accumulation_steps": -1},
        "gradient_accumulation_steps: -1 is not valid; must be above 0",
    ),
    (TrainingSettings, {"max_length": 0}, "max_length: 0 is not valid; must be above 0"),
    (TrainingSettings, {"weight_decay": -0.1}, "weight_decay: -0.1 is not valid; must be 0 or above"),
    (TrainingSettings, {"max_grad_norm": -1.0}, "max_grad_norm: -1.0 is not valid; must be 0 or above"),
    (TrainingSettings, {"warmup_steps": -5}, "warmup_steps: -5 is not valid; must be 0 or above"),
    (TrainingSettings, {"seed": -1}, "seed: -1 is not valid; must be 0 or above"),
    (
        TrainingSettings,
        {"lr_scheduler_type": "cosin"},
        "lr_scheduler_type: 'cosin' is unknown; did you mean 'cosine'?",
    ),
    (TrainingSettings, {"optim": "adam_torch"}, "optim: 'adam_torch' is unknown; did you mean 'adamw_torch'?"),
    (FineTuningSettings, {"learning_rate": -1e-5}, "learning_rate: -1e-05 is not valid; must be above 0"),
    (FineTuningSettings, {"num_train_epochs": 0.0}, "num_train_epochs: 0.0 is not valid; must be above 0"),
    (FineTuningSettings, {"max_steps": 0}, "max_steps: 0 is not valid; must be above 0, or -1 for num_train_epochs"),
    (FineTuningSettings, {"max_steps": -2}, "max_steps: -2 is not valid; must be above 0, or -1 for num_train_epochs"),
    (FineTuningSettings, {"lora_r": 0}, "lora_r: 0 is not valid; must be above 0"),
    (FineTuningSettings, {"lora_alpha": 0}, "lora_alpha: 0 is not valid; must be above 0"),
    (FineTuningSettings, {"lora_dropout": 1.5}, "lora_dropout: 1.5 is not valid; must be from 0.0 to 1.0"),
    (FineTuningSettings, {"lora_target_modules": ()}, "lora_target_modules: () is not valid; name at least one"),
    (FineTuningSettings, {"data_seed": -1}, "data_seed: -1 is not valid; must be 0 or above"),
    (FineTuningSettings, {"use_dora": True}, "use_dora: True is not valid; it is a kind of adapter; set lora, too"),
    (
        FineTuningSettings,
        {"load_in_4bit": True},
        "load_in_4bit: True is not valid; it is a kind of adapter; set lora, too",
    ),
    (
        FineTuningSettings,
        {"layers_to_transform": ()},
        "layers_to_transform: () is not valid; name at least one layer, or none for the whole model",
    ),
    (PairingSettings, {"num_pairs": 0}, "num_pairs: 0 is not valid; must be above 0"),
    (PairingSettings, {"max_draws": 0}, "max_draws: 0 is not valid; must be above 0"),
    (PairingSettings, {"threshold": 1.01}, "threshold: 1.01 is not valid; must be from -1.0 to 1.0"),
    (PairingSettings, {"threshold": -1.5}, "threshold: -1.5 is not valid; must be from -1.0 to 1.0"),
    (PairingSettings, {"threshold": NAN}, "threshold: nan is not valid; must be from -1.0 to 1.0"),
    (PairingSettings, {"seed": -1}, "seed: -1 is not valid; must be 0 or above"),
]


@pytest.mark.parametrize(("settings", "values", "message"), BAD, ids=[f"{c.__name__} {v}" for c, v, _ in BAD])
def test_a_bad_value_is_one_line(settings: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**values)
    assert str(caught.value) == message


def test_a_batch_is_what_one_optimizer_step_takes() -> None:
    assert TrainingSettings(per_device_train_batch_size=3, gradient_accumulation_steps=4).batch_size == 12


def test_every_setting_reaches_transformers(tmp_path: Any) -> None:
    given = {
        "learning_rate": 3e-4,
        "per_device_train_batch_size": 3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "optim": "sgd",
        "weight_decay": 0.2,
        "max_grad_norm": 0.5,
        "bf16": True,
        "gradient_checkpointing": True,
        "seed": 7,
    }
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **TrainingSettings(**given).arguments())
    assert {name: getattr(arguments, name) for name in given} == given
    # A loss that is not finite is shown as it is, and nothing is sent anywhere.
    assert not arguments.logging_nan_inf_filter
    assert arguments.report_to == []
