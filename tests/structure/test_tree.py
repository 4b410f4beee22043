"""The tree in the README names what is there, and leaves no package of two levels out."""

from __future__ import annotations

import re

from .source import PACKAGE, REPOSITORY


def tree() -> list[str]:
    """Every path of the tree, relative to the repository."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## What is where\n+```text\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    paths: list[str] = []
    above: list[tuple[int, str]] = []
    for line in block.group(1).splitlines():
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        above = [(other, place) for other, place in above if other < depth]
        paths.append("".join(place for _, place in above) + name)
        if name.endswith("/"):
            above.append((depth, name))
    return paths


def test_every_entry_is_there() -> None:
    paths = tree()
    assert len(paths) > 50
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_every_part_and_every_package_of_study_is_an_entry() -> None:
    packages = {path.parent for path in PACKAGE.rglob("__init__.py")}
    wanted = [path for path in packages if path.parent == PACKAGE or path.parent == PACKAGE / "study"]
    files = [path for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    found = {REPOSITORY / path.rstrip("/") for path in tree()}
    assert [path.name for path in (*wanted, *files) if path not in found] == []
