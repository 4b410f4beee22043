"""`rupert demo`: attack an undefended and a defended model, and show both on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rupert.cli.arguments import Parser, add_overrides
from rupert.cli.run import add_running, run_and_show
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.executors.executor import cores

RECIPES = {"potionworld": "demo", "smollm2": "demo-smollm2"}
WORKERS = 4  # at most, of about 0.7 GB each, unless more are asked for


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--model", choices=RECIPES, default="potionworld", help="an embedded model (default: %(default)s, minutes)"
    )
    add_overrides(parser)
    add_running(parser, executor=None, chosen="processes, or in_process for smollm2")
    parser.add_argument("--output-dir", type=Path, help="where everything goes (default: rupert-demo[-smollm2])")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo's study."""
    recipe = RECIPES[arguments.model]
    if arguments.executor is None:
        _spread(arguments)
    arguments.output_dir = arguments.output_dir or Path(f"rupert-{recipe}")
    study = read_study(find_recipe(recipe), arguments.overrides)
    return run_and_show(study, arguments, f"rupert demo --model {arguments.model}")


def _spread(arguments: argparse.Namespace) -> None:
    """A model of 1 M parameters keeps one core busy, so there is a process for each; a larger one has them all."""
    is_small = arguments.model == "potionworld"
    arguments.executor = "processes" if is_small else "in_process"
    if is_small and arguments.workers is None:
        arguments.workers = min(cores(), WORKERS)
