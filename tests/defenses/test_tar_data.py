"""What TAR draws its rows from, and which settings it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rupert.data import sources
from rupert.data.examples import write_jsonl
from rupert.defenses import TAR
from rupert.errors import DataError, UsageError
from rupert.settings import as_mapping

from .tar_by_hand import SPECS


def test_no_attack_sees_what_is_held_out() -> None:
    gathered = TAR(harmful=SPECS["harmful"], benign=SPECS["benign"]).gather()
    streams = {name: {example.instruction for example in found} for name, found in gathered.streams.items()}
    every = {example.instruction for example in sources.load(SPECS["harmful"])}
    assert streams["harmful"] | streams["held_out"] == every
    assert not {id(e) for e in gathered.streams["harmful"]} & {id(e) for e in gathered.streams["held_out"]}
    counts = {name: len(gathered.streams[name]) for name in ("harmful", "held_out")}
    assert counts == {"harmful": 268, "held_out": 67}


def test_too_few_rows_to_hold_any_back_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    write_jsonl(sources.load(SPECS["harmful"])[:20], file)
    with pytest.raises(DataError, match=r"^held_out: .*few.jsonl: 4 examples, 8 needed; add rows or ask for fewer$"):
        TAR(harmful=str(file), benign=SPECS["benign"]).gather()


def test_streams_and_datasets_are_those_that_are_used() -> None:
    assert TAR().streams == {"harmful": 512, "held_out": 8, "benign": 8, "attack_benign": 512}
    assert TAR(switch_share=0.0).streams.keys() == {"harmful", "held_out", "benign"}
    preferring = TAR(tamper_resistance="preference")
    assert preferring.streams["alignment"] == 8
    assert preferring.datasets.keys() - TAR().datasets.keys() == {"alignment"}


def test_defaults_are_the_papers() -> None:
    paper = {
        "held_out_share": 0.2,
        "inner_steps": 64,
        "attack_learning_rates": [2e-6, 2e-5, 4e-5],
        "switch_share": 1 / 3,
        "switch_alpha": 6.0,
        "switch_beta": 3.0,
        "resist_every": 4,
        "schedule_lambda": 0.0625,
        "tamper_resistance": "entropy",
        "preference_beta": 0.1,
        "tamper_weight": 4.0,
        "retain": "representations",
        "retain_weight": 1.0,
        "max_steps": 750,
        "learning_rate": 2e-5,
        "per_device_train_batch_size": 8,
        "warmup_steps": 32.0,
        "max_length": 256,
    }
    defaults = as_mapping(TAR())
    assert {name: defaults[name] for name in paper} == paper


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner_steps": 0}, "inner_steps: 0 is not valid; must be above 0"),
        ({"resist_every": 65}, "resist_every: 65 is not valid; must be at most inner_steps, 64"),
        ({"attack_learning_rates": ()}, "attack_learning_rates: () is not valid; give at least one"),
        ({"attack_learning_rates": (1e-5, 0.0)}, "attack_learning_rates: 0.0 is not valid; must be above 0"),
        ({"switch_share": 1.5}, "switch_share: 1.5 is not valid; must be from 0.0 to 1.0"),
        ({"switch_beta": 0.0}, "switch_beta: 0.0 is not valid; must be above 0"),
        ({"held_out_share": 1.0}, "held_out_share: 1.0 is not valid; must be between 0 and 1"),
        ({"schedule_lambda": -0.1}, "schedule_lambda: -0.1 is not valid; must be 0 or above"),
        ({"retain": "mse"}, "retain: 'mse' is unknown; valid: language_model, representations"),
    ],
)
def test_what_cannot_be_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TAR(**values)
    assert str(caught.value) == message
