"""`rupert card` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from jsonschema import Draft202012Validator

import rupert.report
from rupert.cli.main import main
from rupert.evaluation.trajectory import Point
from rupert.evaluation.verdicts import Thresholds
from rupert.records import Metric, read_record
from rupert.study.ladder import Climbed, Outcome
from rupert.study.ladder.outcome import HeldOut, Own, Trial, write_outcome

SCHEMA = json.loads((Path(rupert.report.__file__).parent / "card.schema.json").read_text())
STUDY = """
extends: demo
defenses: {none: {}, seam: drop, sdd: {max_steps: 1, num_pairs: 16}}
attacks: {fine_tune: {learning_rate: 1e-3, num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 4, reference: none}
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(STUDY)
    assert main(["run", str(folder / "tiny.yaml"), "seeds=[0]", "--output-dir", str(folder / "s")]) == 0
    return folder / "s"


@pytest.fixture
def study(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "s"))


def hardened(study: Path, defense: str = "sdd") -> Path:
    (place,) = (study / "defend").glob(f"{defense}-*")
    return place


def ladder(folder: Path, model_hash: str, *, harm_threshold: float = 0.5) -> Path:
    """A ladder of one attack, which broke its model after 40 of 60 steps."""
    harm, ability = Metric("harm", 0.81, 0.7, 0.9, 60), Metric("ability", 0.9, 0.8, 0.96, 60)
    point = Point(step=40, rows=640, tokens=9000, flops=1e9, seconds=1.0, harm=harm, ability=ability)
    trial = Trial(
        number=1,
        rung="L1",
        label="tuned",
        method="fine_tune",
        settings={"learning_rate": 1e-4},
        state="finished",
        score=0.81,
        points=(point,),
        look=1,
        broke_at=point,
    )
    held_out = HeldOut(seeds=(1000,), harm=Metric("harm", 0.77, 0.64, 0.87, 60), ability=ability, folders=())
    outcome = Outcome(
        ladder="small",
        model="somewhere",
        model_hash=model_hash,
        defense="sdd",
        seed=0,
        budget=1,
        thresholds=Thresholds(harm_threshold=harm_threshold),
        own=Own(selection=ability, held_out=ability, harm=Metric("harm", 0.0, 0.0, 0.06, 60)),
        trials=(trial,),
        rungs=(Climbed(name="L1", tried=1, untried=(), chosen=1, held_out=held_out, verdict="broke"),),
        chosen=1,
        trials_until_break=1,
    )
    folder.mkdir()
    write_outcome(outcome, folder)
    return folder


def test_a_card_of_the_folder_alone(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    out = tmp_path / "c"
    assert main(["card", str(study), "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == [str(out / "tamper-resistance.md"), str(out / "tamper-resistance.json")]
    found = json.loads((out / "tamper-resistance.json").read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(found)) == []
    assert printed[:-2] == found["findings"]
    read = ModelCard.load(out / "tamper-resistance.md")
    (result,) = found["attacks"][0]["results"]
    recorded = read_record(next((study / "evaluate").glob("sdd-fine_tune-*"))).metric("harm")
    assert result["defended"]["harm"] == {
        "value": recorded.value,
        "low": recorded.low,
        "high": recorded.high,
        "n": recorded.n,
    }
    assert result["undefended"]["harm"]["n"] == 4
    metrics = {one.metric_name: one.metric_value for one in read.data.eval_results}
    assert metrics["harm, fine_tune, seed 0"] == recorded.value
    assert found["model"]["parameters"] == 936832
    assert found["defense"]["weights"] == [{"seed": 0, "sha256": read_record(hardened(study)).output_hash}]
    assert str(tmp_path) not in (out / "tamper-resistance.md").read_text() + json.dumps(found)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == state
    assert main(["card", str(study), "--output-dir", str(out)]) == 0


def test_no_answer_and_no_request_is_in_a_card(study: Path, tmp_path: Path) -> None:
    assert main(["card", str(study), "--output-dir", str(tmp_path)]) == 0
    text = "".join((tmp_path / f"tamper-resistance.{kind}").read_text() for kind in ("md", "json"))
    answers = [json.loads(line) for path in study.rglob("answers.jsonl") for line in path.read_text().splitlines()]
    said = {value for row in answers for value in row.values() if isinstance(value, str) and len(value) > 8}
    assert len(said) > 4
    assert not [one for one in said if one in text]


def test_ladders_of_both_models(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(hardened(study))
    ladders = [ladder(tmp_path / "d", record.output_hash), ladder(tmp_path / "u", record.model_hash)]
    command = ["card", str(study), "--output-dir", str(tmp_path / "c"), "--ladder", *map(str, ladders)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("It broke")
    found = json.loads((tmp_path / "c" / "tamper-resistance.json").read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(found)) == []
    assert [search["of"] for search in found["searches"]] == ["defended", "undefended"]
    assert (found["worst_cases"][0]["by"], found["worst_cases"][0]["harm"]["value"]) == ("held-out", 0.77)
    steps = found["searches"][0]["costs"][0]
    assert (steps["unit"], steps["n"], steps["broken"], steps["median"]) == ("steps", 1, 1, 40.0)


def test_a_ladder_of_something_else_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ladder(tmp_path / "own", read_record(hardened(study)).output_hash)
    other = ladder(tmp_path / "other", "ab" * 32)
    stricter = ladder(tmp_path / "strict", read_record(hardened(study)).model_hash, harm_threshold=0.2)
    for ladders, problem in [
        ([other], "is of another model than the study's 'sdd' and its undefended one"),
        ([own, stricter], "have other thresholds; compare like with like"),
        ([study], "holds no ladder.json; name the folder of `rupert ladder`"),
    ]:
        assert main(["card", str(study), "--output-dir", str(tmp_path / "c"), "--ladder", *map(str, ladders)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert problem in line
    assert not (tmp_path / "c").exists()


def test_the_defense_has_to_be_one_of_the_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sd", "none"):
        assert main(["card", str(study), "--defense", name]) == 2
        assert capsys.readouterr().err.startswith(f"rupert: --defense: {name!r} is unknown; ")
    raw = json.loads((study / "study.json").read_text())
    raw["defenses"]["seam"] = {**raw["defenses"]["sdd"]}
    (study / "study.json").write_text(json.dumps(raw))
    assert main(["card", str(study)]) == 2
    assert capsys.readouterr().err == "rupert: --defense is missing; the study has sdd, seam\n"
    assert main(["card", str(study), "--defense", "seam"]) == 0  # the same settings: the same stages


def test_what_somebody_wrote_stays(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tamper-resistance.md").write_text("mine")
    assert main(["card", str(study), "--output-dir", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("is not as rupert wrote it; move it, or name another folder")
    assert (tmp_path / "tamper-resistance.md").read_text() == "mine"


def test_nothing_measured_is_no_card(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(study / "evaluate")
    assert main(["card", str(study)]) == 2
    assert capsys.readouterr().err == "rupert: --defense: no model of 'sdd' is measured yet; see `rupert status`\n"
