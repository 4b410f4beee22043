"""`rupert fidelity` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.evaluation.gradients.fidelity import WAYS
from rupert.models import loading
from rupert.records import read_record

COMMAND = ["fidelity", "--model", "potionworld"]
SHORT = [*COMMAND, "--ways", "exact float32", "hessian_free bfloat16", "--epsilons", "0.001"]


def test_without_a_folder_it_prints_every_way_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*COMMAND, "--epsilons", "0.001"]) == 0
    table = capsys.readouterr().out
    assert all(way in table for way in WAYS if "tf32" not in way)
    assert "hessian_free bfloat16 0.001" in table
    assert "not usable" in table
    assert "float64" in table
    assert "…" not in table
    assert list(tmp_path.iterdir()) == []


def test_the_same_call_again_shows_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "f"
    assert main([*SHORT, "--json", "--output-dir", str(folder)]) == 0
    printed = {metric["name"]: metric["value"] for metric in json.loads(capsys.readouterr().out)}
    record = read_record(folder)
    assert printed == {metric.name: metric.value for metric in record.metrics}
    assert (record.stage, record.report["reference"]) == ("fidelity", "float64")
    assert record.settings["ways"] == ["exact float32", "hessian_free bfloat16"]
    assert set(record.data) == {"harmful", "benign"}
    assert printed["cosine[exact float32]"] > 0.9999
    assert printed["moved[hessian_free bfloat16 0.001]"] < 0.1
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    assert main([*SHORT, "--output-dir", str(folder)]) == 0
    assert f"{printed['cosine[hessian_free bfloat16 0.001]']:.4f}" in capsys.readouterr().out
    assert main([*COMMAND, "--seed", "1", "--output-dir", str(folder)]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_where_float64_does_not_fit_the_reference_is_float32_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rupert.study.standalone.fidelity.free_memory", lambda _: 2e6)
    assert main([*COMMAND, "--ways", "exact float32", "--output-dir", str(tmp_path / "f")]) == 0
    printed = capsys.readouterr()
    assert "the reference is float32: float64 needs about 0.1 GB, and cpu has 0.0 GB free for it" in printed.err
    assert "in float32" in " ".join(printed.out.split())
    assert read_record(tmp_path / "f").report["reference"] == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--num-rows 0", "num_rows: 0 is not valid; must be above 0"),
        ("--num-rows 400", "potionworld:defender: 335 examples, 400 needed"),
        ("--epsilons 0.1 -0.1", "epsilons: -0.1 is not valid; must be above 0"),
        ("--epsilons small", "--epsilons: 'small' is not valid; give a finite number"),
        ("--ways hessian_fre", "ways: 'hessian_fre' is unknown; did you mean 'hessian_free"),
        ("--ways exact_tf32 --device cpu", "ways: 'exact_tf32' is unknown; did you mean 'exact tf32'?"),
        ("--harmful stand-in", "harmful: 'stand-in' is unknown; did you mean 'stand-ins'?"),
        ("--benign nothing.jsonl", "benign: there is no file 'nothing.jsonl'"),
        ("--reference float16", "--reference: 'float16' is unknown"),
        ("--resume", "--resume: there is no run to go on with; name its folder with --output-dir"),
    ],
)
def test_a_mistake_is_one_line_and_loads_no_model(
    options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    assert main([*COMMAND, *options.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
