"""`rupert status`: how far a study is, and what stopped it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rupert.cli.arguments import Parser
from rupert.study.store import KINDS
from rupert.study.survey.status import STATES, StageStatus, StudyStatus, status
from rupert.terminal import Progress, printable

TOLD = ("running", "interrupted", "failed", "damaged")  # states of which each stage has a line


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", type=Path, help="of `rupert run`: its --output-dir")
    parser.add_argument("--json", action="store_true", help="print JSON, with every stage, instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print how far the study is."""
    found = status(arguments.folder)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(Text(printable(f"{found.study}: {found.count('done')} of {len(found.stages)} stages are done")))
    console.print(_counts(found))
    for line in _lines(found):
        console.print(Text(printable(line)), soft_wrap=True)
    return 0


def _counts(found: StudyStatus) -> Table:
    """How many stages of each kind are how far; 80 columns are enough."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for heading in ("", "stages", *STATES):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    kinds = [kind for kind in KINDS if any(stage.kind == kind for stage in found.stages)]
    for kind in kinds:
        _add_counts(table, found, kind)
    table.add_section()
    _add_counts(table, found)
    return table


def _add_counts(table: Table, found: StudyStatus, kind: str = "") -> None:
    counts = [found.count(state, kind) for state in STATES]
    table.add_row(kind or "all", *(str(count or "") for count in (sum(counts), *counts)))


def _lines(found: StudyStatus) -> Iterator[str]:
    for stage in found.stages:
        if stage.state in TOLD:
            yield f"{stage.state} {stage.kind} {stage.label}{_said(stage)}"
    for path in found.set_aside:
        yield f"damaged, not used: {path}"
    if found.count("done") < len(found.stages) and not found.count("running"):
        yield f"to go on: repeat the `rupert run` command of {found.study}"


def _said(stage: StageStatus) -> str:
    said = stage.message or (_far(stage.progress) if stage.progress else "")
    return f": {said}" if said else ""


def _far(progress: Progress) -> str:
    total = "" if progress.total is None else f"/{progress.total:.0f}"
    return f"{progress.title} {progress.done:.0f}{total} {progress.note}".strip()
