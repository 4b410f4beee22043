"""What the site holds beside docs/: the README and its like from where they stand, and the help of every command.

Links are written as GitHub follows them, from file to file in the repository; here they become links between pages.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Where else in the repository a page comes from, and what it is called here.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/rupert-example/README.md": "example.md",
    "benchmarks/README.md": "benchmarks.md",
}
TREE = "\n## What is where\n"  # in the README; for those who contribute
WITH_METHODS = ("defend", "attack", "score")  # a page of their own for the help of each of their methods
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
COMMENT = re.compile(r"^[ ]*<!--.*?-->\n?", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    os.environ["COLUMNS"] = "100"  # how wide argparse writes
    home, _, tree = (ROOT / "README.md").read_text(encoding="utf-8").partition(TREE)
    tree, _, closing = tree.partition("\n```\n")
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in ELSEWHERE}
    texts["README.md"] = home + closing
    texts["CONTRIBUTING.md"] += f"{TREE}{tree}\n```\n"
    made = {ELSEWHERE[path]: text for path, text in texts.items()}
    for name, text in (made | dict(_command_pages())).items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Turn links from file to file into links from page to page, and leave comments out."""
    here = page.file.src_uri
    source = {name: path for path, name in ELSEWHERE.items()}.get(here, f"docs/{here}")

    def linked(match: re.Match[str]) -> str:
        image, text, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        place = _place(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if place is None:
            return match.group(0)
        if image and files.get_file_from_path(dark := place.replace(".png", "-dark.png")) and dark != place:
            return f"{_image(text, place, here, 'light')}{_image(text, dark, here, 'dark')}"
        return f"{image}[{text}]({_relative(place, here)}{anchor})"

    return LINK.sub(linked, COMMENT.sub("", markdown))


def _place(path: str) -> str | None:
    """The site's name of a file of the repository."""
    return ELSEWHERE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)


def _relative(place: str, here: str) -> str:
    return posixpath.relpath(place, posixpath.dirname(here) or ".")


def _image(text: str, place: str, here: str, theme: str) -> str:
    return f"![{text}]({_relative(place, here)}#only-{theme})"


def _command_pages() -> Iterator[tuple[str, str]]:
    """The help of every command, from the parsers that the commands use."""
    from rupert.cli.main import COMMANDS

    page = ["# Commands", "What `rupert COMMAND --help` says.", *_help("rupert", _top())]
    for name, command in COMMANDS.items():
        parser = _parser(name)
        page += [*_help(f"rupert {name}", parser)]
        if name in WITH_METHODS:
            page.append(f"[The settings of each](commands-{name}.md)")
            parts = [
                part for method, each in _methods(parser).items() for part in _help(f"rupert {name} {method}", each)
            ]
            opening = [f"# rupert {name}", f"What `rupert {name} NAME --help` says: {command.about}."]
            yield f"reference/commands-{name}.md", "\n\n".join([*opening, *parts]) + "\n"
    yield "reference/commands.md", "\n\n".join(page) + "\n"


def _help(title: str, parser: argparse.ArgumentParser) -> list[str]:
    return [f"## {title}", f"```text\n{parser.format_help().rstrip()}\n```"]


def _top() -> argparse.ArgumentParser:
    from rupert.cli.main import _top_parser

    return _top_parser()


def _parser(name: str) -> argparse.ArgumentParser:
    from rupert.cli.arguments import Parser
    from rupert.cli.main import COMMANDS

    parser = Parser(prog=f"rupert {name}", description=COMMANDS[name].about)
    import_module(COMMANDS[name].module).configure(parser)
    return parser


def _methods(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's methods."""
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}
