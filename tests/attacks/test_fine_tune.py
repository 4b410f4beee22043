"""Harmful fine-tuning: what it draws, and what it is by default."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from rupert.attacks import FineTune, fine_tune
from rupert.data import sources
from rupert.errors import DataError, UsageError
from rupert.models.loading import ModelSettings, load
from rupert.settings import as_mapping, defining

MIXED = {"data": "potionworld:attacker", "benign": "potionworld:benign", "num_examples": 40}


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


@pytest.mark.parametrize(("ratio", "counts"), [(0.05, (2, 38)), (0.5, (20, 20)), (1.0, (40, 0)), (0.0, (0, 40))])
def test_the_ratio_is_the_share_of_harmful_rows(ratio: float, counts: tuple[int, int]) -> None:
    attack = FineTune(**MIXED, poison_ratio=ratio)
    found = attack.gather()
    assert (len(found.get("data", [])), len(found.get("benign", []))) == counts
    assert found.keys() == attack.datasets.keys()
    for use, rows in found.items():
        there = {row.instruction for row in sources.load(attack.datasets[use])}
        assert len({row.instruction for row in rows}) == len(rows)
        assert {row.instruction for row in rows} <= there
    assert found == attack.gather()


def test_a_dataset_of_which_no_row_is_drawn_is_neither_read_nor_checked() -> None:
    nowhere = "nowhere/nothing.jsonl"
    for attack in (FineTune(**MIXED | {"benign": nowhere}), FineTune(**MIXED | {"data": nowhere}, poison_ratio=0.0)):
        attack.check()
        assert nowhere not in attack.datasets.values()
        assert sum(map(len, attack.gather().values())) == 40


def test_rows_of_both_kinds_are_shuffled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[Any]] = []
    monkeypatch.setattr(fine_tune, "fine_tune", lambda _, __, rows, *___: orders.append(list(rows)))
    monkeypatch.setattr(fine_tune, "attacked", lambda _: None)
    loaded: Any = None
    attack = FineTune(**MIXED, poison_ratio=0.5)
    for one in (attack, attack, dataclasses.replace(attack, seed=1), dataclasses.replace(attack, poison_ratio=1.0)):
        one.run(loaded, one.gather())
    first, again, other, plain = orders
    assert first == again
    assert first != other
    assert sorted(map(str, first)) == sorted(map(str, itertools.chain.from_iterable(attack.gather().values())))
    assert first[:20] != attack.gather()["data"]
    assert plain == dataclasses.replace(attack, poison_ratio=1.0).gather()["data"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"poison_ratio": 1.5}, "poison_ratio: 1.5 is not valid; must be from 0.0 to 1.0"),
        ({"poison_ratio": -0.01}, "poison_ratio: -0.01 is not valid; must be from 0.0 to 1.0"),
        ({"poison_ratio": math.nan}, "poison_ratio: nan is not valid; must be from 0.0 to 1.0"),
        ({"poison_ratio": 0.01}, "poison_ratio: 0.01 is not valid; leave rows of both kinds in 40"),
        ({"poison_ratio": 0.99}, "poison_ratio: 0.99 is not valid; leave rows of both kinds in 40"),
    ],
)
def test_a_bad_ratio_is_one_line_before_anything_is_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        FineTune(**MIXED | {"data": "nowhere", "benign": "nowhere"}, **values)
    assert str(caught.value) == message


@pytest.mark.parametrize(("ratio", "name", "count"), [(0.9, "attacker", 900), (0.0, "benign", 90000)])
def test_too_few_rows_of_either_kind_name_the_dataset(ratio: float, name: str, count: int) -> None:
    attack = FineTune(**MIXED | {"num_examples": round(count / max(ratio, 1 - ratio))}, poison_ratio=ratio)
    with pytest.raises(DataError, match=rf"^potionworld:{name}: \d+ examples, {count} needed; add rows"):
        attack.gather()


def test_data_seed_decides_the_order_of_the_same_rows_and_is_the_seed_by_default(potionworld: ModelSettings) -> None:
    def trained(**settings: Any) -> list[torch.Tensor]:
        attack = FineTune(**MIXED | {"num_examples": 12}, max_length=64, **settings)
        result = attack.run(load(potionworld), attack.gather())
        return [parameter.detach() for parameter in result.loaded.model.parameters()]

    def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(*pair) for pair in zip(one, other, strict=True))

    plain = trained(seed=3)
    assert equal(plain, trained(seed=3, data_seed=3))
    assert not equal(plain, trained(seed=3, data_seed=4))
    attack = FineTune(**MIXED)
    assert attack.gather() == dataclasses.replace(attack, data_seed=4).gather()


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


def test_an_attack_is_known_by_what_it_was_known_by_before_it_could_do_more() -> None:
    grown = {"poison_ratio", "benign", "data_seed", "layers_to_transform", "use_dora", "load_in_4bit"}
    assert as_mapping(FineTune()).keys() - defining(FineTune()).keys() == grown
    assert "use_dora" in defining(FineTune(lora=True, use_dora=True))
