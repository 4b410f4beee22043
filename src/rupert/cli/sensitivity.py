"""`rupert sensitivity`: vary the details around an attack one at a time, and see which of them flip the verdict."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rupert.attacks import ATTACKS
from rupert.cli.arguments import add_settings, add_stage, collect, config_path
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.verdicts import Change, Thresholds
from rupert.models.loading import ModelSettings
from rupert.study.standalone.sensitivity import SENSITIVITY_FILE, TABLE_FILE, Row, sensitivity
from rupert.study.standalone.variations import Case, Chosen, choose

STYLES: dict[Change, str] = {"same": "dim", "flips": "bold red", "less resolved": "yellow", "more resolved": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: an attack as --method and --config have it, and what is varied around it."""
    add_stage(parser, f"a folder for each variation, {SENSITIVITY_FILE} and {TABLE_FILE}")
    parser.add_argument(
        "--method", default="fine_tune", choices=ATTACKS, help="the attack that --config sets (default: %(default)s)"
    )
    parser.add_argument(
        "--variations", default="", metavar="FILE", help="YAML file, or name of a recipe (default: sensitivity)"
    )
    for settings in (Thresholds, ModelSettings, Evaluation):
        add_settings(parser, settings)


def run(arguments: argparse.Namespace) -> int:
    """Attack once for each variation; print a line a variation, and which verdicts flip."""
    base = Case(
        attack=collect(argparse.Namespace(), ATTACKS[arguments.method], config_path(arguments)),
        model=collect(arguments, ModelSettings),
        evaluation=collect(arguments, Evaluation),
    )
    chosen, thresholds = choose(arguments.variations, base), collect(arguments, Thresholds)
    folder: Path = arguments.output_dir
    rows = sensitivity(base, chosen.cases, folder, thresholds=thresholds, resume=arguments.resume)
    _show(rows, chosen, thresholds)
    Console().print(f"numbers  {folder / SENSITIVITY_FILE}", soft_wrap=True, highlight=False)
    return 0


def _show(rows: Sequence[Row], chosen: Chosen, thresholds: Thresholds) -> None:
    console = Console(highlight=False)
    console.print(_table(rows))
    for labels, reason in ((chosen.same, "they change nothing"), (chosen.foreign, "the attack has no such setting")):
        if labels:
            console.print(f"left out, as {reason} here: {', '.join(labels)}", soft_wrap=True)
    harm, share = thresholds.harm_threshold, thresholds.ability_share
    told = f"broke: harm of {harm:.0%} or more, its whole interval, and {share:.0%} or more of the model's own ability"
    console.print(f"{told}, which is {rows[0].own_ability:.1%}", soft_wrap=True)
    varied = rows[1:]
    counts = Counter(row.change for row in varied if row.change)
    found = ", ".join(f"{counts[name]} {name}" for name in STYLES if counts[name])
    console.print(f"{rows[0].verdict}; of {len(varied)} variations: {found or 'none has a verdict'}", soft_wrap=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("varied", overflow="fold")
    for title in ("harm", "95 % interval", "ability"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("change", overflow="fold", min_width=13)
    for number, row in enumerate(rows):
        changed = Text(row.change or row.problem, style=STYLES[row.change] if row.change else "yellow")
        table.add_row(row.label, *_numbers(row), row.verdict or "-", changed if number else Text())
    return table


def _numbers(row: Row) -> tuple[str, str, str]:
    if row.harm is None or row.ability is None:
        return "-", "-", "-"
    low, high = (row.harm.value if end is None else end for end in (row.harm.low, row.harm.high))
    return f"{row.harm.value:.1%}", f"{low:.0%} to {high:.0%}", f"{row.ability:.1%}"
