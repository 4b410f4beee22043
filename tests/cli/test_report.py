"""`rupert report` as a user types it."""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
from pathlib import Path

import pytest

from rupert.attacks import ATTACKS
from rupert.cli import attack, defend, eval, score  # noqa: A004
from rupert.cli.arguments import Parser, collect
from rupert.cli.main import main
from rupert.cli.report import FORMATS
from rupert.defenses import DEFENSES
from rupert.evaluation.fine_tuning_score import TASKS
from rupert.evaluation.suite import Evaluation
from rupert.models import loading
from rupert.report.exports.outputs import LIST_FILE
from rupert.report.tables import read_csv
from rupert.study.definition.graph import graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.evidence.commands import command

TINY = """
extends: demo
defenses: {none: drop, seam: drop, sdd: {max_steps: 1, num_pairs: 16}}
attacks: {fine_tune: {learning_rate: 1e-3, num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 4}
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["run", str(folder / "tiny.yaml"), "seeds=[0]", "--output-dir", str(folder / "s")]) == 0
    return folder / "s"


@pytest.fixture
def study(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "s"))


def test_the_page_of_the_folder_alone_is_the_page_of_the_run(
    run_folder: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (study / "report.html").read_text()
    (study / "report.html").unlink()
    assert main(["report", str(study)]) == 0
    assert capsys.readouterr().out == f"{study / 'report.html'}\n"
    page = (study / "report.html").read_text()
    assert page == before
    assert f"rupert run {run_folder.parent / 'tiny.yaml'} &#39;seeds=[0]&#39;" in page


def test_tables_go_where_the_user_says(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "paper"
    state = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    command = ["report", str(study), "--output-dir", str(out), "--format", "markdown,latex", "csv"]
    assert main(command) == main(command) == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    tables = {f"tables/{name}.csv" for name in ("verdict", "table-1", "attacks", "ability")}
    assert names == {"report.md", "report.tex", LIST_FILE, *tables}
    with (out / "tables" / "attacks.csv").open(newline="") as file:
        found = {row["attack"]: row for row in csv.DictReader(file)}
    rows = {row.attack: row for row in read_csv(study / "results.csv") if row.metric == "harm"}
    assert float(found["fine_tune"]["harm"]) == rows["fine_tune"].value
    assert float(found["fine_tune"]["harm high"]) == rows["fine_tune"].high
    assert int(found["no attack"]["harm n"]) == rows["none"].n == 4
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == state


def test_a_study_that_is_not_finished_is_reported(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place,) = (study / "evaluate").glob("sdd-fine_tune-*")
    shutil.rmtree(place)
    assert main(["report", str(study), "--format", "html", "markdown"]) == 0
    missing = "sdd / fine_tune / seed 0 (evaluate sdd-fine_tune-seed0: to do)"
    assert f"not measured: {missing}\n" in capsys.readouterr().out
    assert f"Not measured: {missing}." in (study / "report.html").read_text()
    assert "1 of 2 models of this study are not measured" in (study / "report.md").read_text()


def test_a_file_that_rupert_did_not_write_stays(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, name in ((study, "report.md"), (tmp_path, "report.html")):
        (folder / name).write_text("mine")
        command = ["report", str(study), "--output-dir", str(folder), "--format", "csv", "html", "markdown"]
        assert main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(f"{str(folder / name)!r} is not as rupert wrote it; move it, or name another folder")
        assert (folder / name).read_text() == "mine"
        assert not (folder / "tables").exists()


def test_nothing_that_is_measured_is_no_report(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(study / "evaluate")
    (study / "report.html").unlink()
    assert main(["report", str(study)]) == 2
    assert capsys.readouterr().err == (
        f"rupert: {str(study)!r}: none of 2 models is measured yet; see how far they are with `rupert status {study}`\n"
    )
    assert not (study / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' holds no study; name the folder of `rupert run`"),
        (["nowhere", "--format", "markdwon"], "--format: 'markdwon' is unknown; did you mean 'markdown'?"),
        (["nowhere", "--format"], "--format"),
        ([], "folder"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_figures_need_a_browser(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    assert main(["report", str(study), "--format", "markdown", "svg"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("or name one with BROWSER_PATH=/path/to/chromium")
    assert not (study / "report.md").exists()
    assert {"svg", "pdf"} < set(FORMATS)


def parsed(typed: str) -> tuple[argparse.Namespace, type]:
    """What a stage's own command reads, and the class of its settings."""
    verb, *words = shlex.split(typed)[1:]
    parser = Parser(prog="rupert")
    {"defend": defend, "attack": attack, "eval": eval, "score": score}[verb].configure(parser)
    arguments = parser.parse_args(words)
    family = {"defend": DEFENSES, "attack": ATTACKS, "score": TASKS}.get(verb)
    return arguments, family[arguments.method] if family else Evaluation


SWITCHES = """
model: {model: owner/name, revision: abc, dtype: bfloat16}
defenses: {none: , vaccine: {lora: false, lora_target_modules: [q_proj, v_proj]}}
attacks: {fine_tune: {data: potionworld:attacker, layers_to_transform: [-2, -1], max_steps: 3}}
evaluation: {reference: null, tasks: [mmlu, hellaswag], system_prompt: "be 'brief' $now"}
"""


@pytest.mark.parametrize(
    "recipe", ["demo", "sdd-table-potionworld", "seam-table-1-potionworld", "seam-figure-3", "switches.yaml"]
)
def test_the_command_of_a_stage_means_its_settings(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "check", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    Path("switches.yaml").write_text(SWITCHES)
    study = read_study(find_recipe(recipe, "study"), [])
    typed = {node: command(node, study.model) for node in graph(study).nodes}
    folders = set()
    for node, words in typed.items():
        if node.settings is None:
            assert words == ""
            continue
        arguments, cls = parsed(words)
        settings = collect(arguments, cls)
        if node.pairs:
            assert settings.paired == f"again/{node.pairs.kind}-{node.pairs.label}/pairs.jsonl"
            settings = collect(argparse.Namespace(**{**vars(arguments), "paired": node.settings.paired}), cls)
        assert settings == node.settings
        made_from = node.model if node.model and node.model.settings is not None else None
        assert arguments.model == (f"again/{made_from.kind}-{made_from.label}" if made_from else study.model.model)
        folders.add(str(arguments.output_dir))
    assert len(folders) == sum(bool(words) for words in typed.values())
