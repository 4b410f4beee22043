"""What users and other parts may import is exactly what a module says: `__all__`, and no name with an underscore."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .source import REPOSITORY, Module, Modules, Rule, around, imported_names, package, planted

# What documentation and packages of others import from; each has an `__all__`.
SURFACE = {
    "rupert",
    "rupert.attacks",
    "rupert.attacks.attack",
    "rupert.attacks.mixture",
    "rupert.cli.card",
    "rupert.data.examples",
    "rupert.data.sources",
    "rupert.defenses",
    "rupert.errors",
    "rupert.evaluation.judges",
    "rupert.evaluation.suite",
    "rupert.evaluation.verdicts",
    "rupert.evidence",
    "rupert.models.loading",
    "rupert.plugins",
    "rupert.records",
    "rupert.report.card.facts",
    "rupert.report.card.section",
    "rupert.settings",
    "rupert.study.estimates",
    "rupert.study.evidence",
    "rupert.study.executors",
    "rupert.study.ladder",
    "rupert.study.stage",
    "rupert.testing",
    "rupert.training.fine_tuning",
    "rupert.training.gradients",
    "rupert.training.objective",
    "rupert.training.settings",
}


def surface(module: Module) -> set[str] | None:
    """The names in `__all__`; None where there is none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
        ):
            return set(ast.literal_eval(node.value))
    return None


def defined(module: Module) -> set[str]:
    """What a module itself defines at its top."""
    return {name for node in top(module.tree.body) for name in bound(node)}


def top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from top([*node.body, *node.orelse])


def bound(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def taken(module: Module) -> set[str]:
    """What a module imports by name at its top."""
    return {
        alias.asname or alias.name
        for node in top(module.tree.body)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def breaks_surface(modules: Modules) -> list[str]:
    """Public names that `__all__` does not have, names in it that are not there, and a list that is missing."""
    found = []
    for name, module in modules.items():
        said = surface(module)
        if said is None:
            found += [f"{name} has no __all__"] if name in SURFACE or (module.is_package and defined(module)) else []
            continue
        is_public = {one for one in defined(module) if not one.startswith("_")}
        found += [f"{name}: {one} is not in __all__" for one in sorted(is_public - said)]
        found += [f"{name}: no {one}" for one in sorted(said - defined(module) - taken(module))]
    return found


def breaks_privacy(modules: Modules) -> list[str]:
    """Names with an underscore that another module imports, or asks a module for."""
    return [
        f"{name} imports {one} of {origin}"
        for name, module in modules.items()
        for origin, one in (*imported_names(module), *asked_of_modules(module))
        if origin.split(".")[0] == "rupert" and one.startswith("_") and not one.startswith("__")
    ]


def asked_of_modules(module: Module) -> Iterator[tuple[str, str]]:
    """`module.name` for modules of rupert that were imported as such: the module, dotted, and the name."""
    known = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rupert":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(value=ast.Name(id=asked), attr=name) if asked in known and asked.islower():
                yield known[asked], name


def breaks_detours(modules: Modules) -> list[str]:
    """Names that another part takes from a module with an `__all__` although they are not in it."""
    said = {name: found for name, module in package().items() if (found := surface(module)) is not None}
    said |= {name: found for name, module in modules.items() if (found := surface(module)) is not None}
    known = package().keys() | modules.keys()
    return [
        f"{name} imports {one} of {origin}"
        for name, module in modules.items()
        for origin, one in imported_names(module)
        if origin in said and one not in said[origin] and f"{origin}.{one}" not in known and not one.startswith("_")
    ]


RULES: list[Rule] = [breaks_surface, breaks_privacy, breaks_detours]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(package()) == []


def test_benchmarks_and_examples_import_only_what_is_public() -> None:
    outside = {name: module for name, module in around().items() if name.startswith(("benchmarks", "examples"))}
    assert breaks_privacy(outside) + breaks_detours(outside) == []


def shown() -> list[tuple[str, Module]]:
    """Every Python that documentation shows, and the modules of the example package, as modules."""
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").rglob("*.md")]
    blocks = [
        (page.name, text)
        for page in pages
        if page.name not in ("CHANGELOG.md", "log.md")
        for text in re.findall(r"```python[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]
    files = [(path.name, path.read_text(encoding="utf-8")) for path in (REPOSITORY / "examples").rglob("*.py")]
    return [(name, Module(name, False, text, ast.parse(text))) for name, text in (*blocks, *files) if parses(text)]


def parses(text: str) -> bool:
    """Whether it is whole Python; a page may also show a piece of some, which then imports nothing."""
    try:
        ast.parse(text)
    except SyntaxError:
        assert not re.search(r"^(from|import) rupert", text, flags=re.MULTILINE), text
        return False
    return True


def test_what_documentation_imports_is_on_the_surface() -> None:
    modules, found = package(), []
    pairs = [(page, *pair) for page, module in shown() for pair in imported_names(module)]
    ours = [(page, origin, one) for page, origin, one in pairs if origin.split(".")[0] == "rupert"]
    assert len(ours) > 20
    for page, origin, one in ours:
        name = f"{origin}.{one}" if f"{origin}.{one}" in modules else origin
        is_known = name in SURFACE and (name != origin or one in (surface(modules[origin]) or ()))
        found += [] if is_known else [f"{page}: {one} of {origin}"]
    assert found == []


def test_what_is_on_the_surface_has_a_docstring() -> None:
    without = [
        f"{name}.{node.name}"
        for name in sorted(SURFACE)
        for node in package()[name].tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert without == []


MADE_UP: list[tuple[Rule, dict[str, str], list[str]]] = [
    (breaks_surface, {"settings.py": "def parse(): ..."}, ["rupert.settings has no __all__"]),
    (breaks_surface, {"data/__init__.py": "A = 1"}, ["rupert.data has no __all__"]),
    (
        breaks_surface,
        {"data/a.py": "if x:\n    def f(): ...\nclass G: ...\na, b = 1, 2\n_c: int = 3\n__all__ = ['a', 'h']"},
        [*(f"rupert.data.a: {name} is not in __all__" for name in "Gbf"), "rupert.data.a: no h"],
    ),
    (
        breaks_privacy,
        {"data/a.py": "def f():\n    from .b import _g", "data/b.py": ""},
        ["rupert.data.a imports _g of rupert.data.b"],
    ),
    (
        breaks_privacy,
        {"data/a.py": "from rupert.models import b\nb._g()"},
        ["rupert.data.a imports _g of rupert.models.b"],
    ),
    (
        breaks_detours,
        {"data/a.py": "from .b import c, d", "data/b.py": "from json import d\n__all__ = ['c']\nc = 1"},
        ["rupert.data.a imports d of rupert.data.b"],
    ),
]


def test_what_is_allowed_is_found_by_no_rule(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        {
            "data/__init__.py": '"""Data."""\nfrom rupert.data.a import f\n__all__ = ["f"]',
            "data/a.py": '"""Data."""\n__all__ = ["f"]\n_c = 1\ndef f():\n    x = 1',
            "data/b.py": "from rupert.data import a, f\nfrom rupert import __version__\na.f()\nf()._x",
        },
    )
    assert [finding for rule in RULES for finding in rule(modules)] == []
