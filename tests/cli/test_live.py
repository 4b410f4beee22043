"""The live table says what is done and how far the rest is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rupert.cli import live
from rupert.cli.arguments import Parser, add_study
from rupert.errors import UsageError
from rupert.study.running.progress import file_listener
from rupert.study.running.run import Board
from rupert.terminal import Progress


def drawn(board: Board) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(live.draw(board, 75))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_each_stage_that_is_worked_on_has_a_line(tmp_path: Path) -> None:
    file_listener(tmp_path / "a.json")(Progress("hardening with seam", 30, 600, "loss 1.234"))
    file_listener(tmp_path / "b.json")(Progress("asking arc_easy", 0, None))
    running = {"seam-seed0": tmp_path / "a.json", "none-none": tmp_path / "b.json", "sdd": tmp_path / "c.json"}
    head, *stages = drawn(Board(total=12, done=4, running=running))
    assert "4/12" in head
    assert "75 s" in head
    assert [line.split()[0] for line in stages] == ["none-none", "sdd", "seam-seed0"]
    assert "asking arc_easy" in stages[0]
    assert "starting" in stages[1]
    assert "30/600" in stages[2]
    assert "hardening with seam  loss 1.234" in stages[2]


def test_where_nobody_looks_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with live.watching(Board(total=3)) as console:
        console.print("a line")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "stages" not in printed.err


def test_overrides_may_stand_anywhere() -> None:
    parser = Parser()
    add_study(parser)
    parser.add_argument("--output-dir")
    for words in (["demo", "seeds=[0,1]", "--output-dir", "x"], ["demo", "--output-dir", "x", "seeds=[0,1]"]):
        parsed = parser.parse_args(words)
        assert (parsed.study, parsed.overrides, parsed.output_dir) == ("demo", ["seeds=[0,1]"], "x")
    with pytest.raises(UsageError, match="unexpected argument 'extra'"):
        parser.parse_args(["demo", "--output-dir", "x", "extra"])
