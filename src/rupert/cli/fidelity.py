"""`rupert fidelity`: how true each way of estimating SEAM's gradient is for a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table

from rupert.cli.arguments import add_settings, collect, config_path
from rupert.errors import UsageError
from rupert.evaluation.gradients.fidelity import NOT_USABLE, USABLE, FidelitySettings, verdict
from rupert.models.loading import ModelSettings
from rupert.records import Metric, Record
from rupert.study.standalone.fidelity import fidelity


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: those of a stage, but that its folder may be left out."""
    parser.add_argument("--output-dir", type=Path, help="new or empty folder for the record; without it none is kept")
    parser.add_argument("--config", help="YAML file, or name of a recipe, with settings")
    parser.add_argument("--resume", action="store_true", help="do again what an interrupted run left there")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the metrics instead of a table")
    add_settings(parser, ModelSettings)
    add_settings(parser, FidelitySettings)


def run(arguments: argparse.Namespace) -> int:
    """Measure each way and print how true it is."""
    if arguments.resume and not arguments.output_dir:
        raise UsageError("--resume: there is no run to go on with; name its folder with --output-dir")
    if arguments.output_dir:
        arguments.to_go_on = "repeat the command with --resume to go on from here"
    settings = collect(arguments, FidelitySettings, config_path(arguments))
    model = collect(arguments, ModelSettings)
    with ExitStack() as stack:
        folder = arguments.output_dir or Path(stack.enter_context(TemporaryDirectory()))
        record = fidelity(settings, model, folder, resume=arguments.resume)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(metric) for metric in record.metrics], indent=2))
    else:
        Console().print(_table(record))
    return 0


def _table(record: Record) -> Table:
    table = Table(
        title=f"gradient of the cosine of harmful and benign gradients: {record.model}",
        caption=f"against the exact gradient in {record.report['reference']}; norm: over the exact one's; moved: share "
        f"of the weights that the shift changed; usable: cosine {USABLE} or above, not usable: below {NOT_USABLE}",
        box=box.SIMPLE,
    )
    table.add_column("way and shift", no_wrap=True)
    for heading in ("cosine", "norm", "moved", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for label, values in _by_way(record.metrics).items():
        moved = f"{values['moved']:.1%}" if "moved" in values else ""
        numbers = (f"{values['cosine']:.4f}", f"{values['norm_ratio']:.3g}", moved, f"{values['seconds']:.1f}")
        table.add_row(label, *numbers, verdict(values["cosine"]))
    return table


def _by_way(metrics: tuple[Metric, ...]) -> dict[str, dict[str, float]]:
    """The values by the label in square brackets, and by what stands before it."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for metric in metrics:
        name, _, label = metric.name.partition("[")
        found[label.removesuffix("]")][name] = metric.value
    return found
