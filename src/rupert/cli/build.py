"""`rupert build potionworld`: make the embedded model again from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("name", choices=["potionworld"], help="which model")
    parser.add_argument("--output-dir", required=True, type=Path, help="new or empty folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order of examples (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Build and say where."""
    from rupert.terminal import bar
    from rupert.training.potionworld import ALIGN, TEACH, Phase, build

    with bar("building potionworld", TEACH.steps + ALIGN.steps) as shown:

        def report(phase: Phase, _step: int, loss: float) -> None:
            shown.update(done=shown.progress.done + 1, note=f"{phase.name}, loss {loss:.3f}")

        build(arguments.output_dir, seed=arguments.seed, report=report)
    print(arguments.output_dir)
    return 0
