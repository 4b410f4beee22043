"""What the README names is there: files, folders and the targets of make. Its commands are run by tests/docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_links_and_the_tree_name_what_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    tree = blocks("text")[-1]
    assert tree_paths(tree)
    assert [path for path in tree_paths(tree) if not (ROOT / path).exists()] == []


def tree_paths(tree: str) -> list[str]:
    """The paths of an indented tree: two spaces a level, the name before the first double space."""
    open_folders: list[str] = []
    found = []
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        open_folders[depth:] = [name.rstrip("/")]
        found.append("/".join(open_folders))
    return found


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
