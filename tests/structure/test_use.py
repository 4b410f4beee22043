"""Nothing stands there for nobody: every setting and field is read, every public name is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .source import PACKAGE, REPOSITORY, Modules, Rule, around, package, planted
from .test_surface import defined, surface

# Fields that are read by going through all of them.
READ_TOGETHER = {"rupert.study.estimates.memory.Memory"}


def readers() -> str:
    """What is read besides Python: templates, and what documentation names."""
    paths = [
        *(PACKAGE / "report" / "templates").iterdir(),
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


def users(modules: Modules) -> Modules:
    """The package with benchmarks and examples. What only tests use is used by nobody."""
    return modules | {name: module for name, module in around().items() if not name.startswith("tests")}


def breaks_reading(modules: Modules) -> list[str]:
    """Fields of dataclasses, settings among them, that nothing reads: as `x.field`, or by their name as a text."""
    trees = [module.tree for module in users(modules).values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    read |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    read |= set(re.findall(r"\.(\w+)", readers()))
    return [
        f"{name}.{owner}.{field}"
        for name, module in modules.items()
        for owner, field in fields(module.tree)
        if field not in read and f"{name}.{owner}" not in READ_TOGETHER
    ]


def fields(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every field of every dataclass: the class and the field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield node.name, line.target.id


def breaks_use(modules: Modules) -> list[str]:
    """Names at the top of a module that nothing uses, and that are not on the surface for users either."""
    nodes = [node for module in users(modules).values() for node in ast.walk(module.tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {"configure", "run"}  # of every command, whose module is found by its name
    texts = readers()
    return [
        f"{name}.{one}"
        for name, module in modules.items()
        for one in sorted(defined(module) - used)
        if not one.startswith("__") and one not in (surface(module) or ()) and not re.search(rf"\b{one}\b", texts)
    ]


RULES: list[Rule] = [breaks_reading, breaks_use]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(package()) == []


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        (
            breaks_reading,
            "@dataclass(frozen=True)\nclass A:\n    held_and_forgotten: int = setting(1, 'it')\n    seed: int = 0",
            ["rupert.data.a.A.held_and_forgotten"],
        ),
        (
            breaks_use,
            "def made_and_forgotten(): ...\ndef _forgotten_too(): ...\nload = 1",
            ["rupert.data.a._forgotten_too", "rupert.data.a.made_and_forgotten"],
        ),
    ],
)
def test_a_rule_finds_what_breaks_it(tmp_path: Path, rule: Rule, text: str, found: list[str]) -> None:
    assert rule(package() | planted(tmp_path, {"data/a.py": text})) == found
