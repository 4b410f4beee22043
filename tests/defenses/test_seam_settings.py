"""SEAM's settings: the paper's defaults, what they refuse in one line, and the data that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rupert.data import sources
from rupert.data.examples import write_jsonl
from rupert.defenses import SEAM
from rupert.defenses.seam import ROUGH
from rupert.errors import DataError, UsageError
from rupert.models.loading import LoadedModel
from rupert.settings import as_mapping

Tiny = Callable[..., LoadedModel]

SPECS = {"harmful": "potionworld:defender", "alignment": "potionworld:refusals", "benign": "potionworld:benign"}


def test_defaults_are_the_papers() -> None:
    defaults = as_mapping(SEAM())
    paper = {
        "harmful": "beavertails-refusals:unsafe",
        "alignment": "beavertails-refusals:refusals",
        "benign": "alpaca-cleaned",
        "alpha": 1.0,
        "beta": 0.01,
        "epsilon": 1e-3,
        "unlearning": "layer_wise",
        "central_differences": False,
        "max_steps": 2000,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "max_length": 256,
    }
    ours = {
        "gradient": "exact",  # the paper's is hessian_free
        "unlearning_weight": 1.0,
        "unlearning_layers": None,
        "alignment_benign_share": 0.0,
    }
    assert {name: defaults[name] for name in paper | ours} == paper | ours
    assert defaults["max_steps"] * defaults["per_device_train_batch_size"] == 8000  # one epoch


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: 0.0 is not valid; must be above 0"),
        ({"epsilon": -1e-3}, "epsilon: -0.001 is not valid; must be above 0"),
        ({"alpha": -1.0}, "alpha: -1.0 is not valid; must be 0 or above"),
        ({"beta": -0.01}, "beta: -0.01 is not valid; must be 0 or above"),
        ({"unlearning_weight": -1.0}, "unlearning_weight: -1.0 is not valid; must be 0 or above"),
        ({"max_steps": 0}, "max_steps: 0 is not valid; must be above 0"),
        ({"unlearning_layers": 0}, "unlearning_layers: 0 is not valid; must be above 0"),
        (
            {"unlearning_layers": 2, "unlearning": "plain"},
            "unlearning_layers: 2 is not valid; it needs unlearning: layer_wise",
        ),
        ({"alignment_benign_share": 1.5}, "alignment_benign_share: 1.5 is not valid; must be from 0.0 to 1.0"),
        ({"alignment_benign_share": 0.1}, "alignment_benign_share: 0.1 is not valid; leave rows of both kinds in 4"),
        ({"alignment_benign_share": 0.9}, "alignment_benign_share: 0.9 is not valid; leave rows of both kinds in 4"),
        (
            {"gradient": "hessian_free", "central_differences": True, "bf16": True},
            "epsilon: 0.001 is not valid; with bf16 it has to be at least 0.01; 0.03 fits",
        ),
        ({"central_differences": True}, "central_differences: True is not valid; it needs gradient: hessian_free"),
        (
            {"gradient": "hessian_free", "bf16": True},
            "bf16: True is not valid; its rounding drowns the differences; use gradient: exact, or central_differences",
        ),
        ({"gradient": "exakt"}, "gradient: 'exakt' is unknown; did you mean 'exact'?"),
        ({"unlearning": "plane"}, "unlearning: 'plane' is unknown; did you mean 'plain'?"),
    ],
)
def test_a_bad_value_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SEAM(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "streams"),
    [
        ({}, {"harmful": 4, "alignment": 4, "benign": 4}),
        ({"gradient_accumulation_steps": 2}, {"harmful": 8, "alignment": 8, "benign": 8}),
        ({"alignment_benign_share": 0.25}, {"harmful": 4, "alignment": 3, "benign": 4, "alignment_benign": 1}),
    ],
)
def test_benign_rows_take_their_share_of_the_alignment(settings: dict[str, Any], streams: dict[str, int]) -> None:
    assert SEAM(**settings).streams == streams


@pytest.mark.parametrize("field", ["harmful", "alignment", "benign"])
def test_fewer_rows_than_a_step_draws_are_one_line(field: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(sources.load("potionworld:defender")[:3], path)
    with pytest.raises(DataError) as caught:
        SEAM(**SPECS | {field: str(path)}).gather()
    assert str(caught.value) == f"{field}: {path}: 3 examples, 4 needed; add rows or ask for fewer"


def test_mixed_rows_are_drawn_from_the_benign_dataset() -> None:
    expected = {name: sources.load(spec) for name, spec in SPECS.items()}
    assert SEAM(**SPECS).gather().streams == expected
    mixed = SEAM(**SPECS, alignment_benign_share=0.5).gather().streams
    assert mixed == expected | {"alignment_benign": expected["benign"]}


@pytest.mark.parametrize("field", ["harmful", "alignment", "benign"])
def test_a_dataset_that_does_not_exist_is_found_before_anything_is_loaded(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sources, "load", load)
    with pytest.raises(UsageError) as caught:
        SEAM(**SPECS | {field: "gone.jsonl"}).check()
    assert str(caught.value) == f"{field}: there is no file 'gone.jsonl'; check the path"


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"gradient": "hessian_free", "central_differences": True, "bf16": True, "epsilon": 0.03}, True),
        ({"gradient": "hessian_free", "central_differences": True}, False),
        ({"bf16": True}, False),
    ],
)
def test_warns_of_differences_in_bfloat16(
    tiny: Tiny, settings: dict[str, Any], warns: bool, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    SEAM(**settings).start(tiny().model)
    printed = capsys.readouterr()
    assert " ".join(printed.err.split()) == (ROUGH if warns else "")
    assert printed.out == ""


@pytest.mark.parametrize(("implementation", "warns"), [("flash_attention_2", True), ("sdpa", False), ("eager", False)])
def test_says_that_it_takes_another_attention(
    tiny: Tiny, implementation: str, warns: bool, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny().model
    model.config._attn_implementation = implementation
    SEAM().start(model)
    SEAM(gradient="hessian_free").start(model)
    expected = "attention 'flash_attention_2' has no second derivative; SEAM's exact gradient takes eager instead"
    assert " ".join(capsys.readouterr().err.split()) == (expected if warns else "")
