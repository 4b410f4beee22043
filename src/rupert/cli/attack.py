"""`rupert attack NAME`: attack a model; with benign data, fine-tune it honestly."""

from __future__ import annotations

import argparse

from rupert.attacks import ATTACKS
from rupert.cli.arguments import add_launching, add_methods, add_tracking, collect, config_path, launched, tracking
from rupert.models.loading import ModelSettings
from rupert.study import stage
from rupert.training import processes


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: an attack, and its settings."""
    for command in add_methods(parser, ATTACKS, ModelSettings, "the attacked model"):
        add_launching(command)
        add_tracking(command)


def run(arguments: argparse.Namespace) -> int:
    """Attack a model and say where what came out is."""
    attack = collect(arguments, ATTACKS[arguments.method], config_path(arguments))
    model = collect(arguments, ModelSettings)
    code = launched(arguments, "attack")
    if code is not None:
        return code
    record = stage.attack(attack, model, arguments.output_dir, tracking=tracking(arguments), resume=arguments.resume)
    if processes.rank() > 0:
        return 0
    report = record.report
    print(f"mean loss {report['loss']:.3f}, {report['steps']} steps, {report['tokens']} tokens, {record.seconds:.0f} s")
    print(arguments.output_dir)
    return 0
