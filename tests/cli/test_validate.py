"""`rupert validate`: what a study is, and what would stop it, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.data import hub
from rupert.models import loading

STUDY = """
model: potionworld
seeds: [0, 1]
defenses:
  none:
  sdd: {recipe: sdd-potionworld}
attacks:
  fine_tune: {data: "potionworld:attacker", learning_rate: [1e-5, 2e-4]}
scores:
  potionworld: {}
"""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a model nor data of the Hub."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("something was loaded")

    monkeypatch.setattr(loading, "load", fail)
    monkeypatch.setattr(hub, "read_file", fail)
    monkeypatch.setattr(hub, "read_split", fail)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_a_study_s_grid_is_printed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(study)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["study", "study"],
        ["model", "potionworld"],
        ["defenses", "none, sdd"],
        ["attacks", "fine_tune-1e-5, fine_tune-2e-4"],
        ["scores", "potionworld"],
        ["seeds", "0, 1"],
        ["models", "12 = 2 defenses x (2 attacks + none) x 2 seeds"],
    ]


def test_words_of_the_command_line_count(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(study), "seeds=[5]", "attacks.fine_tune.learning_rate=1e-4"]) == 0
    assert "4 = 2 defenses x (1 attack + none) x 1 seed" in capsys.readouterr().out


def test_all_that_would_stop_a_study_is_told(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "defenses={seam: {}, sdd: {responses: [alpca]}}",
        "attacks.fine_tune.data=[beavertail, missing.jsonl]",
        "attacks.fine_tune.learning_rate=1e-4",
        "evaluation={tasks: ['potionworld:benigntest'], reference: smollm3}",
        "scores.potionworld.train=potionworld:new-skill-test",
    ]
    assert main(["validate", str(study), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    beginnings = [
        "study: defenses.sdd: responses: 'alpca' is unknown; did you mean 'alpaca'?",
        "study: defenses.seam: harmful: 'beavertails-refusals:unsafe' is not valid; no revision of it is pinned",
        "study: attacks.fine_tune-beavertail: data: 'beavertail' is unknown; did you mean 'beavertails'?",
        "study: attacks.fine_tune-missing.jsonl: data: there is no file 'missing.jsonl'; check the path",
        "study: scores.potionworld: test: 'potionworld:new-skill-test' is not valid; it is what is trained on",
        "study: evaluation: tasks, split of potionworld: 'benigntest' is unknown; did you mean 'benign-test'?",
        "study: evaluation.reference: 'smollm3' is unknown; did you mean 'smollm2'?",
    ]
    lines = shown.err.splitlines()
    assert [line[: len(f"rupert: {start}")] for line, start in zip(lines, beginnings, strict=True)] == [
        f"rupert: {start}" for start in beginnings
    ]


def test_mistakes_of_reading_are_told_in_lines(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(study), "seed=[5]", "evaluation.limit=0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "rupert: override: key: 'seed' is unknown; did you mean 'seeds'?",
        "rupert: override: evaluation: limit: 0 is not valid; must be above 0",
    ]


def test_judges_are_not_asked_whether_they_are_there(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = "'language_model?model=some-model&base_url=http://127.0.0.1:9/v1'"
    assert main(["validate", str(study), f"evaluation.judges=[{judge}]"]) == 0
