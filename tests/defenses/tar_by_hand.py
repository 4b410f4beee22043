"""A tiny TAR, and its losses written from the formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data.batches import Encoded
from rupert.models.loading import LoadedModel

Tiny = Callable[..., LoadedModel]


Rows = Mapping[str, Sequence[Encoded]]


SPECS = {"harmful": "potionworld:defender", "alignment": "potionworld:refusals", "benign": "potionworld:benign"}


# Streams of a step of 4 rows and at most 3 inner steps, each with other rows.
STREAMS = {"harmful": 12, "attack_benign": 12, "held_out": 4, "benign": 4, "alignment": 4}


SOURCES = {"held_out": "harmful", "attack_benign": "benign"}


RATE = 0.02


SETTINGS: Mapping[str, Any] = {
    "attack_learning_rates": (RATE,),
    "inner_steps": 2,
    "resist_every": 1,
    "switch_share": 0.0,
    "schedule_lambda": 0.3,
    "tamper_weight": 1.7,
    "retain_weight": 0.6,
    "preference_beta": 0.4,
    "per_device_train_batch_size": 4,
}


# What follows is written from the paper's formulas alone: one row at a time, all logits, the optimizer in ten lines.


def places(row: Encoded) -> list[int]:
    """Positions whose next token is an answer's."""
    return [place for place, label in enumerate(row.labels[1:]) if label != -100]


def entropy(model: PreTrainedModel, rows: Rows) -> Tensor:
    parts = []
    for row in rows["held_out"]:
        probabilities = model(torch.tensor([row.input_ids])).logits[0].softmax(dim=-1)
        parts += [(probabilities[place] * probabilities[place].log()).sum() for place in places(row)]
    return torch.stack(parts).mean()


def preference(original: PreTrainedModel) -> Callable[[PreTrainedModel, Rows], Tensor]:
    def log_probability(model: PreTrainedModel, row: Encoded) -> Tensor:
        logs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(dim=-1)
        return torch.stack([logs[place, row.labels[place + 1]] for place in places(row)]).sum()

    def loss(model: PreTrainedModel, rows: Rows) -> Tensor:
        parts = []
        for refusal, answer in zip(rows["alignment"], rows["held_out"], strict=True):
            gain = [log_probability(model, row) - log_probability(original, row).detach() for row in (refusal, answer)]
            parts.append(torch.log1p(torch.exp(-SETTINGS["preference_beta"] * (gain[0] - gain[1]))))
        return torch.stack(parts).mean()

    return loss
