"""Methods of other packages: found by their names, imported late, and harmless where they are broken."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rupert.attacks import ATTACKS, Attacker
from rupert.cli import attack, defend
from rupert.cli.arguments import Parser
from rupert.cli.main import main
from rupert.defenses import DEFENSES, SDD
from rupert.errors import InvalidValue, UsageError
from rupert.evaluation.judges import JUDGES, PRESETS, Judge, Oracle, parse_judges
from rupert.models.loading import ModelSettings
from rupert.plugins import SPOKEN_FOR, Family, name_of, packages_of
from rupert.records import read_record
from rupert.settings import as_mapping, fields_of
from rupert.study import stage
from rupert.study.executors import EXECUTORS, Resources
from rupert.study.reading import read_study
from rupert.study.run import run
from rupert.study.stage.work import request_of
from rupert.study.study import describe, restore
from rupert.training.objective import Objective
from rupert.training.settings import TrainingSettings

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

Points = Mapping[str, Mapping[str, str]]  # group -> name -> object
Install = Callable[..., Path]


def write_metadata(folder: Path, name: str, version: str, points: Points) -> None:
    """What an installer leaves beside a package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in named.items())
        for group, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module: install("name", {"group": {"x": "module:X"}}, code)."""
    before = set(sys.modules)

    def installed(name: str, points: Points, code: str = "", version: str = "1.0") -> Path:
        folder = tmp_path / name
        write_metadata(folder, name, version, points)
        (folder / f"{name.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        return folder

    yield installed
    for name in set(sys.modules) - before:
        if name.startswith("foreign"):
            del sys.modules[name]


def forget() -> None:
    """The families read what is installed once; this lets them read it again."""
    for family in (DEFENSES, ATTACKS, JUDGES):
        vars(family).pop("_offered", None)
        family._found.clear()


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


METHOD = """
from dataclasses import dataclass
from rupert.defenses import SDD
@dataclass(frozen=True, kw_only=True)
class Method(SDD):
    "Another SDD."
"""


def defenses() -> Family[Objective]:
    """A family that has read nothing."""
    return Family("rupert.defenses", {"sdd": SDD}, Objective)


def test_a_method_of_another_package_is_one_of_the_family(install: Install) -> None:
    install("foreign-one", {"rupert.defenses": {"foreign": "foreign_one:Method"}}, METHOD)
    family = defenses()
    assert list(family) == ["sdd", "foreign"]
    assert len(family) == 2
    assert family["foreign"].__module__ == "foreign_one"
    assert family.problems() == []
    assert name_of(family["foreign"], family) == "foreign"
    assert packages_of([SDD, family["foreign"]]) == {"foreign-one": "1.0"}
    with pytest.raises(KeyError):
        family["missing"]
    assert "missing" not in family


def test_nothing_is_imported_before_it_is_asked_for(install: Install) -> None:
    install("foreign-late", {"rupert.defenses": {"foreign": "foreign_late:Method"}}, METHOD)
    family = defenses()
    assert family["sdd"] is SDD
    assert next(iter(family)) == "sdd"
    assert "foreign" in family
    assert "foreign_late" not in sys.modules
    assert family["foreign"] is sys.modules["foreign_late"].Method


def test_rupert_s_own_name_wins_and_both_are_named(install: Install) -> None:
    install("foreign-clash", {"rupert.defenses": {"sdd": "foreign_clash:Method"}}, "raise AssertionError")
    family = defenses()
    assert family["sdd"] is SDD
    assert list(family) == ["sdd"]
    assert family.problems() == [
        "foreign-clash 1.0: rupert.defenses: sdd = 'foreign_clash:Method' is not used, because rupert's own "
        "rupert.defenses.sdd:SDD has its name; upgrade or uninstall foreign-clash"
    ]


@pytest.mark.parametrize("name", ["none", next(iter(PRESETS))])
def test_a_name_that_stands_for_something_else_is_not_taken(install: Install, name: str) -> None:
    install("foreign-preset", {"rupert.judges": {name: "foreign_preset:Method"}}, "raise AssertionError")
    family: Family[Judge] = Family("rupert.judges", {"oracle": Oracle}, Judge, taken=PRESETS)
    assert list(family) == ["oracle"]
    assert name not in family
    assert family.problems() == [
        f"foreign-preset 1.0: rupert.judges: {name} = 'foreign_preset:Method' is not used, because rupert uses its "
        "name otherwise; upgrade or uninstall foreign-preset"
    ]


def test_two_packages_with_one_name_are_told_apart_by_neither(install: Install) -> None:
    for name in ("foreign-b", "foreign-a"):
        install(name, {"rupert.defenses": {"foreign": f"{name.replace('-', '_')}:Method"}}, METHOD)
    problem = (
        "foreign-a 1.0: rupert.defenses: foreign = 'foreign_a:Method' is not used, because foreign-b 1.0 has one of "
        "its name; upgrade or uninstall foreign-a"
    )
    family = defenses()
    assert list(family) == ["sdd"]
    assert family.problems() == [problem]
    with pytest.raises(UsageError, match=f"^{re.escape(problem)}$"):
        family["foreign"]


FROZEN = "from dataclasses import dataclass\n@dataclass(frozen=True, kw_only=True)\nclass Method:\n"
SETTING = "from rupert.settings import setting\n"
BROKEN = [
    ("import not_there", "cannot be imported (ModuleNotFoundError: No module named 'not_there')"),
    ("", "cannot be imported (AttributeError: module 'foreign_bad' has no attribute 'Method')"),
    ("raise RuntimeError('one\\ntwo')", "cannot be imported (RuntimeError: one two)"),
    ("class Strange(LookupError): pass\nraise Strange", "cannot be imported (Strange: )"),
    ("def f(:", "cannot be imported (SyntaxError: invalid syntax (foreign_bad.py, line 1))"),
    ("Method = 3", "is no Attacker: it is no class"),
    ("class Method: pass", "is no Attacker: it is no frozen dataclass"),
    (FROZEN.replace("frozen=True, ", "") + "    pass", "is no Attacker: it is no frozen dataclass"),
    (
        FROZEN + "    rate: float = 1.0",
        "is no Attacker: Method.rate must be made by rupert.settings.setting",
    ),
    (
        SETTING + FROZEN + "    rate: bytes = setting(b'', 'rate')",
        "is no Attacker: Method.rate: settings cannot be of type <class 'bytes'>",
    ),
    (
        SETTING + FROZEN + "    seed: int = setting(0, 'of all')\n    version = 1",
        "is no Attacker: it has no asking, check, datasets, gather, run",
    ),
    (
        "from rupert.attacks import Attacker\n" + SETTING + FROZEN.replace("Method", "Method(Attacker)")
        + "    seed: int = setting(0, 'of all')\n    version = 1",
        "is no Attacker: it has no asking, check, datasets, gather, run",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "what"), BROKEN)
def test_what_cannot_be_used_is_a_line_and_keeps_nothing_from_working(install: Install, code: str, what: str) -> None:
    install("foreign-good", {"rupert.attacks": {"good": "rupert.attacks:FineTune"}})
    install("foreign-bad", {"rupert.attacks": {"bad": "foreign_bad:Method"}}, code)
    family: Family[Any] = Family("rupert.attacks", {}, Attacker)
    problem = f"foreign-bad 1.0: rupert.attacks: bad = 'foreign_bad:Method' {what}; upgrade or uninstall foreign-bad"
    assert list(family) == ["good"]
    assert family.problems() == [problem]
    with pytest.raises(UsageError, match=f"^{re.escape(problem)}$"):
        family["bad"]


def test_a_setting_cannot_have_the_name_of_a_flag(install: Install) -> None:
    """Two flags of one name would keep the whole command from working."""
    install(
        "foreign-flag",
        {"rupert.defenses": {"foreign": "foreign_flag:Method"}},
        SETTING + METHOD + "    recipe: str = setting('', 'a')\n    device: str = setting('', 'b')",
    )
    family: Family[Objective] = Family("rupert.defenses", {}, Objective, spoken_for=SPOKEN_FOR)
    assert family.problems() == [
        "foreign-flag 1.0: rupert.defenses: foreign = 'foreign_flag:Method' is no Objective: settings cannot be called "
        "recipe, device; upgrade or uninstall foreign-flag"
    ]


@pytest.mark.parametrize(
    ("command", "family", "method"),
    [(defend, DEFENSES, "sdd"), (attack, ATTACKS, "fine_tune")],
    ids=["defend", "attack"],
)
def test_every_flag_of_a_command_is_spoken_for(command: Any, family: Family[Any], method: str) -> None:
    parser = Parser(prog="rupert")
    command.configure(parser)
    options = parser._subparsers._group_actions[0].choices[method]._option_string_actions
    flags = {flag[2:].removeprefix("no-").replace("-", "_") for flag in options if flag.startswith("--")}
    own = {field.name for field in fields_of(family[method])}
    assert flags - own
    assert flags - own <= SPOKEN_FOR
    assert not SPOKEN_FOR & {field.name for cls in family._own.values() for field in fields_of(cls)}


def test_a_judge_has_to_be_callable_itself(install: Install) -> None:
    """Every class can be called: that is not what is asked for."""
    install("foreign-mute", {"rupert.judges": {"mute": "foreign_mute:Method"}}, FROZEN + "    def check(self): ...")
    family: Family[Judge] = Family("rupert.judges", {}, Judge)
    assert family.problems() == [
        "foreign-mute 1.0: rupert.judges: mute = 'foreign_mute:Method' is no Judge: it has no __call__; "
        "upgrade or uninstall foreign-mute"
    ]


@pytest.mark.parametrize("name", ["Bad", "a.b", "a-b", "1st"])
def test_a_name_is_one_that_folders_and_yaml_can_have(install: Install, name: str) -> None:
    install("foreign-name", {"rupert.defenses": {name: "foreign_name:Method"}}, METHOD)
    family = defenses()
    assert list(family) == ["sdd"]
    assert "a name has lower-case letters, digits and _, a letter first; upgrade" in family.problems()[0]


@pytest.mark.parametrize(
    ("family", "protocol"),
    [(DEFENSES, Objective), (ATTACKS, Attacker), (JUDGES, Judge)],
    ids=lambda part: str(part)[-20:],
)
def test_rupert_s_own_methods_are_what_is_asked_of_others(
    family: Family[Any], protocol: type, install: Install
) -> None:
    own = {f"own_{name}": f"{cls.__module__}:{cls.__qualname__}" for name, cls in family._own.items()}
    install("foreign-own", {"foreign.group": own})
    again: Family[Any] = Family("foreign.group", {}, protocol)
    assert again.problems() == []
    assert len(again) == len(own)
    assert packages_of(again.values()) == {}  # whoever else names them, they are rupert's


def test_a_method_that_nobody_names_is_refused_in_a_line() -> None:
    with pytest.raises(InvalidValue, match=r"^method: 'TrainingSettings' is not valid; name it by an entry point"):
        request_of("defend", TrainingSettings(), DEFENSES, ModelSettings(model="potionworld"), {})


def test_a_broken_package_disturbs_no_command(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("foreign-broken", {"rupert.defenses": {"broken": "foreign_broken:Method"}}, "import not_there")
    forget()
    try:
        assert main(["ls", "defenses", "--json"]) == 0
        listed, told = capsys.readouterr()
        assert [row["name"] for row in json.loads(listed)] == list(DEFENSES._own)
        assert told.startswith("rupert: foreign-broken 1.0: rupert.defenses: broken = ")
        assert told.count("\n") == 1
        assert main(["defend", "broken", "--model", "potionworld", "--output-dir", "x"]) == 2
        assert capsys.readouterr().err == told
    finally:
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
    for name in ("rupert.study.commands", "rupert.study.places", "rupert.cli.defend"):
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
