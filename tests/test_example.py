"""The example package: installed beside rupert, it does all that a method of ours does."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rupert.attacks import ATTACKS
from rupert.cli.main import main
from rupert.defenses import DEFENSES, SDD
from rupert.errors import InvalidValue
from rupert.evaluation.judges import JUDGES, parse_judges
from rupert.models.loading import ModelSettings
from rupert.records import read_record
from rupert.settings import as_mapping
from rupert.study import stage
from rupert.study.definition.reading import read_study
from rupert.study.definition.study import describe, restore
from rupert.study.executors import EXECUTORS, Resources
from rupert.study.running.run import run

from .packages_by_hand import forget, write_metadata

ROOT = Path(__file__).parents[1]


EXAMPLE = ROOT / "examples" / "rupert-example"


DOCS = (EXAMPLE / "README.md", ROOT / "docs" / "extending.md")


PROJECT = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]


SMALL = (  # without a reference, whose calibration takes longer than all the rest
    "defenses.none=drop",
    "defenses.gradient_difference.max_steps=1",
    "attacks.noisy_embeddings.max_steps=2",
    "evaluation.limit=4",
    "evaluation.reference=none",
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example package as if it were installed; its metadata are made from its own project file."""
    folder = tmp_path_factory.mktemp("installed")
    write_metadata(folder, PROJECT["name"], PROJECT["version"], PROJECT["entry-points"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE / "src")
        patch.syspath_prepend(folder)
        forget()
        yield folder
    forget()


HELP = """
import sys
from rupert.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
import rupert
print(sorted(name for name in sys.modules if name.startswith(("rupert_example", "torch"))))
"""


def test_help_and_import_run_no_code_of_other_packages(example: Path) -> None:
    paths = f"{example}:{EXAMPLE / 'src'}"
    words = [sys.executable, "-c", HELP]
    done = subprocess.run(words, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_modules_that_know_the_families_import_none_of_them(example: Path) -> None:
    forget()
    for name in ("rupert.study.evidence.commands", "rupert.study.survey.places", "rupert.cli.defend"):
        importlib.reload(importlib.import_module(name))
    assert [family._found for family in (DEFENSES, ATTACKS, JUDGES)] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("kind", "name"), [("defenses", "gradient_difference"), ("attacks", "noisy_embeddings"), ("judges", "long_answers")]
)
def test_the_example_is_listed(example: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", kind, "--json"]) == 0
    listed, told = capsys.readouterr()
    row = next(row for row in json.loads(listed) if row["name"] == name)
    assert row["package"] == "rupert-example 0.1.0"
    assert row["about"].endswith(".")
    assert told == ""
    assert "package" not in json.loads(listed)[0]


@pytest.fixture(scope="module")
def example_run(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's study, as small as it gets; the folder that it was run in."""
    folder = tmp_path_factory.mktemp("example")
    with EXECUTORS["in_process"](Resources()) as executor:
        cells = list(run(read_study(EXAMPLE / "study.yaml", SMALL), folder / "s", executor))
    assert {cell.error for cell in cells} == {""}
    return folder / "s"


def test_the_example_runs_from_end_to_end(example_run: Path) -> None:
    records = [read_record(path.parent) for path in example_run.rglob("result.json")]
    by_method = {record.method: record for record in records}
    assert {"gradient_difference", "noisy_embeddings", "suite"} <= by_method.keys()
    assert by_method["gradient_difference"].settings["forget_weight"] == 0.1
    for method in ("gradient_difference", "noisy_embeddings", "suite"):
        assert by_method[method].environment["rupert-example"] == "0.1.0"
    assert by_method["suite"].metric("harm/long_answers-words-5").n == 4


def test_a_study_of_the_example_is_described_and_planned(example_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = read_study(EXAMPLE / "study.yaml", SMALL)
    assert restore(describe(study)) == study
    assert main(["plan", str(EXAMPLE / "study.yaml"), "--json"]) == 0
    assert "gradient_difference" in capsys.readouterr().out


def test_the_package_counts_and_its_version_is_recorded(example: Path) -> None:
    settings = DEFENSES["gradient_difference"](harmful="potionworld:defender", retain="potionworld:benign")  # type: ignore[call-arg]
    work = stage.Harden(settings=settings, model=ModelSettings(model="potionworld"))
    request = work.request()
    assert request.packages == {"rupert-example": "0.1.0"}
    assert request.definition()["packages"] == ["rupert-example"]
    own = SDD(pairs="potionworld:defender")
    plain = stage.Harden(settings=own, model=ModelSettings(model="potionworld")).request()
    assert "packages" not in plain.definition()  # what was done before there were other packages is still known


def test_a_judge_of_the_example_is_written_as_any(example: Path) -> None:
    judges = parse_judges(["long_answers?words=5"])
    assert {name: as_mapping(judge) for name, judge in judges.items()} == {"long_answers-words-5": {"words": 5}}
    with pytest.raises(InvalidValue, match=r"^judges: long_answers: words: -1 is not valid; must be 0 or above$"):
        parse_judges(["long_answers?words=-1"])


def test_the_example_s_own_tests_pass(example: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    assert pytest.main([str(copy), "-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]) == 0


def fenced(language: str) -> list[tuple[Path, str]]:
    return [
        (path, block)
        for path in DOCS
        for block in re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]


@pytest.mark.parametrize("language", ["python", "toml", "yaml"])
def test_what_the_docs_show_stands_in_the_example(language: str) -> None:
    suffixes = {"python": "py", "toml": "toml", "yaml": "yaml"}
    files = [path.read_text(encoding="utf-8") for path in EXAMPLE.rglob(f"*.{suffixes[language]}")]
    assert fenced(language)
    for path, block in fenced(language):
        assert any(block in text for text in files), f"{path.name}: {block}"


def test_the_commands_of_the_docs_parse(
    example: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reached: list[str] = []
    for name in ("defend", "attack"):
        monkeypatch.setattr(stage, name, lambda *_, name=name, **__: reached.append(name) or sys.exit(0))
    typed = [line.split() for _, block in fenced("bash") for line in block.splitlines() if line.startswith("rupert ")]
    monkeypatch.chdir(shutil.copytree(EXAMPLE, tmp_path / "example"))
    for _, command, *rest in typed:
        if command in ("ls", "validate", "plan"):
            assert main([command, *rest]) == 0
        elif command in ("defend", "attack"):
            with pytest.raises(SystemExit):
                main([command, *rest])
        else:
            assert command == "run"
            assert main(["validate", rest[0]]) == 0  # what it runs is run above
    assert {command for _, command, *_ in typed} >= {"ls", "defend", "run"}
    assert "defend" in reached
