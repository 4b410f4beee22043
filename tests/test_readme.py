"""What the README tells a user to type works: commands parse, the Python runs, files and folders exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rupert.cli import main as command_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every rupert command of the README, in blocks and in running text."""
    inline = re.findall(r"`(rupert [^`]*)`", README)  # a name alone is a mention, not a command
    return [command for command in inline if " --" in command] + [
        line for block in blocks("bash") for line in block.splitlines() if line.startswith("rupert ")
    ]


class Parsed(Exception):
    """The command's own code was reached: its arguments are right."""


@pytest.mark.parametrize("command", [command for command in commands() if "..." not in command])
def test_every_command_parses_and_its_settings_are_valid(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rupert.models import loading
    from rupert.study import stage
    from rupert.training import irrelevant_pairs

    def reached(*_: object, **__: object) -> None:
        raise Parsed

    words = shlex.split(command)[1:]
    monkeypatch.chdir(tmp_path)
    if words[0] in ("ls", "env"):
        assert command_line.main(words) == 0
        return
    monkeypatch.setattr(loading, "check", lambda *_: None)  # hardened, attacked: made by the commands before
    monkeypatch.setattr(irrelevant_pairs.PairingSettings, "check", reached)
    for name in ("defend", "attack", "evaluate", "judge", "score"):
        monkeypatch.setattr(stage, name, reached)
    for place in (
        "training.potionworld.build",
        "cli.break_cost.read_ladder",
        "cli.card.evidence",
        "cli.compare.read_record",
        "cli.fidelity.fidelity",
        "cli.geometry.geometry",
        "cli.ladder.climb",
        "cli.plan.read_study",
        "cli.release.evidence",
        "cli.run.run_study",
        "cli.samples.read_samples",
        "cli.status.status",
    ):
        monkeypatch.setattr(f"rupert.{place}", reached)
    if words == ["--help"]:
        with pytest.raises(SystemExit):
            command_line.main(words)
    elif len(words) > 1 and words[0] != "demo":
        with pytest.raises(Parsed):
            command_line.main(words)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "Metric(name='harm'" in capsys.readouterr().out


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
