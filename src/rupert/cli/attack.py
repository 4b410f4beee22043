"""`rupert attack NAME`: attack a model; with benign data, fine-tune it honestly."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rupert.attacks import ATTACKS
from rupert.cli.arguments import add_launching, add_methods, add_tracking, collect, config_path, launched, tracking
from rupert.errors import UsageError
from rupert.evaluation import trajectory
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import Point
from rupert.models.loading import ModelSettings
from rupert.records import Metric
from rupert.settings import convert, parse, read_yaml
from rupert.study import stage
from rupert.study.definition.recipes import find_recipe
from rupert.training import processes

if TYPE_CHECKING:
    from rich.table import Table

EVAL_LIMIT = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: an attack, and its settings."""
    for command in add_methods(parser, ATTACKS, ModelSettings, "the attacked model"):
        add_launching(command)
        add_tracking(command)
        _add_measuring(command)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags by which the model is measured while it is attacked."""
    group = parser.add_argument_group("measuring on the way")
    text = "measure harm and ability every so many steps of a training, and at the end; below 1: share of all steps"
    group.add_argument("--eval-steps", metavar="NUMBER", help=f"{text} (default: never)")
    text = f"rows of the requests and of each task (default: {EVAL_LIMIT})"
    group.add_argument("--eval-limit", metavar="INTEGER", help=text)
    text = "YAML file with settings of `rupert eval`, which say what is measured"
    group.add_argument("--eval-config", metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Attack a model and say where what came out is."""
    attack = collect(arguments, ATTACKS[arguments.method], config_path(arguments))
    model = collect(arguments, ModelSettings)
    code = launched(arguments, "attack")
    if code is not None:
        return code
    eval_steps = convert(float, arguments.eval_steps or 0.0, "--eval-steps")
    record = stage.attack(
        attack,
        model,
        arguments.output_dir,
        tracking=tracking(arguments),
        evaluation=_evaluation(arguments),
        eval_steps=eval_steps,
        resume=arguments.resume,
    )
    if processes.rank() > 0:
        return 0
    report = record.report
    loss = f"mean loss {report['loss']:.3f}, " if "loss" in report else ""
    print(f"{loss}{report['steps']} steps, {report['tokens']} tokens, {record.seconds:.0f} s")
    if eval_steps:
        _show(arguments.output_dir / trajectory.FILE)
    print(arguments.output_dir)
    return 0


def _evaluation(arguments: argparse.Namespace) -> Evaluation | None:
    """What is measured on the way; None where nothing is."""
    for flag, value in (("--eval-limit", arguments.eval_limit), ("--eval-config", arguments.eval_config)):
        if value is not None and arguments.eval_steps is None:
            raise UsageError(f"{flag}: needs --eval-steps, such as 0.2")
    if arguments.eval_steps is None:
        return None
    file = find_recipe(arguments.eval_config, "--eval-config") if arguments.eval_config else None
    given = {"limit": EVAL_LIMIT, **(read_yaml(file) if file else {})}
    evaluation = parse(Evaluation, given, str(file) if file else "")
    if arguments.eval_limit is None:
        return evaluation
    return replace(evaluation, limit=convert(int, arguments.eval_limit, "--eval-limit"))


def _show(file: Path) -> None:
    """Print the points, which an attack that was done before may not have."""
    if file.exists():
        Console().print(_table(trajectory.read_points(file)))
    else:
        print("attacked before, without points on the way; name another folder to have them")


def _table(points: Sequence[Point]) -> Table:
    """A line a point: what was spent, and what came of it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("step", "rows", "tokens", "TFLOP", "s", "harm, %", "ability, %", "refusal"):
        table.add_column(title, justify="right")
    for point in points:
        spent = (f"{point.step:,}", f"{point.rows:,}", f"{point.tokens:,}", f"{point.flops / 1e12:,.2g}")
        refusal = "" if point.refusal is None else f"{100 * point.refusal.value:.0f}"
        table.add_row(*spent, f"{point.seconds:,.1f}", _rate(point.harm), _rate(point.ability), refusal)
    return table


def _rate(metric: Metric) -> str:
    """In percent, with its 95 % interval."""
    if metric.low is None or metric.high is None:
        return f"{100 * metric.value:.0f}"
    return f"{100 * metric.value:.0f} ({100 * metric.low:.0f} to {100 * metric.high:.0f})"
