"""`rupert defend NAME`: harden a model."""

from __future__ import annotations

import argparse

from rupert.cli.arguments import add_launching, add_methods, add_tracking, collect, config_path, launched, tracking
from rupert.defenses import DEFENSES
from rupert.models.loading import ModelSettings
from rupert.study import stage
from rupert.training import launching, processes


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: a defense, and its settings."""
    for command in add_methods(parser, DEFENSES, ModelSettings, "the hardened model"):
        command.add_argument(
            "--save-steps", type=int, default=stage.SAVE_STEPS, help="steps between checkpoints (default: %(default)s)"
        )
        add_launching(command)
        add_tracking(command)


def run(arguments: argparse.Namespace) -> int:
    """Harden a model and say where it is."""
    defense = collect(arguments, DEFENSES[arguments.method], config_path(arguments))
    model = collect(arguments, ModelSettings)
    launching.check_hardening(arguments.accelerate_config)
    code = launched(arguments, "defend")
    if code is not None:
        return code
    record = stage.defend(
        defense,
        model,
        arguments.output_dir,
        save_steps=arguments.save_steps,
        tracking=tracking(arguments),
        resume=arguments.resume,
    )
    if processes.rank() > 0:
        return 0
    history = record.report["history"]
    print(f"loss {history[0]['loss']:.3f} -> {history[-1]['loss']:.3f} in {len(history)} steps, {record.seconds:.0f} s")
    print(arguments.output_dir)
    return 0
