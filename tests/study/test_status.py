"""How far a study is, by its store: every state that a stage can be in, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.errors import FolderError
from rupert.records import RESULT_FILE
from rupert.study.running.launched import ERROR_FILE
from rupert.study.running.progress import file_listener
from rupert.study.store import Store
from rupert.study.survey.status import StageStatus, status
from rupert.terminal import Progress


def only(folder: Path, kind: str) -> Path:
    (place,) = (folder / kind).iterdir()
    return place


def identity(place: Path) -> str:
    return str(json.loads((place / "request.json").read_text())["identity"])


def take_out(place: Path) -> Path:
    """As if the work on a stage had been interrupted just before its record was written."""
    working = Store(place.parents[1]).working(place.parent.name, identity(place))
    place.rename(working)
    (working / RESULT_FILE).unlink()
    return working


def states(folder: Path) -> dict[str, str]:
    return {f"{stage.kind} {stage.label}": stage.state for stage in status(folder).stages}


def stage(folder: Path, kind: str) -> StageStatus:
    (found,) = (found for found in status(folder).stages if found.kind == kind)
    return found


def test_a_study_that_is_done_is_done(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(store_folder) == {
        "defend sdd-seed0": "done",
        "evaluate sdd-none-seed0": "done",
        "attack sdd-fine_tune-seed0": "done",
        "evaluate sdd-fine_tune-seed0": "done",
    }
    assert main(["status", str(store_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: 4 of 4 stages are done"
    assert lines[-1].split() == ["all", "4", "4"]
    assert max(map(len, lines)) <= 80


def test_nothing_is_written(store_folder: Path) -> None:
    take_out(only(store_folder, "attack"))
    before = {path: path.lstat() for path in [store_folder, *store_folder.rglob("*")]}
    status(store_folder)
    after = {path: path.lstat() for path in [store_folder, *store_folder.rglob("*")]}
    assert {path: found.st_mtime_ns for path, found in after.items()} == {
        path: found.st_mtime_ns for path, found in before.items()
    }


def test_what_works_on_a_stage_that_is_gone_waits(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(only(store_folder, "defend"))
    assert states(store_folder) == {
        "defend sdd-seed0": "to do",
        "evaluate sdd-none-seed0": "waiting",
        "attack sdd-fine_tune-seed0": "waiting",
        "evaluate sdd-fine_tune-seed0": "waiting",
    }
    assert main(["status", str(store_folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "to go on: repeat the `rupert run` command of tiny"


def test_an_interrupted_stage_says_how_far_it_was(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = only(store_folder, "attack")
    progress = Store(store_folder).progress("attack", identity(place))
    take_out(place)
    file_listener(progress)(Progress("attacking", 3, 20, "loss 1.25"))
    assert stage(store_folder, "attack").state == "interrupted"
    assert stage(store_folder, "attack").progress == Progress("attacking", 3.0, 20.0, "loss 1.25")
    assert main(["status", str(store_folder)]) == 0
    assert "interrupted attack sdd-fine_tune-seed0: attacking 3/20 loss 1.25\n" in capsys.readouterr().out


def test_a_stage_that_somebody_holds_is_running(store_folder: Path) -> None:
    place = only(store_folder, "attack")
    held = identity(place)
    (take_out(place) / ERROR_FILE).write_text("of the last time")
    with Store(store_folder).lock(held) as mine:
        assert mine
        assert stage(store_folder, "attack").state == "running"
    assert stage(store_folder, "attack").state == "failed"


def test_a_failed_stage_says_why(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    working = take_out(only(store_folder, "attack"))
    (working / ERROR_FILE).write_text("Traceback\n  File\nRuntimeError: out of [red]memory\x1b[2J\n")
    assert stage(store_folder, "attack").message == "RuntimeError: out of [red]memory\x1b[2J"
    assert main(["status", str(store_folder)]) == 0
    text = capsys.readouterr().out
    assert "failed attack sdd-fine_tune-seed0: RuntimeError: out of [red]memory\\x1b[2J\n" in text
    assert "\x1b" not in text


def test_a_damaged_stage_is_not_done(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = only(store_folder, "attack")
    (place / RESULT_FILE).write_text("{")
    (store_folder / "damaged" / "defend-old-0123456789ab-1").mkdir(parents=True)
    assert stage(store_folder, "attack").state == "damaged"
    assert main(["status", str(store_folder)]) == 0
    text = capsys.readouterr().out
    assert f"damaged attack sdd-fine_tune-seed0: {place}\n" in text
    assert f"damaged, not used: {store_folder / 'damaged' / 'defend-old-0123456789ab-1'}\n" in text


def test_json_has_every_stage(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(store_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == "tiny"
    done = {"state": "done", "progress": None, "message": ""}
    assert found["stages"][0] == {"kind": "defend", "label": "sdd-seed0"} | done
    assert len(found["stages"]) == 4


def test_another_folder_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FolderError):
        status(tmp_path)
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"rupert: {str(tmp_path)!r} holds no study; name the folder of `rupert run`\n"
