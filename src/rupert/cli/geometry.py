"""`rupert geometry`: compare the gradients of harmful and benign data, in several models and along an attack."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path

from rich.console import Console

from rupert.attacks import FineTune
from rupert.cli.arguments import add_settings, add_stage, collect, config_path, flag_of
from rupert.errors import UsageError
from rupert.evaluation.gradients.geometry import GeometrySettings
from rupert.models.loading import ModelSettings
from rupert.records import Record
from rupert.report.geometry import read_points, summary_table, write_page
from rupert.settings import convert, fields_of, parse, read_yaml
from rupert.study.definition.recipes import find_recipe
from rupert.study.standalone.geometry import MEMORY_GB, POINTS_FILE, AttackSteps, geometry

PAGE = "geometry.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stage(parser, f"{POINTS_FILE}, {PAGE} and the record")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the metrics instead of a table")
    parser.add_argument("--attack", metavar="TEXT", help="YAML file, or name of a recipe, of an attack to go along")
    parser.add_argument("--at", nargs="+", metavar="INTEGER", help="attack steps after which to compare; 0 always is")
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=MEMORY_GB,
        metavar="NUMBER",
        help="gigabytes of gradients held at once on the device; what does not fit is computed again, with "
        "--projection gram (default: %(default)s)",
    )
    add_settings(parser, ModelSettings)
    # In place of that class's own --model, which is given once.
    parser.add_argument_group("models", conflict_handler="resolve").add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="potionworld, smollm2, a folder, or a name on the Hub; once for each, with the name to show it under",
    )
    add_settings(parser, GeometrySettings)


def run(arguments: argparse.Namespace) -> int:
    """Compare the gradients of each model; print the cosines, and draw them on a page."""
    settings = collect(arguments, GeometrySettings, config_path(arguments))
    models = _models(arguments)
    folder = arguments.output_dir
    along = _along(arguments)
    record = geometry(settings, models, folder, along=along, memory_gb=arguments.memory_gb, resume=arguments.resume)
    write_page(record, read_points(folder / POINTS_FILE), _command(arguments, settings, models), folder / PAGE)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(metric) for metric in record.metrics], indent=2))
    else:
        _show(record, folder)
    return 0


def _models(arguments: argparse.Namespace) -> dict[str, ModelSettings]:
    """The models by the names that they are shown under: their own, or a folder's last part, where none is given."""
    models: dict[str, ModelSettings] = {}
    for given in arguments.model or [""]:
        label, equals, name = given.partition("=")
        if not equals or Path(given).is_dir():
            label, name = Path(given).absolute().name if given and Path(given).is_dir() else given, given
        if label in models:
            raise UsageError(f"--model: two are called {label!r}; write --model NAME={name}")
        models[label] = collect(argparse.Namespace(**{**vars(arguments), "model": name}), ModelSettings)
    return models


def _along(arguments: argparse.Namespace) -> AttackSteps | None:
    if not arguments.attack:
        if arguments.at:
            raise UsageError("--at: there is no attack to go along; name one with --attack")
        return None
    if not arguments.at:
        raise UsageError("--at is missing; name the attack's steps after which to compare, such as --at 10 30")
    path = find_recipe(arguments.attack, "--attack")
    attack = parse(FineTune, read_yaml(path), str(path))
    return AttackSteps(attack=attack, at=convert(tuple[int, ...], arguments.at, "--at"))


def _command(arguments: argparse.Namespace, settings: GeometrySettings, models: dict[str, ModelSettings]) -> str:
    """What a reader types for the same numbers: only what differs from the defaults."""
    words = ["rupert", "geometry"]
    for label, model in models.items():
        words += ["--model", f"{label}={model.model}"]
    for options in (next(iter(models.values())), settings):
        for field in fields_of(type(options)):
            value = getattr(options, field.name)
            if value != field.default and field.name != "model":
                words += [flag_of(field.name), *map(str, value if isinstance(value, tuple) else (value,))]
    if arguments.attack:
        words += ["--attack", arguments.attack, "--at", *arguments.at]
    return shlex.join([*words, "--output-dir", str(arguments.output_dir)])


def _show(record: Record, folder: Path) -> None:
    console = Console()
    console.print(summary_table(record))
    console.print(f"numbers  {folder / POINTS_FILE}", soft_wrap=True, highlight=False)
    console.print(f"page     {(folder / PAGE).resolve()}", soft_wrap=True, highlight=False)
