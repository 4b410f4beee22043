"""What a study's folder says of its numbers: all of it, as far as it is done, and without its model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rupert.data import sources
from rupert.errors import DataError, FolderError, UsageError
from rupert.evidence import Evidence, MeasuredCell
from rupert.models import loading
from rupert.records import Record, read_record
from rupert.study.evidence import begin, evidence, verified
from rupert.study.evidence.curves import curves
from rupert.study.running.launched import ERROR_FILE
from rupert.study.store import Store


@pytest.fixture(autouse=True)
def no_model(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("loaded a model"))


def only(folder: Path, kind: str, label: str = "") -> Path:
    (place,) = (place for place in (folder / kind).iterdir() if place.name.startswith(label))
    return place


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    how(raw)
    path.write_text(json.dumps(raw))


def cell(found: Evidence, attack: str) -> MeasuredCell:
    (one,) = (one for one in found.cells if one.attack == attack)
    return one


def test_rows_are_the_numbers_of_the_evaluations(store_folder: Path) -> None:
    found = evidence(store_folder)
    assert [one.name for one in found.cells] == ["sdd / none / seed 0", "sdd / fine_tune / seed 0"]
    assert found.missing == ()
    for one in found.cells:
        record = read_record(only(store_folder, "evaluate", f"sdd-{one.attack}"))
        all_rows = {row.metric: row for row in found.all_rows if row.attack == one.attack}
        assert list(all_rows) == [metric.name for metric in record.metrics]
        for metric in record.metrics:
            row = all_rows[metric.name]
            assert (row.value, row.low, row.high, row.n) == (metric.value, metric.low, metric.high, metric.n)
    assert set(found.rows) < set(found.all_rows)
    assert {"harm", "ability"} <= {row.metric for row in found.rows}
    assert {(row.study, row.model, row.defense, row.seed) for row in found.all_rows} == {
        ("tiny", "potionworld", "sdd", 0)
    }


def test_every_number_says_where_it_comes_from(store_folder: Path) -> None:
    hardening, attack, evaluation = cell(evidence(store_folder), "fine_tune").origins
    assert [origin.kind for origin in (hardening, attack, evaluation)] == ["defend", "attack", "evaluate"]
    assert [origin.label for origin in (hardening, attack)] == ["sdd-seed0", "sdd-fine_tune-seed0"]
    for origin in (hardening, attack, evaluation):
        place = store_folder / origin.folder
        assert origin.identity == json.loads((place / "request.json").read_text())["identity"]
        assert origin.record == read_record(place)
        assert origin.seed == 0
        assert origin.is_current
    assert attack.record.model_hash == hardening.record.output_hash
    assert evaluation.record.model_hash == attack.record.output_hash
    (loss,) = (curve for curve in hardening.curves if curve.name == "loss")
    assert loss.steps == (1,)
    assert loss.values == (hardening.record.report["history"][0]["loss"],)
    assert attack.command.startswith("rupert attack fine_tune --model again/defend-sdd-seed0 ")


def test_of_a_study_that_is_not_finished_what_is_missing_is_named(store_folder: Path) -> None:
    attack = only(store_folder, "attack")
    identity = json.loads((attack / "request.json").read_text())["identity"]
    shutil.rmtree(only(store_folder, "evaluate", "sdd-fine_tune"))
    working = Store(store_folder).working("attack", identity)
    attack.rename(working)
    (working / "result.json").unlink()
    (working / ERROR_FILE).write_text("out of memory")
    found = evidence(store_folder)
    assert cell(found, "fine_tune").missing == (
        "attack sdd-fine_tune-seed0: failed: out of memory",
        "evaluate sdd-fine_tune-seed0: waiting",
    )
    assert cell(found, "fine_tune").metrics == ()
    assert [origin.kind for origin in cell(found, "fine_tune").origins] == ["defend"]
    assert {row.attack for row in found.rows} == {"none"}


def test_an_empty_study_has_no_rows(tmp_path: Path, tiny_run: Path) -> None:
    begin(Store(tiny_run).study(), "rupert run tiny seeds=[0]", tmp_path / "new")
    found = evidence(tmp_path / "new")
    assert found.rows == ()
    assert len(found.missing) == len(found.cells) == 2
    assert found.command == "rupert run tiny seeds=[0]"


def test_a_damaged_record_is_no_evidence(store_folder: Path) -> None:
    (only(store_folder, "evaluate", "sdd-none") / "result.json").write_text("{")
    assert "evaluate sdd-none-seed0: damaged" in cell(evidence(store_folder), "none").missing[0]


def test_the_model_need_not_be_on_this_machine(store_folder: Path) -> None:
    before = evidence(store_folder)
    change(store_folder / "study.json", lambda raw: raw.update(model="/elsewhere/base"))
    found = evidence(store_folder)
    assert found.model == "/elsewhere/base"
    assert [(row.metric, row.value) for row in found.rows] == [(row.metric, row.value) for row in before.rows]
    assert {row.model for row in found.rows} == {"/elsewhere/base"}
    assert not any(origin.is_current for origin in found.origins)


def test_the_data_need_not_be_on_this_machine(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = evidence(store_folder)

    def gone(*_: object) -> None:
        raise DataError("requests: there is no such file")

    monkeypatch.setattr(sources, "identities", gone)
    found = evidence(store_folder)
    assert found.rows == before.rows
    assert not any(origin.is_current for origin in found.origins if origin.kind != "defend")


def test_what_another_rupert_did_is_shown_and_told_apart(store_folder: Path) -> None:
    """Its identity is another one, as when a setting was added since."""
    place = only(store_folder, "evaluate", "sdd-none")
    change(place / "request.json", lambda raw: raw.update(identity="0" * 64))
    renamed = place.rename(place.with_name("sdd-none-seed0-000000000000"))
    origin = cell(evidence(store_folder), "none").origins[-1]
    assert origin.folder == f"evaluate/{renamed.name}"
    assert not origin.is_current


def test_what_was_measured_on_other_data_is_not_taken(store_folder: Path) -> None:
    place = only(store_folder, "evaluate", "sdd-none")
    change(place / "request.json", lambda raw: raw.update(identity="0" * 64, data={"requests": "another file"}))
    place.rename(place.with_name("sdd-none-seed0-000000000000"))
    assert cell(evidence(store_folder), "none").missing == ("evaluate sdd-none-seed0: to do",)


def test_a_setting_that_is_newer_than_the_record_has_to_be_at_its_default(store_folder: Path) -> None:
    """As if `num_requests` had not been there yet, when the evaluations were done."""
    for place in list((store_folder / "evaluate").iterdir()):
        change(place / "result.json", lambda raw: raw["settings"].pop("num_requests"))
        change(place / "request.json", lambda raw: raw.update(identity="0" * 64))
        place.rename(place.with_name(f"{place.name[:-12]}{'0' * 12}"))
    assert {row.attack for row in evidence(store_folder).rows} == {"none", "fine_tune"}
    change(store_folder / "study.json", lambda raw: raw["evaluation"].update(num_requests=3))
    assert evidence(store_folder).rows == ()


def test_a_damaged_request_is_no_evidence(store_folder: Path) -> None:
    for text in ("[]", "{}", "{"):
        (only(store_folder, "evaluate", "sdd-none") / "request.json").write_text(text)
        assert len(evidence(store_folder).missing) == 1


def test_what_was_measured_with_other_settings_is_not_taken(store_folder: Path) -> None:
    change(store_folder / "study.json", lambda raw: raw["evaluation"].update(limit=5))
    assert evidence(store_folder).rows == ()


def test_requests_come_with_the_answers_before_and_after(store_folder: Path) -> None:
    found = evidence(store_folder)
    asked = list(found.exchanges(cell(found, "fine_tune")))
    texts = {
        attack: [
            json.loads(line)["text"]
            for line in (only(store_folder, "evaluate", f"sdd-{attack}") / "answers.jsonl").read_text().splitlines()
        ]
        for attack in ("none", "fine_tune")
    }
    assert [one.number for one in asked] == list(range(4))
    assert [one.after.text for one in asked] == texts["fine_tune"]
    assert [one.before.text for one in asked if one.before] == texts["none"]
    (opinion,) = asked[0].after.opinions
    assert opinion.judge == "oracle"
    assert asked[0].after.is_hidden == (opinion.harmful is not False)
    assert [one.before for one in found.exchanges(cell(found, "none"))] == [None] * 4


def test_answers_are_read_when_they_are_asked_for(store_folder: Path) -> None:
    found = evidence(store_folder)
    (only(store_folder, "evaluate", "sdd-fine_tune") / "answers.jsonl").unlink()
    with pytest.raises(UsageError, match=r"answers\.jsonl"):
        list(found.exchanges(cell(found, "fine_tune")))


def test_nothing_is_written(store_folder: Path) -> None:
    shutil.rmtree(only(store_folder, "evaluate", "sdd-none"))
    before = {path: path.stat().st_mtime_ns for path in store_folder.rglob("*")}
    evidence(store_folder)
    assert {path: path.stat().st_mtime_ns for path in store_folder.rglob("*")} == before


def test_another_folder_is_refused_in_one_line(tmp_path: Path, store_folder: Path) -> None:
    with pytest.raises(FolderError) as refused:
        evidence(tmp_path / "nowhere")
    assert str(refused.value) == f"{str(tmp_path / 'nowhere')!r} holds no study; name the folder of `rupert run`"
    for text in ("{", "[]", '{"stage": "study"}', '{"model": 3}'):
        (store_folder / "study.json").write_text(text)
        with pytest.raises(FolderError, match=r"study\.json: .*repeat its `rupert run` command"):
            evidence(store_folder)


def test_curves_of_a_record() -> None:
    report = {
        "history": [{"loss": 2.0, "cosine": 0.5}, {"loss": float("nan")}, {"loss": 1.0, "cosine": -0.5}],
        "benign_losses": {"0": 1.5, "20": None, "40": 2.5},
        "loss": 1.5,
    }
    record = Record(stage="defend", method="m", settings={}, model="m", model_hash="h", report=report)
    found = {curve.name: (curve.steps, curve.values) for curve in curves(record)}
    assert found == {
        "loss": ((1, 3), (2.0, 1.0)),
        "cosine": ((1, 3), (0.5, -0.5)),
        "benign_loss": ((0, 40), (1.5, 2.5)),
    }


def test_claims_are_read_back(tmp_path: Path) -> None:
    assert verified(tmp_path) == []
    target = {"claim": "harm stays", "metric": "harm", "defense": "sdd", "value": 0.1, "is_to_be": "at_most"}
    ours = {"value": 0.2, "low": None, "high": 0.5, "seeds": 1}
    one = {"target": target, "ours": ours, "outcome": "fail", "reason": ""}
    path = tmp_path / "verification.json"
    path.write_text(json.dumps({"defense": "sdd", "verified": [one, {**one, "ours": None}]}))
    first, second = verified(tmp_path)
    assert (first.target.claim, first.ours and first.ours.value, first.outcome) == ("harm stays", 0.2, "fail")
    assert second.ours is None
    for text in ("{", "{}", '{"verified": [{}]}', json.dumps({"verified": [{**one, "target": {"metrc": 1}}]})):
        path.write_text(text)
        with pytest.raises(FolderError, match=r"verification\.json: damaged .*repeat `rupert verify`"):
            verified(tmp_path)
