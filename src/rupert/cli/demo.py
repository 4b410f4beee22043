"""`rupert demo`: attack an undefended and a defended model, and show both on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rupert.cli.run import add_seeds, run_and_show
from rupert.study.plan import find_recipe, read_study

RECIPES = {"potionworld": "demo", "smollm2": "demo-smollm2"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--model", choices=RECIPES, default="potionworld", help="an embedded model (default: %(default)s, minutes)"
    )
    parser.add_argument("--output-dir", type=Path, help="where everything goes (default: rupert-demo[-smollm2])")
    add_seeds(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo's study."""
    recipe = RECIPES[arguments.model]
    folder = arguments.output_dir or Path(f"rupert-{recipe}")
    study = read_study(find_recipe(recipe))
    return run_and_show(study, arguments.seeds, folder, f"rupert demo --model {arguments.model}")
