"""Harmful fine-tuning: what it draws, and what it is by default."""

from __future__ import annotations

import dataclasses

import pytest

from rupert.attacks import FineTune
from rupert.data import sources
from rupert.errors import DataError, UsageError
from rupert.settings import as_mapping


def test_too_few_rows_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        FineTune(data="potionworld:attacker", num_examples=336).gather()
    assert str(caught.value) == "potionworld:attacker: 335 examples, 336 needed; add rows or ask for fewer"


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^num_examples: 0 is not valid; must be above 0$"):
        FineTune(num_examples=0)


def test_rows_are_drawn_once_each_and_by_the_seed() -> None:
    attack = FineTune(data="potionworld:attacker", num_examples=100)
    rows = attack.gather()["data"]
    assert len({row.instruction for row in rows}) == 100
    assert {row.instruction for row in rows} <= {row.instruction for row in sources.load("potionworld:attacker")}
    assert rows == attack.gather()["data"]
    assert rows != dataclasses.replace(attack, seed=1).gather()["data"]
    assert rows[:50] == dataclasses.replace(attack, num_examples=50).gather()["data"]


def test_fine_tune_is_the_attack_of_figure_3_of_seam() -> None:
    published = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "optim": "adamw_torch",
        "num_examples": 1000,
        "learning_rate": 5e-5,
    }
    defaults = as_mapping(FineTune())
    assert {name: defaults[name] for name in published} == published
