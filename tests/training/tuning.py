"""A fine-tuning of a few steps."""

from __future__ import annotations

from typing import Any

from rupert.data.examples import Example
from rupert.models.loading import LoadedModel
from rupert.training.fine_tuning import FineTuned, FineTuningSettings, fine_tune


def tuned(loaded: LoadedModel, examples: list[Example], **settings: Any) -> FineTuned:
    values = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_length": 64, "max_steps": 2}
    return fine_tune(FineTuningSettings(**(values | settings)), loaded, examples, "fine-tuning")
