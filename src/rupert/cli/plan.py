"""`rupert plan`: what a study takes, before it is run, and what to change where it does not fit."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields

from rich.console import Console
from rich.table import Table

from rupert.cli.arguments import Parser, add_study
from rupert.errors import InvalidValue, UsageError
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.estimates import DEVICES, Line, Plan, Setup, device, plan
from rupert.study.estimates.memory import Memory
from rupert.study.estimates.work import efficiency

SHARDINGS = ("none", "fsdp2", "zero3")
# The narrowest a column can be that still says what it holds.
PARTS = {
    "weights": "weights",
    "gradients": "grad.",
    "optimizer": "optim.",
    "activations": "activ.",
    "logits": "logits",
    "second_order": "2nd order",
    "copies": "copies",
}
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
WIDTH = 80


def configure(parser: Parser) -> None:
    """The command's arguments."""
    add_study(parser)
    parser.add_argument("--device", default="", help=f"{', '.join(DEVICES)} (default: this machine)")
    parser.add_argument("--gpus", type=int, default=1, help="how many of the device (default: 1)")
    parser.add_argument(
        "--sharding",
        choices=SHARDINGS,
        default="none",
        help="how a training is divided over them (default: none, as many stages run at once)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; exit code 2 where something does not fit.

    Raises:
        UsageError: a stage cannot run on the device; a line for each kind.
    """
    if arguments.gpus < 1:
        raise InvalidValue("--gpus", arguments.gpus, "must be above 0")
    study = read_study(find_recipe(arguments.study, "study"), arguments.overrides)
    setup = Setup(hardware=device(arguments.device), gpus=arguments.gpus, sharding=arguments.sharding)
    found = plan(study, setup)
    if arguments.json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        _show(found)
    complaints = [_complaint(line, setup) for line in found.lines if not line.fits]
    if complaints:
        raise UsageError("\n".join(complaints))
    return 0


def _as_json(found: Plan) -> dict[str, object]:
    lines = [{**asdict(line), "peak_memory": line.estimate.memory.total} for line in found.lines]
    return {**asdict(found), "lines": lines, "usable_memory": found.setup.hardware.usable}


def _show(found: Plan) -> None:
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(f"{found.model}, {found.parameters:,} parameters")
    console.print(f"on {_where(found)}; each figure: at most")
    console.print(_stages(found))
    console.print(_parts(found))
    console.print(
        f"in all: {_duration(found.seconds)} of work, {_duration(found.elapsed)} from beginning to end; "
        f"disk {_size(found.disk)} at the peak, {_size(found.kept)} in the end; {found.judge_tokens:,} judge tokens"
    )
    console.print(_assumptions(found), style="dim")


def _where(found: Plan) -> str:
    setup = found.setup
    if setup.gpus == 1:
        return setup.hardware.name
    layers = "layers divided over them" if found.is_split else "a stage on each"
    way = {"none": layers, "fsdp2": "trainings sharded by FSDP2", "zero3": "trainings sharded by ZeRO-3"}
    return f"{setup.gpus} x {setup.hardware.name}, {way[setup.sharding]}"


def _stages(found: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for name in ("count", "time each", "peak memory", "disk", "judge tokens", ""):
        table.add_column(name, justify="right")
    for line in found.lines:
        each = line.estimate
        table.add_row(
            _name(line),
            str(line.count),
            _duration(each.seconds),
            _size(each.memory.total),
            _size(each.kept + each.working),
            f"{each.judge_tokens:,}" if each.judge_tokens else "-",
            "fits" if line.fits else "TOO BIG" if not each.refused else "REFUSED",
        )
    return table


def _parts(found: Plan) -> Table:
    """What the peak is made of, in GB or MB, whichever fits the largest."""
    largest = max(line.estimate.memory.total for line in found.lines)
    scale, unit = next((pair for pair in UNITS[1:] if largest >= pair[0]), UNITS[-1])
    table = Table(box=None, pad_edge=False)
    table.add_column(f"memory, {unit}", overflow="fold")
    for field in fields(Memory):
        table.add_column(PARTS[field.name], justify="right")
    for line in found.lines:
        parts = (getattr(line.estimate.memory, field.name) / scale for field in fields(Memory))
        table.add_row(_name(line), *(f"{part:.1f}" if part else "-" for part in parts))
    return table


def _assumptions(found: Plan) -> str:
    hardware = found.setup.hardware
    text = (
        f"Rows count as max_length long, at {efficiency(hardware):.0%} of {hardware.single / 1e12:.3g} TFLOP/s in "
        f"float32 and {hardware.half / 1e12:.3g} in bfloat16; of the memory {_size(hardware.usable)} can be used. "
        "See docs/planning.md."
    )
    left_out = f"\nNot counted, because their sizes are not known here: {'; '.join(found.not_counted)}."
    return text + (left_out if found.not_counted else "")


def _complaint(line: Line, setup: Setup) -> str:
    each, name = line.estimate, _name(line)
    problem = each.refused or (
        f"{_size(each.memory.total)} do not fit into the {_size(setup.hardware.usable)} of {setup.hardware.name}"
    )
    if each.refused:
        return f"{name}: {problem}"
    tried = " or ".join(line.remedies)
    return f"{name}: {problem}; {f'would fit: {tried}' if tried else 'take a smaller model or a larger device'}"


def _name(line: Line) -> str:
    return f"{line.kind} {line.label}".strip()


def _size(size: float) -> str:
    for scale, unit in UNITS:
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size:.0f} B" if size else "-"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {round(seconds % 3600 / 60):02d} min"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.1f} s" if seconds else "-"
