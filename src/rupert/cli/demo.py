"""`rupert demo`: attack an undefended and a defended model, and show both on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rupert.cli.arguments import Parser, add_overrides
from rupert.cli.run import add_running, run_and_show
from rupert.study.reading import read_study
from rupert.study.recipes import find_recipe

RECIPES = {"potionworld": "demo", "smollm2": "demo-smollm2"}


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--model", choices=RECIPES, default="potionworld", help="an embedded model (default: %(default)s, minutes)"
    )
    add_overrides(parser)
    add_running(parser)
    parser.add_argument("--output-dir", type=Path, help="where everything goes (default: rupert-demo[-smollm2])")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo's study."""
    recipe = RECIPES[arguments.model]
    arguments.output_dir = arguments.output_dir or Path(f"rupert-{recipe}")
    study = read_study(find_recipe(recipe), arguments.overrides)
    return run_and_show(study, arguments, f"rupert demo --model {arguments.model}")
