"""Every command and snippet of README and site is executed, or parsed where its comment says why it cannot be."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rupert.study.definition.checking import check
from rupert.study.definition.reading import read_study

from . import commands
from .blocks import ROOT, Block, blocks, directed, documents
from .prepared import Prepared

# A log of what was once done, and what was once changed, may name what is not there any more.
HISTORY = (ROOT / "docs" / "log.md",)
WITH_BLOCKS = [path for path in documents() if path not in HISTORY and list(blocks(path))]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("path", WITH_BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_on_a_page_works_in_its_order(
    path: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(path):
        for name in block.given:
            prepared.put(name, tmp_path)
        EXECUTED[block.language](block, names)


def run_bash(block: Block, _: Mapping[str, Any]) -> None:
    if block.not_run:
        for line in commands.lines(block.as_tested):
            parsed(line.removesuffix(" &"))
        return
    for line in commands.lines(block.as_tested):
        outcome = commands.run(line, small=block.small, added=block.added)
        if outcome[0]:
            commands.fail(block.place, line, outcome)


def parsed(line: str) -> None:
    """What can be known of a command that is not run."""
    if line.startswith("rupert "):
        commands.parse(line)
    elif line.startswith("make "):
        target = line.split()[1]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"the Makefile has no {target}"


def run_console(block: Block, _: Mapping[str, Any]) -> None:
    """A command after `$`, and lines that it has to print; it may fail, as it may be there to show."""
    said = ""
    for line in block.as_tested.splitlines():
        if line.startswith("$ "):
            said = commands.run(line.removeprefix("$ "), small=block.small, added=block.added)[1]
        elif line.strip() != "...":
            assert " ".join(line.split()) in " ".join(said.split()), f"{block.place}: not printed: {line}"


def run_python(block: Block, names: dict[str, Any]) -> None:
    assert not block.not_run, f"{block.place}: Python is always run"
    exec(compile(block.as_tested, block.place, "exec"), names)


def read_yaml_block(block: Block, _: Mapping[str, Any]) -> None:
    """A study: written where the page says, and checked as `rupert validate` checks it."""
    path = Path(block.file or "study.yaml")
    path.write_text(block.as_tested, encoding="utf-8")
    assert {"defenses", "extends"} & set(yaml.safe_load(block.as_tested)), f"{block.place}: not a study"
    check(read_study(path))


def read_toml(block: Block, _: Mapping[str, Any]) -> None:
    assert tomllib.loads(block.as_tested)


def is_no_command(block: Block, _: Mapping[str, Any]) -> None:
    """What is only shown: output, a tree, a docstring."""
    said = [line for line in block.text.splitlines() if re.match(r"(\$ )?(rupert|pip|make) ", line)]
    assert not said, f"{block.place}: a command in a block of text"


EXECUTED = {
    "bash": run_bash,
    "console": run_console,
    "python": run_python,
    "text": is_no_command,
    "toml": read_toml,
    "yaml": read_yaml_block,
}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_hides_from_the_tests(path: Path) -> None:
    """In a block of another language, or in one that is only indented."""
    assert {block.language for block in blocks(path)} <= set(EXECUTED)
    outside = re.sub(r"^[ ]*```.*?^[ ]*```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"^(?: {4,}|\t)(?:\$ )?(?:rupert|make|pip) .*", outside, flags=re.MULTILINE)


@pytest.mark.parametrize("comment", ["slow", "skip: slow", "test: tiny", "test: read A", "not run here: slow"])
def test_a_comment_that_no_test_understands_is_a_failure(comment: str) -> None:
    with pytest.raises(AssertionError):
        directed(Block("here", "bash", "rupert ls recipes\n"), [comment])


def test_a_command_that_does_not_work_is_a_failure() -> None:
    assert directed(Block("here", "bash", ""), ["not run here: needs the Hub"]).not_run
    with pytest.raises(pytest.fail.Exception, match="unknown option --budgets"):
        run_bash(Block("here", "bash", "rupert ladder --budgets 3\n"), {})


def inline() -> list[str]:
    """Commands with flags in running text; a name alone is a mention."""
    found: list[str] = []
    for path in documents():
        if path not in HISTORY:
            text = re.sub(r"^[ ]*```.*?^[ ]*```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
            found += [" ".join(span.split()) for span in re.findall(r"`(rupert [^`]*)`", text)]
    return sorted({line for line in found if " --" in line and "..." not in line and "--help" not in line})


@pytest.mark.parametrize("line", inline())
def test_flags_in_running_text_exist(line: str) -> None:
    assert commands.unknown_flags(line) == set()
