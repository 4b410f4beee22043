"""`rupert ls`: what there is to choose from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rupert.cli.arguments import about
from rupert.plugins import Family, packages_of

Row = Mapping[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("kind", choices=LISTINGS, help="what to list")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print one listing."""
    rows = LISTINGS[arguments.kind]()
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
    else:
        _print_table(arguments.kind, rows)
    return 0


def _datasets() -> Sequence[Row]:
    from rupert.data.sources import listing

    return listing()


def _models() -> Sequence[Row]:
    from rupert.models.loading import listing

    return listing()


def _defenses() -> Sequence[Row]:
    from rupert.defenses import DEFENSES

    return _classes(DEFENSES)


def _attacks() -> Sequence[Row]:
    from rupert.attacks import ATTACKS

    return _classes(ATTACKS)


def _judges() -> Sequence[Row]:
    from rupert.evaluation.judges import JUDGES, PRESETS
    from rupert.settings import as_mapping

    presets = [
        {"name": name, "about": about(type(judge)), "model": as_mapping(judge)["model"]}
        for name, judge in PRESETS.items()
    ]
    return [*_classes(JUDGES), *presets]


def _scores() -> Sequence[Row]:
    from rupert.evaluation.fine_tuning_score import TASKS

    return _classes(TASKS)


def _recipes() -> Sequence[Row]:
    from rupert.study.definition.recipes import recipes

    return recipes()


LISTINGS: dict[str, Callable[[], Sequence[Row]]] = {
    "datasets": _datasets,
    "models": _models,
    "defenses": _defenses,
    "attacks": _attacks,
    "judges": _judges,
    "scores": _scores,
    "recipes": _recipes,
}


def _classes(methods: Mapping[str, type]) -> list[Row]:
    """A row for each method; what is wrong with those of other packages goes to standard error."""
    for problem in methods.problems() if isinstance(methods, Family) else ():
        print(f"rupert: {problem}", file=sys.stderr)
    return [{"name": name, "about": about(cls), **_package(cls)} for name, cls in methods.items()]


def _package(cls: type) -> Row:
    found = [f"{name} {version}" for name, version in packages_of([cls]).items()]
    return {"package": found[0]} if found else {}


def _print_table(kind: str, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=kind, show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(row["name"], _description(row))
    Console(markup=False, highlight=False).print(table)


def _description(row: Row) -> str:
    """What the thing is, and below it everything else that is known: one column each would not fit a terminal."""
    facts = [
        f"{key.replace('_', ' ')}: {_in_words(value)}"
        for key, value in row.items()
        if key not in ("name", "about") and value is not None
    ]
    return "\n".join([row["about"], " · ".join(facts)]).strip()


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)
