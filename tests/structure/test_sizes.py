"""Files and functions stay small, say what they are, and swallow no mistake of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .source import Function, Modules, Rule, around, package, planted

NAMELESS = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
# The edge at which the failure of one cell of a study becomes a row.
MAY_CATCH_ALL = ("rupert.study.executors",)


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


RULES: list[Rule] = [
    breaks_lengths,
    breaks_brevity,
    breaks_calls,
    breaks_names,
    breaks_opening,
    breaks_catching,
]
AROUND: list[Rule] = [breaks_lengths, breaks_names, breaks_opening]  # those that tests and benchmarks keep too


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(package()) == []


@pytest.mark.parametrize("rule", AROUND)
def test_the_tests_and_benchmarks_keep_the_rule(rule: Rule) -> None:
    assert rule(around()) == []


LONG = "def f():\n" + "    g()\n" * 60

MADE_UP: list[tuple[Rule, dict[str, str], list[str]]] = [
    (breaks_lengths, {"data/a.py": "x = 1\n" * 401}, ["rupert.data.a has 401 lines"]),
    (breaks_lengths, {"data/a.py": LONG}, ["rupert.data.a.f has 61 lines"]),
    (breaks_brevity, {"data/a.py": LONG}, ["1 of 1 functions have 35 lines or more"]),
    (breaks_calls, {"data/a.py": "def f(a, b, c, d, e, f): ..."}, ["rupert.data.a.f"]),
    (breaks_names, {"data/utils.py": "", "models/base/a.py": ""}, ["rupert.data.utils", "rupert.models.base.a"]),
    (breaks_opening, {"data/a.py": "x = 1"}, ["rupert.data.a"]),
    (breaks_catching, {"data/a.py": "try:\n    f()\nexcept Exception:\n    g()"}, ["rupert.data.a, line 3"]),
]


def test_what_is_allowed_is_found_by_no_rule(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        {
            "data/b.py": '"""Data."""\ntry:\n    f()\nexcept (KeyError, ValueError):\n    g()',
            "study/executors/a.py": '"""Executors."""\ntry:\n    f()\nexcept Exception:\n    g()',
            "models/a.py": '"""Models."""\n' + "x = 1\n" * 399,
            "training/a.py": '"""Training."""\ndef f(a, b, c, d, e, *, g):\n' + "    g()\n" * 10,
        },
    )
    assert [finding for rule in RULES for finding in rule(modules)] == []
