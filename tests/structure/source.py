"""Source files as their syntax trees, and what each imports."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rupert

PACKAGE = Path(rupert.__file__).parent
REPOSITORY = Path(__file__).parents[2]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
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


@cache
def package() -> Modules:
    """The modules of rupert, read once."""
    modules = read(PACKAGE)
    assert "rupert.settings" in modules
    return modules


@cache
def around() -> Modules:
    """The tests, benchmarks, examples and what writes the documentation, read once."""
    modules = {
        name: module
        for folder in ("tests", "benchmarks", "examples", "docs")
        for name, module in read(REPOSITORY / folder).items()
    }
    assert "tests.structure.source" in modules
    return modules


def planted(folder: Path, files: dict[str, str]) -> Modules:
    """The modules of a made-up package that is called rupert."""
    for name, text in files.items():
        path = folder / "rupert" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read(folder / "rupert")


def imported_names(module: Module) -> Iterator[tuple[str, str]]:
    """What `from ... import` takes, at its top or in functions: the module it names, dotted, and the name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((absolute(node, module), alias.name) for alias in node.names)


def absolute(node: ast.ImportFrom, module: Module) -> str:
    """The module that `from ... import` names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    above = node.level - module.is_package
    package = module.name.rsplit(".", above)[0] if above else module.name
    return f"{package}.{node.module}" if node.module else package


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


def own_imports(module: Module, modules: Modules) -> list[str]:
    """Those of rupert."""
    return sorted(name for name in imports(module, modules) if name.split(".")[0] == "rupert")


def part_of(name: str, depth: int = 1) -> str:
    """The folder or file below the package: `data` for `rupert.data.sources`; at depth 2 the one below that."""
    parts = name.split(".")
    return parts[depth] if len(parts) > depth else ""
