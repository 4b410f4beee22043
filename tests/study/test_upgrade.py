"""Stores of earlier versions: what the first one wrote is read, recognized where it still holds, and never deleted.

`first_store` is what `rupert run` of the first version that had stores left of the demo with one step of the attack and
`limit: 2`, without weights and tokenizers, which are Potionworld's own. `before_stores` is a part of what the version
before left.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.models.loading import POTIONWORLD_FOLDER
from rupert.records import RESULT_FILE, Metric, read_record, write_json
from rupert.report.tables import read_csv
from rupert.study.store import KINDS

FIRST = Path(__file__).parent / "first_store"
BEFORE = Path(__file__).parent / "before_stores"
STUDY = """
extends: demo
defenses: {seam: drop, sdd: drop}
pairs_of: ""
attacks: {fine_tune: {learning_rate: 1e-3, num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 2}
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The first store, with what was left out of it."""
    folder = Path(shutil.copytree(FIRST, tmp_path / "store"))
    for stage in (*folder.glob("defend/*"), *folder.glob("attack/*")):
        shutil.copy(POTIONWORLD_FOLDER / "tokenizer.json", stage)
    shutil.copy(POTIONWORLD_FOLDER / "model.safetensors", next(folder.glob("defend/*")))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store's stages."""
    files = [path for kind in KINDS for path in (folder / kind).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_record_of_the_first_shape_is_read(tmp_path: Path) -> None:
    """It had neither `output_hash` nor `report`."""
    raw = {
        "stage": "evaluate",
        "method": "suite",
        "settings": {"limit": 2},
        "model": "potionworld",
        "model_hash": "0a",
        "data": {"requests": "0b"},
        "metrics": [{"name": "harm", "value": 0.5, "low": 0.1, "high": 0.9, "n": 2}],
        "seconds": 1.5,
        "environment": {"python": "3.11"},
        "version": 1,
    }
    write_json(raw, tmp_path / RESULT_FILE)
    record = read_record(tmp_path)
    assert record.metric("harm") == Metric("harm", 0.5, 0.1, 0.9, 2)
    assert (record.output_hash, record.report) == ("", {})


def test_every_record_of_the_first_store_is_read() -> None:
    records = [read_record(path.parent) for path in FIRST.rglob(RESULT_FILE)]
    assert sorted(record.stage for record in records) == ["attack", "defend", "evaluate", "evaluate"]
    assert {row.metric: row.value for row in read_csv(FIRST / "results.csv") if row.attack == "fine_tune"}["harm"] == 1


def test_its_status_is_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store)
    assert main(["status", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    states = sorted((stage["kind"], stage["state"]) for stage in told["stages"])
    # Fine-tuning leaves padding out since, and the oracle takes more for harm: neither is taken for what it is now.
    assert states == [("attack", "to do"), ("defend", "done"), ("evaluate", "to do"), ("evaluate", "waiting")]
    assert contents(store) == before


def test_its_numbers_are_reported(store: Path) -> None:
    before = contents(store)
    assert main(["report", str(store)]) == 0
    assert "fine_tune" in (store / "report.html").read_text(encoding="utf-8")
    assert contents(store) == before


def test_a_run_goes_on_from_it_and_deletes_nothing(store: Path, tmp_path: Path) -> None:
    before = contents(store)
    (tmp_path / "first.yaml").write_text(STUDY)
    assert main(["run", str(tmp_path / "first.yaml"), "--output-dir", str(store)]) == 0
    after = contents(store)
    assert {name: after.get(name) for name in before} == before
    new = {name.rpartition("/")[0] for name in after.keys() - before.keys() if name.endswith(RESULT_FILE)}
    assert sorted(name.partition("-")[0] for name in new) == ["attack/none", "evaluate/none", "evaluate/none"]
    assert {row.metric: row.value for row in read_csv(store / "results.csv") if row.attack == "fine_tune"}["harm"] == 1


def test_weights_that_are_missing_are_made_again(store: Path, tmp_path: Path) -> None:
    """What stood in their place is set aside, not deleted."""
    for path in store.glob("defend/*/model.safetensors"):
        path.unlink()
    before = contents(store)
    (tmp_path / "first.yaml").write_text(STUDY)
    assert main(["run", str(tmp_path / "first.yaml"), "--output-dir", str(store)]) == 0
    kept = {path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert set(before.values()) <= kept
    assert len(list(store.glob("defend/*/model.safetensors"))) == 1


def test_a_study_from_before_there_were_stores_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(BEFORE, tmp_path / "old"))
    (tmp_path / "first.yaml").write_text(STUDY)
    before = contents(folder)
    for command in (["status", str(folder)], ["run", str(tmp_path / "first.yaml"), "--output-dir", str(folder)]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"{str(folder)!r} holds a study of a rupert that had no stores; run it again in a new folder" in told
    assert contents(folder) == before
    assert not (folder / "study.json").exists()
    stage = str(next(folder.glob("evaluate/*")))
    assert main(["diff", stage, stage]) == 0
    assert "no difference" in capsys.readouterr().out
