"""What a store's study does not need: it is found, it alone is deleted, and nothing that is somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.errors import FolderError
from rupert.folders import REQUEST_FILE
from rupert.records import RESULT_FILE
from rupert.study.definition.study import Study, describe
from rupert.study.running.launched import ERROR_FILE
from rupert.study.store import RUNS, Store
from rupert.study.survey.garbage import Found, delete, find
from rupert.study.survey.status import status

STALE = "0123456789ab" + "c" * 52  # an identity that no stage has


def changed(folder: Path, change: Callable[[Study], Study]) -> None:
    """As if another study had been run in the folder since."""
    store = Store(folder)
    store.open(describe(change(store.study())))


def asks_more(study: Study) -> Study:
    return replace(study, evaluation=replace(study.evaluation, limit=5))


def only(folder: Path, kind: str) -> Path:
    (place,) = (folder / kind).iterdir()
    return place


def identity(place: Path) -> str:
    return str(json.loads((place / REQUEST_FILE).read_text())["identity"])


def made(folder: Path, held: str = STALE) -> Path:
    """A folder of a stage that the study does not have."""
    folder.mkdir(parents=True)
    (folder / REQUEST_FILE).write_text(json.dumps({"identity": held}))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


def names(found: Found, folder: Path) -> list[str]:
    return [str(one.path.relative_to(folder)) for one in found.garbage]


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_a_study_that_is_done_needs_all_it_has(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find(store_folder) == Found((), ())
    assert main(["gc", str(store_folder), "--delete"]) == 0
    assert capsys.readouterr().out == "0 bytes deleted\n"
    assert {stage.state for stage in status(store_folder).stages} == {"done"}


def test_stages_of_a_study_before_are_listed_and_then_deleted(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = sorted(f"evaluate/{path.name}" for path in (store_folder / "evaluate").iterdir())
    changed(store_folder, asks_more)
    before = snapshot(store_folder)
    found = find(store_folder)
    assert names(found, store_folder) == evaluations
    files = [path for path in (store_folder / "evaluate").rglob("*") if path.is_file()]
    assert sum(one.size for one in found.garbage) == sum(path.stat().st_size for path in files)
    assert main(["gc", str(store_folder)]) == 0
    assert "can be deleted; add --delete" in capsys.readouterr().out
    assert snapshot(store_folder) == before
    locks = set((store_folder / "locks").iterdir())
    assert main(["gc", str(store_folder), "--delete"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" deleted")
    assert [list((store_folder / place).iterdir()) for place in ("evaluate", "damaged")] == [[], []]
    assert {stage.state for stage in status(store_folder).stages if stage.kind != "evaluate"} == {"done"}
    assert locks <= set((store_folder / "locks").iterdir())


def test_what_has_no_identity_yet_is_kept_by_its_label(store_folder: Path) -> None:
    shutil.rmtree(only(store_folder, "defend"))
    made(store_folder / "attack" / f"sdd-fine_tune-seed0-{STALE[:12]}")
    made(store_folder / "attack" / f"other-seed0-{STALE[:12]}")
    made(store_folder / "working" / f"attack-{STALE[:12]}")
    assert names(find(store_folder), store_folder) == [f"attack/other-seed0-{STALE[:12]}"]


def test_nothing_that_a_link_leads_to_is_deleted(store_folder: Path, tmp_path: Path) -> None:
    outside = made(tmp_path / "outside")
    (store_folder / "defend" / f"linked-{STALE[:12]}").symlink_to(outside)
    (store_folder / "working" / f"defend-{STALE[:12]}").symlink_to(outside)
    (store_folder / "damaged").mkdir()
    (store_folder / "damaged" / f"defend-linked-{STALE[:12]}-1").symlink_to(outside)
    (store_folder / "score").rmdir()
    (store_folder / "score").symlink_to(tmp_path / "elsewhere")
    elsewhere = made(tmp_path / "elsewhere" / f"task-{STALE[:12]}")
    within = made(store_folder / "defend" / f"old-{STALE[:12]}")
    (within / "folder").symlink_to(outside)
    (within / "file").symlink_to(outside / REQUEST_FILE)
    found, left = delete(store_folder)
    assert names(found, store_folder) == [f"defend/{within.name}"]
    assert left == ()
    assert not within.exists()
    assert {path.name for path in outside.iterdir()} == {path.name for path in elsewhere.iterdir()}
    assert [str(path.relative_to(store_folder)) for path in found.foreign] == [
        f"defend/linked-{STALE[:12]}",
        "score",
        f"working/defend-{STALE[:12]}",
        f"damaged/defend-linked-{STALE[:12]}-1",
    ]


def test_what_rupert_did_not_make_is_named_and_left(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store_folder / "attack" / "notes.txt").write_text("mine")
    (store_folder / "attack" / f"mine-{STALE[:12]}").mkdir()
    made(store_folder / "attack" / "no-identity")
    made(store_folder / "attack" / "another-ffffffffffff")
    damaged = made(store_folder / "attack" / f"unreadable-{STALE[:12]}")
    (damaged / REQUEST_FILE).write_text("{")
    (store_folder / "working" / f"attack-{STALE[:12]}.json").write_text("{}")  # of a stage that was never locked
    before = snapshot(store_folder / "attack") | snapshot(store_folder / "working")
    assert main(["gc", str(store_folder), "--delete"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("not made by rupert, left: attack/") for line in lines) == 5
    assert f"not made by rupert, left: working/attack-{STALE[:12]}.json" in lines
    assert lines[-1] == "0 bytes deleted"
    assert snapshot(store_folder / "attack") | snapshot(store_folder / "working") == before


def test_a_stage_that_somebody_works_on_is_no_garbage(store_folder: Path) -> None:
    place = made(store_folder / "defend" / f"old-{STALE[:12]}")
    working = made(store_folder / "working" / f"attack-{STALE[:12]}")
    with Store(store_folder).lock(STALE):
        assert delete(store_folder) == (Found((), ()), ())
    assert len(find(store_folder).garbage) == 2
    with Store(store_folder).lock(STALE, shared=True):  # as whoever measures an attacked model does
        found, left = delete(store_folder)
    assert left == found.garbage
    assert place.exists()
    assert working.exists()


def test_nothing_is_deleted_while_a_study_is_run(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = made(store_folder / "defend" / f"old-{STALE[:12]}")
    with Store(store_folder).lock(RUNS, shared=True):
        assert len(find(store_folder).garbage) == 1
        assert main(["gc", str(store_folder), "--delete"]) == 2
    assert "a study is being run in it; repeat the command when it is done" in capsys.readouterr().err
    assert place.exists()


def test_what_was_begun_for_no_stage_is_deleted(store_folder: Path) -> None:
    working = store_folder / "working"
    with Store(store_folder).lock(STALE):
        pass  # which leaves the lock file that tells whose news these are
    made(working / f"evaluate-{STALE[:12]}")
    (working / f"evaluate-{STALE[:12]}.json").write_text("{}")
    (working / f"attack-{STALE[:12]}").mkdir()
    (working / f"attack-{STALE[:12]}" / ERROR_FILE).write_text("it failed")
    attacked = only(store_folder, "attack")
    made(working / f"restore-{identity(attacked)[:12]}", identity(attacked))
    assert len(delete(store_folder)[0].garbage) == 4
    assert list(working.iterdir()) == []


def test_what_the_study_goes_on_from_is_kept(store_folder: Path) -> None:
    attacked = only(store_folder, "attack")
    store, held = Store(store_folder), identity(attacked)
    attacked.rename(store.working("attack", held))
    (store.working("attack", held) / RESULT_FILE).unlink()
    store.progress("attack", held).write_text("{}")
    assert find(store_folder) == Found((), ())


def test_what_was_found_damaged_is_deleted(store_folder: Path) -> None:
    place = made(store_folder / "defend" / f"sdd-seed0-{STALE[:12]}")
    (place / REQUEST_FILE).write_text("{")
    kept = Store(store_folder).set_aside(place)
    (store_folder / "damaged" / "mine").mkdir()
    found, _ = delete(store_folder)
    assert names(found, store_folder) == [f"damaged/{kept.name}"]
    assert [path.name for path in (store_folder / "damaged").iterdir()] == ["mine"]


def with_weights(folder: Path) -> Path:
    """As if the study had been killed before it dropped the weights of the attacked model."""
    attacked = only(folder, "attack")
    written = (attacked / RESULT_FILE).stat().st_mtime_ns
    shutil.copy(only(folder, "defend") / "model.safetensors", attacked)
    os.utime(attacked / "model.safetensors", ns=(written, written))
    return attacked


def test_weights_that_are_measured_are_deleted_alone(store_folder: Path) -> None:
    attacked = with_weights(store_folder)
    others = {path.name for path in attacked.iterdir()} - {"model.safetensors"}
    found, _ = delete(store_folder)
    assert names(found, store_folder) == [f"attack/{attacked.name}"]
    assert found.garbage[0].size == (only(store_folder, "defend") / "model.safetensors").stat().st_size
    assert {path.name for path in attacked.iterdir()} == others
    assert {stage.state for stage in status(store_folder).stages} == {"done"}


def test_weights_that_are_kept_or_not_measured_are_needed(store_folder: Path) -> None:
    with_weights(store_folder)
    changed(store_folder, lambda study: replace(study, attacked="keep"))
    assert find(store_folder) == Found((), ())
    changed(store_folder, lambda study: asks_more(replace(study, attacked="drop")))
    assert all(one.path.parent.name == "evaluate" for one in find(store_folder).garbage)


def test_weights_outside_the_store_are_left(store_folder: Path, tmp_path: Path) -> None:
    with_weights(store_folder)
    (store_folder / "attack").rename(tmp_path / "outside")
    (store_folder / "attack").symlink_to(tmp_path / "outside")
    assert delete(store_folder) == (Found((), (store_folder / "attack",)), ())
    assert (only(tmp_path, "outside") / "model.safetensors").exists()
    (store_folder / "damaged").symlink_to(tmp_path)
    with pytest.raises(FolderError, match="is a link, and nothing outside is deleted; put a folder there"):
        delete(store_folder)


def test_another_folder_is_not_looked_through(tmp_path: Path) -> None:
    made(tmp_path / "defend" / f"old-{STALE[:12]}")
    with pytest.raises(FolderError, match="holds no study"):
        delete(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["defend"]
