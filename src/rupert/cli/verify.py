"""`rupert verify`: what is claimed of a defense, and what came out here."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rupert.cli.arguments import Parser, add_overrides
from rupert.cli.run import add_running, run_and_show
from rupert.errors import UsageError
from rupert.records import ResultRow, write_json
from rupert.report.page import Claim
from rupert.report.results import CSV_FILE
from rupert.report.tables import UNDEFENDED, attack_title, defense_title, read_csv
from rupert.study.evidence.targets import Target, study_of, targets
from rupert.study.evidence.verification import VERIFICATION_FILE, Ours, Outcome, Verified, verify

STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "not measured": "yellow", "not run here": "dim"}
SIGNS = {"within": ("", "±"), "at_most": ("≤ ", "+"), "at_least": ("≥ ", "\N{MINUS SIGN}")}


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("defense", help="name of a defense: `rupert ls defenses`")
    add_overrides(parser)
    add_running(parser)
    parser.add_argument(
        "--output-dir", type=Path, help="where everything goes (default: rupert-verify-DEFENSE, or where --results are)"
    )
    parser.add_argument("--results", type=Path, help="folder of a study that was run already; then none is run")


def run(arguments: argparse.Namespace) -> int:
    """Run the defense's study on Potionworld, or take one that was run, and hold it against the claims."""
    claims = targets(arguments.defense)
    if arguments.results:
        return _hold_against(claims, arguments)
    study = study_of(arguments.defense, arguments.overrides)
    arguments.output_dir = folder = arguments.output_dir or Path(f"rupert-verify-{arguments.defense}")
    found: list[Verified] = []

    def judged(rows: Sequence[ResultRow]) -> list[Claim]:
        found.extend(verify(claims, rows, study=study.name, model=study.model.model))
        return list(map(in_words, found))

    code = run_and_show(study, arguments, f"rupert verify {arguments.defense}", judged)
    _tell(found, arguments.defense, folder)
    return code


def _hold_against(claims: Sequence[Target], arguments: argparse.Namespace) -> int:
    """Take the numbers of a study that was run."""
    if arguments.overrides:
        raise UsageError(f"{arguments.overrides[0]}: --results are taken as they are; leave one of the two out")
    rows = read_csv(arguments.results / CSV_FILE)
    name, model = (rows[0].study, rows[0].model) if rows else ("", "")
    _tell(verify(claims, rows, study=name, model=model), arguments.defense, arguments.output_dir or arguments.results)
    return 0


def _tell(found: Sequence[Verified], defense: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json({"defense": defense, "verified": [asdict(one) for one in found]}, folder / VERIFICATION_FILE)
    _show(found, folder)


def in_words(one: Verified) -> Claim:
    """A verdict as pages and tables say it."""
    source = one.target.source or "expected; the tolerance is ours"
    return Claim(_claim(one.target), source, _claimed(one.target), _ours(one.target, one.ours), one.outcome)


def _show(found: Sequence[Verified], folder: Path) -> None:
    """A table for each source, so that what is published and what we expect are not taken for each other."""
    console = Console(highlight=False)
    for source, group in groupby(found, lambda one: one.target.source):
        console.print(_table(source or "on Potionworld; what is expected, and how closely, is ours", list(group)))
    for reason, count in Counter(one.reason for one in found if one.reason).items():
        console.print(f"{count} without a verdict: {reason}", soft_wrap=True)
    outcomes = Counter(one.outcome for one in found)
    console.print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in STYLES if outcomes[outcome]))
    console.print(f"verdicts {folder / VERIFICATION_FILE}", soft_wrap=True)


def _table(title: str, found: Sequence[Verified]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("claim", overflow="fold", ratio=1)
    table.add_column("claimed", justify="right", no_wrap=True, width=16)
    table.add_column("ours", justify="right", no_wrap=True, width=22)
    table.add_column("verdict", no_wrap=True, width=12)
    for one in found:
        words = in_words(one)
        table.add_row(Text(words.text), words.claimed, words.ours, Text(words.outcome, style=STYLES[one.outcome]))
    return table


def _claim(target: Target) -> str:
    where = [] if target.attack == "none" else [attack_title(target.attack)]
    where += [defense_title(target.defense)] if target.defense == UNDEFENDED else []
    return f"{target.claim} ({', '.join(where)})" if where else target.claim


def _claimed(target: Target) -> str:
    """The value, and the tolerance on the side on which it counts: "≤ 0.0 + 5.0 %"."""
    bound, side = SIGNS[target.is_to_be]
    tolerance = f" {side} {_text(target, target.tolerance)}" if target.tolerance else ""
    return f"{bound}{_text(target, target.value)}{tolerance}{_unit(target)}"


def _ours(target: Target, ours: Ours | None) -> str:
    if ours is None:
        return "-"
    value = f"{_text(target, ours.value)}{_unit(target)}"
    if ours.low is None or ours.high is None:
        return value
    return f"{value} ({_text(target, ours.low, 0)} to {_text(target, ours.high, 0)})"


def _text(target: Target, value: float, digits: int = 1) -> str:
    """A rate in percent, or a log-probability in nats a token, which has a digit more."""
    text = f"{value:z.{digits + 1}f}" if target.metric.startswith("logp_") else f"{100 * value:z.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _unit(target: Target) -> str:
    return "" if target.metric.startswith("logp_") else " %"
