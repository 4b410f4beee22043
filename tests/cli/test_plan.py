"""`rupert plan`: a table of 80 columns, JSON, and what it says of what does not fit."""

from __future__ import annotations

import json

import pytest

from rupert.cli.main import main

A100 = ("--device", "A100-80GB")


def test_a_study_that_fits_is_shown_in_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", *A100]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("peak memory", "judge tokens", "attack fine_tune", "2nd order", "at most", "40%", "in all"):
        assert word in shown
    assert "TOO BIG" not in shown


def test_what_does_not_fit_is_one_line_a_kind_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seam-figure-2", *A100]) == 2
    found = capsys.readouterr()
    assert "TOO BIG" in found.out
    [complaint] = found.err.splitlines()
    assert complaint.startswith("rupert: defend seam: ")
    assert complaint.endswith("would fit: lora=true or model.device=auto --gpus 2")


def test_words_override_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seam-figure-2", "defenses.seam.lora=true", *A100]) == 0
    assert "TOO BIG" not in capsys.readouterr().out


def test_json_has_every_part_of_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seam-figure-2", "model.device=auto", *A100, "--gpus", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 6_738_415_616
    for line in found["lines"]:
        assert line["fits"]
        assert line["peak_memory"] == sum(line["estimate"]["memory"].values()) <= found["usable_memory"]
    assert found["setup"]["gpus"] == 8


def test_sharding_that_is_refused_is_told_whatever_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seam-figure-2", *A100, "--gpus", "8", "--sharding", "fsdp2"]) == 2
    found = capsys.readouterr()
    assert "REFUSED" in found.out
    assert "sharded weights have no second derivative" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "A100-800GB"], "did you mean 'A100-80GB'"),
        (["--gpus", "0"], "--gpus: 0 is not valid; must be above 0"),
        (["--sharding", "fsdp"], "did you mean 'fsdp2'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
