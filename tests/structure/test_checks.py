"""Every test can fail: it asserts something, or calls a function that does, and no assertion holds by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .source import Function, Module, Modules, Rule, around, package, planted

# What checks by itself: of pytest and the like, and `rule`, each of a list of functions that assert.
CHECKERS = {"rule", "raises", "fail", "warns", "expect", "assert_close", "assert_allclose", "check_call"}


def called(node: ast.AST) -> set[str]:
    """The last names of what is called, and of functions that are handed on."""
    found = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            found |= {last(call.func), *(last(argument) for argument in call.args)}
            found |= {"check_call"} if any(is_true(one, "check") for one in call.keywords) else set()
    return found - {""}


def is_true(keyword: ast.keyword, name: str) -> bool:
    return keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


def last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def checkers(modules: Modules) -> set[str]:
    """Functions with an assertion, and those that call one of these, however far away."""
    functions = [function for module in modules.values() for function in module.functions()]
    calls = [(function.name, called(function)) for function in functions]
    found = CHECKERS | {function.name for function in functions if asserts(function)}
    while more := {name for name, names in calls if names & found} - found:
        found |= more
    return found


def asserts(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Assert) for one in ast.walk(node))


def cases(module: Module) -> Iterator[Function]:
    if module.name.rsplit(".", 1)[-1].startswith("test_"):
        yield from (function for function in module.functions() if function.name.startswith("test_"))


def breaks_checking(modules: Modules) -> list[str]:
    """Tests without an assertion."""
    known = checkers(modules | {"rupert.testing": package()["rupert.testing"]})
    return [
        f"{module.name}.{test.name}"
        for module in modules.values()
        for test in cases(module)
        if not asserts(test) and not called(test) & known - {test.name}
    ]


def breaks_doubt(modules: Modules) -> list[str]:
    """Assertions that hold whatever happens, and tests that are given nothing to try."""
    return [
        f"{module.name}, line {node.lineno}"
        for module in modules.values()
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Assert) and holds(node.test)) or is_empty_parametrize(node)
    ]


def holds(test: ast.expr) -> bool:
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.List(elts=[_, *_]) | ast.Tuple(elts=[_, *_]) | ast.JoinedStr() | ast.Lambda() | ast.GeneratorExp():
            return True
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(holds(value) for value in values)
        case ast.BoolOp(op=ast.And(), values=values):
            return all(holds(value) for value in values)
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is() | ast.LtE() | ast.GtE()], comparators=[right]):
            return ast.dump(left) == ast.dump(right) and not any(isinstance(one, ast.Call) for one in ast.walk(left))
    return False


def is_empty_parametrize(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="parametrize"), args=[_, ast.List(elts=[]) | ast.Tuple(elts=[]), *_]):
            return True
    return False


@pytest.mark.parametrize("rule", [breaks_checking, breaks_doubt])
def test_the_tests_keep_the_rule(rule: Rule) -> None:
    assert rule(around()) == []


@pytest.mark.parametrize(
    "text",
    [
        "def test_a():\n    assert f() == 1",
        "def test_a():\n    with pytest.raises(ValueError):\n        f()",
        "def check(x):\n    assert x\ndef held(x):\n    check(x)\ndef test_a():\n    held(f())",
        "from rupert.testing import survives_yaml\ndef test_a():\n    survives_yaml(f())",
        "@pytest.mark.parametrize('rule', RULES)\ndef test_a(rule):\n    assert rule()",
    ],
)
def test_what_can_fail_is_found_by_no_rule(tmp_path: Path, text: str) -> None:
    modules = planted(tmp_path, {"test_a.py": text})
    assert breaks_checking(modules) + breaks_doubt(modules) == []


def test_a_test_without_an_assertion_is_found(tmp_path: Path) -> None:
    modules = planted(tmp_path, {"test_a.py": "def helper(): ...\ndef test_a():\n    helper()\n    x = 1"})
    assert breaks_checking(modules) == ["rupert.test_a.test_a"]


@pytest.mark.parametrize(
    "line",
    [
        "assert True",
        "assert x or True",
        "assert (x, 'message')",
        "assert x == x",
        "assert f'{x}'",
        "@pytest.mark.parametrize('a', [])\ndef test_a(a):\n    assert a",
    ],
)
def test_an_assertion_that_always_holds_is_found(tmp_path: Path, line: str) -> None:
    assert breaks_doubt(planted(tmp_path, {"test_a.py": f"x = f()\n{line}"})) == ["rupert.test_a, line 2"]
