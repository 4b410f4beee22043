"""Methods of other packages: found by their names, imported late, and harmless where they are broken."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rupert.attacks import ATTACKS, Attacker
from rupert.cli import attack, defend
from rupert.cli.arguments import Parser
from rupert.cli.main import main
from rupert.defenses import DEFENSES, SDD
from rupert.errors import InvalidValue, UsageError
from rupert.evaluation.judges import JUDGES, PRESETS, Judge, Oracle
from rupert.models.loading import ModelSettings
from rupert.plugins import SPOKEN_FOR, Family, name_of, packages_of
from rupert.settings import fields_of
from rupert.study.stage.work import request_of
from rupert.training.objective import Objective
from rupert.training.settings import TrainingSettings

from .packages_by_hand import Points, defenses, forget, write_metadata

Install = Callable[..., Path]


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


METHOD = """
from dataclasses import dataclass
from rupert.defenses import SDD
@dataclass(frozen=True, kw_only=True)
class Method(SDD):
    "Another SDD."
"""


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
    ids=["defenses", "attacks", "judges"],
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
