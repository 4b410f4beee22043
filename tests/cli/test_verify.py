"""`rupert verify`: a table, a file, and an exit code that says whether the study ran, not whether claims hold."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.records import ResultRow
from rupert.report.results import write_results
from rupert.study.evidence.targets import targets

SMALL = (
    "defenses.sdd.max_steps=1",
    "defenses.sdd.num_pairs=16",
    "attacks.fine_tune.learning_rate=[1e-4]",
    "attacks.fine_tune.num_examples=16",
    "attacks.fine_tune.max_steps=1",
    "attacks.benign=drop",
    "evaluation.limit=4",
)


def row(defense: str, attack: str, metric: str, value: float) -> ResultRow:
    return ResultRow(
        study="demo",
        model="potionworld",
        defense=defense,
        attack=attack,
        seed=0,
        metric=metric,
        value=value,
        low=value / 2,
        high=(1 + value) / 2,
        n=66,
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        row("none", "none", "ability", 0.98),
        row("sdd", "none", "ability", 0.97),
        row("none", "fine_tune-1e-4", "harm", 1.0),
        row("sdd", "fine_tune-1e-4", "harm", 0.68),
        row("none", "fine_tune-1e-4", "ability", 0.98),
        row("sdd", "fine_tune-1e-4", "ability", 0.97),
    ]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write_results(rows, folder)
    return folder


def verdicts(folder: Path) -> Counter[str]:
    return Counter(one["outcome"] for one in json.loads((folder / "verification.json").read_text())["verified"])


def test_results_of_a_study_are_held_against_the_claims(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "sdd", "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    # Ability before, harm less the undefended model's; harm after 1e-4, and half of the ability.
    counted = Counter({"pass": 2, "fail": 2, "not run here": 9})
    assert verdicts(results) == counted | {"not measured": len(targets("sdd")) - counted.total()}
    for text in (
        "2 pass, 2 fail",
        "68.0 % (34 to 84)",
        "≤ 0.0 + 5.0 %",
        "needs meta-llama/Llama-2-7b-chat-hf and the Hub",
    ):
        assert text in shown
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80  # paths are not broken


def test_the_file_has_each_claim_and_what_was_measured(results: Path, tmp_path: Path) -> None:
    assert main(["verify", "sdd", "--results", str(results), "--output-dir", str(tmp_path / "v")]) == 0
    assert not (results / "verification.json").exists()
    found = json.loads((tmp_path / "v" / "verification.json").read_text())
    assert found["defense"] == "sdd"
    assert [one["target"]["claim"] for one in found["verified"]] == [target.claim for target in targets("sdd")]
    [lost] = [one for one in found["verified"] if one["outcome"] == "fail" and one["target"]["metric"] == "harm"]
    assert lost["ours"] == pytest.approx({"value": 0.68, "low": 0.34, "high": 0.84, "seeds": 1})


def test_a_study_is_run_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "sdd", *SMALL, "--output-dir", str(tmp_path / "v")]
    assert main(command) == 0
    first = (tmp_path / "v" / "verification.json").read_text()
    stages = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").glob("*/*/result.json")}
    assert main(command) == 0
    assert (tmp_path / "v" / "verification.json").read_text() == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "v").glob("*/*/result.json")} == stages
    found = verdicts(tmp_path / "v")
    assert found["not run here"] == 9  # the attack at 1e-4 alone was run
    assert found["pass"] + found["fail"] == 7
    page = (tmp_path / "v" / "report.html").read_text()
    assert "What is claimed, and what came out" in page
    assert page.count(">not run here<") == 9


def test_a_run_that_failed_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rupert.errors import NonFiniteError

    def broken(*_: object, **__: object) -> None:
        raise NonFiniteError("loss: nan")

    monkeypatch.setattr("rupert.defenses.SDD.start", broken)
    assert main(["verify", "sdd", *SMALL, "--output-dir", str(tmp_path / "v")]) == 1
    assert verdicts(tmp_path / "v").keys() == {"not run here", "not measured"}
    assert "loss: nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sed"], "rupert: defense: 'sed' is unknown; did you mean 'sdd'?"),
        (["sdd", "seeds=[1]", "--results", "s"], "--results are taken as they are; leave one of the two out"),
        (["sdd", "--results", "nowhere"], "nowhere/results.csv: there is no such file; run the study first"),
        (["sdd", "defenses.seam.alpha=1"], "override: defenses: 'seam' is unknown; valid: none, sdd"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
