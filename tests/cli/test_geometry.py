"""`rupert geometry` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.models import loading

SMALL = ["--num-batches", "3", "--batch-size", "2", "--max-length", "64"]
ATTACK = "data: potionworld:attacker\nnum_examples: 8\nper_device_train_batch_size: 4\nmax_length: 64\n"


def test_two_models_along_an_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = tmp_path / "attack.yaml", tmp_path / "out"
    recipe.write_text(ATTACK)
    command = ["geometry", "--model", "potionworld", "--model", "own=potionworld", "--output-dir", str(folder), *SMALL]
    along = ["--attack", str(recipe), "--at", "0", "2"]
    assert main([*command, *along, "--components", "1", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("potionworld") == printed.count("own") == 2
    assert printed.splitlines()[-1].split()[-1] == str(folder / "geometry.html")
    names = {path.name for path in folder.iterdir()}
    assert names == {"geometry.csv", "geometry.html", "request.json", "result.json"}
    page = (folder / "geometry.html").read_text()
    typed = f"rupert geometry --model potionworld=potionworld --model own=potionworld {' '.join(SMALL[:4])}"
    assert typed in page
    assert f"--max-length 64 --components 1 3 --attack {recipe} --at 0 2 --output-dir {folder}" in page
    (folder / "geometry.html").unlink()
    assert main([*command, *along, "--components", "1", "3", "--json"]) == 0
    metrics = {metric["name"]: metric for metric in json.loads(capsys.readouterr().out)}
    assert metrics["cosine_between/own/2"]["n"] == 6
    assert (folder / "geometry.html").read_text() == page


def test_a_folder_is_called_by_its_last_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a=b"  # a folder whatever its name looks like
    folder.symlink_to(loading.POTIONWORLD_FOLDER)
    out = tmp_path / "out"
    command = ["geometry", "--model", str(folder), "--projection", "random", "--output-dir", str(out), "--json"]
    assert main([*command, *SMALL]) == 0
    assert {metric["name"].split("/")[1] for metric in json.loads(capsys.readouterr().out)} == {"a=b"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "--model is missing; name potionworld"),
        ("--model potionwordl", "--model: 'potionwordl' is unknown; did you mean 'potionworld'?"),
        ("--model base=potionwordl", "--model: 'potionwordl' is unknown; did you mean 'potionworld'?"),
        ("--model potionworld --model potionworld", "two are called 'potionworld'; write --model NAME=potionworld"),
        ("--model potionworld --components 2 9 --num-batches 3", "3 batches of each group have components 1 to 5"),
        ("--model potionworld --components 2", "components: (2,) is not valid; name two different ones"),
        ("--model potionworld --num-batches 500", "num_batches: 500 is not valid; potionworld:attacker has rows for"),
        ("--model potionworld --harmful potionworld:attack", "did you mean 'attacker'?"),
        ("--model potionworld --projection sparse", "--projection: 'sparse' is unknown; valid: gram, random"),
        ("--model potionworld --at 3", "--at: there is no attack to go along; name one with --attack"),
        ("--model potionworld --attack attack.yaml", "--at is missing"),
        ("--model potionworld --attack attack.yaml --at soon", "--at: 'soon' is not valid; give a whole number"),
        ("--model potionworld --attack attack.yaml --at 3", "at: 3 is not valid; the attack has 2 steps"),
        ("--model potionworld --attack atack --at 1", "--attack: 'atack' is unknown"),
        ("--model potionworld --memory-gb 0", "memory_gb: 0.0 is not valid; must be above 0"),
        ("--model potionworld --memory-gb much", "--memory-gb: invalid float value: 'much'"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    Path("attack.yaml").write_text(ATTACK)
    assert main(["geometry", *command.split(), "--output-dir", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("out").exists()
