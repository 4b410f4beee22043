"""Writes the table of docs/licences.md: every package that rupert's core and extras can bring along, and its licence.

`python docs/generate_licences.py` writes it anew, and `--check` exits with 1 where it is not what it would write. Which
packages is read from pyproject.toml and uv.lock, for every platform and version of Python; the licences from what is
installed here. What stands above `MARK` is written by hand.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
MARK = "<!-- Below: written by docs/generate_licences.py; edit that instead. -->"
CORE = "core"

# Licences under which a package may be depended on without another word.
ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
        *("CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
    }
)
# Those that may be depended on although their licence is not among these, and why.
EXPLAINED = {
    "certifi": "MPL-2.0 asks that changed files of certifi stay under it; rupert neither changes nor ships them.",
    "chardet": "LGPL-2.1 asks that its changed files stay under it; lm-eval brings it, and rupert does not ship it.",
    "tqdm": "MPL-2.0 for a part of its files, MIT for the rest; rupert neither changes nor ships them.",
}
# What the packages write in place of an SPDX expression.
SPELLINGS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "2-clause BSD": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "The MIT License (MIT)": "MIT",
    "PSFL": "PSF-2.0",
}
# Read in their licence files: their metadata do not say which BSD licence, or they are not installed on every platform.
READ = {
    "colorama": "BSD-3-Clause",
    "httpx2-jsfetch": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
}


def needed_by() -> dict[str, list[str]]:
    """Every package that can be installed with rupert -> `core`, or the extras that bring it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = _locked()
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "all"}
    found: dict[str, list[str]] = {name: [CORE] for name in _reached(project["dependencies"], locked)}
    for extra, lines in extras.items():
        for name in _reached(lines, locked):
            if found.get(name) != [CORE]:
                found.setdefault(name, []).append(extra)
    return dict(sorted(found.items()))


def _locked() -> dict[str, list[Mapping[str, Any]]]:
    packages: dict[str, list[Mapping[str, Any]]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]:
        packages.setdefault(package["name"], []).append(package)
    return packages


def _reached(lines: Iterable[str], locked: Mapping[str, list[Mapping[str, Any]]]) -> set[str]:
    """The packages that requirements come to, their own requirements included."""
    asked = [Requirement(line) for line in lines]
    waiting = [(canonicalize_name(one.name), frozenset(one.extras)) for one in asked]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        if (one := waiting.pop()) not in seen:
            seen.add(one)
            waiting += _requirements(locked[one[0]], one[1])
    return {name for name, _ in seen}


def _requirements(versions: Iterable[Mapping[str, Any]], extras: Iterable[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for package in versions:
        lists = [package.get("dependencies", [])]
        lists += [package.get("optional-dependencies", {}).get(extra, []) for extra in extras]
        yield from ((one["name"], frozenset(one.get("extra", ()))) for each in lists for one in each)


def licence(package: str) -> str:
    """A package's licence as an SPDX expression; empty where it cannot be told."""
    if package in READ:
        return READ[package]
    try:
        found = metadata(package)
    except PackageNotFoundError:
        return ""
    if expression := found.get("License-Expression"):
        return str(expression)
    prefix = "License :: OSI Approved :: "
    classified = [line.removeprefix(prefix) for line in found.get_all("Classifier", []) if line.startswith(prefix)]
    said = (found.get("License") or " OR ".join(classified)).partition("\n")[0].strip()
    return SPELLINGS.get(said, said)


def is_allowed(expression: str) -> bool:
    """Whether one of the alternatives of an expression consists of allowed licences alone."""
    return any(set(one.split(" AND ")) <= ALLOWED for one in expression.strip("()").split(" OR "))


def table() -> str:
    """The generated part of the page."""
    found = needed_by()
    core = sum(by == [CORE] for by in found.values())
    rows = [f"| {name} | {licence(name)} | {', '.join(by)} |" for name, by in found.items()]
    head = f"{len(found)} packages, {core} of them by the core.\n\n| package | licence | needed by |\n|---|---|---|"
    explained = [f"- **{name}** ({licence(name)}): {why}" for name, why in EXPLAINED.items()]
    return "\n".join([head, *rows, "", "Not permissive in every part, and why they may be there:", "", *explained, ""])


def page() -> str:
    """The whole page as it ought to be."""
    return f"{PAGE.read_text(encoding='utf-8').partition(MARK)[0].rstrip()}\n\n{MARK}\n\n{table()}"


def main() -> int:
    """Write the page, or check it."""
    if "--check" in sys.argv[1:]:
        return int(page() != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
