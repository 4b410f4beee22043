"""`rupert run`: run a study, and end in a table, results.csv and report.html."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rupert.cli.arguments import Parser, add_launching, add_study, add_tracking, divided
from rupert.cli.live import watching
from rupert.cli.study_page import REPORT, study_page
from rupert.errors import UsageError
from rupert.records import ResultRow, write_text
from rupert.report.page import Claim
from rupert.report.results import CSV_FILE, write_results
from rupert.report.tables import summary_table
from rupert.study.definition.checking import check
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study
from rupert.study.evidence import begin, evidence
from rupert.study.executors import EXECUTORS, Executor, Resources
from rupert.study.running.launched import Launcher
from rupert.study.running.run import Board, Cell, result_rows
from rupert.study.running.run import run as run_study
from rupert.study.running.task import Runtime

Judged = Callable[[Sequence[ResultRow]], Sequence[Claim]]

WRITTEN_EVERY = 30.0  # seconds between the results of a study that still runs


def configure(parser: Parser) -> None:
    """The command's arguments."""
    add_study(parser)
    add_running(parser)
    parser.add_argument("--output-dir", required=True, type=Path, help="where everything goes; the same call resumes")


def add_running(parser: Parser, executor: str | None = "in_process", chosen: str = "in_process") -> None:
    """Give `parser` what every command that runs a study has.

    Args:
        parser: of the command.
        executor: where stages run by default; none: the command chooses.
        chosen: what the help says of the default.
    """
    parser.add_argument("--executor", choices=EXECUTORS, default=executor, help=f"where stages run (default: {chosen})")
    parser.add_argument("--workers", type=int, help="stages at once (default: as many as the machine is for)")
    parser.add_argument(
        "--gpus-per-stage", type=float, default=1.0, help="0.5: two stages share one (default: %(default)s)"
    )
    parser.add_argument("--ray-address", default="", help="of a Ray cluster, or auto (default: start a local one)")
    add_tracking(parser)
    add_launching(parser)
    parser.set_defaults(to_go_on="repeat the command to go on from here")


def run(arguments: argparse.Namespace) -> int:
    """Run the study that is named."""
    study = read_study(find_recipe(arguments.study, "study"), arguments.overrides)
    return run_and_show(study, arguments, f"rupert run {arguments.study}")


def run_and_show(study: Study, arguments: argparse.Namespace, command: str, judged: Judged = lambda _: ()) -> int:
    """Run a study and write and show what came out.

    Args:
        study: what to run.
        arguments: what `add_running` asked for, and `output_dir`.
        command: how a reader runs it again, without overrides.
        judged: what the page says of claims, from the numbers; called also where there are none.

    Returns:
        the exit code: 1 where a model could not be made or measured.
    """
    folder: Path = arguments.output_dir
    check(study)  # before workers are started
    resources = Resources(
        workers=arguments.workers, gpus_per_stage=arguments.gpus_per_stage, address=arguments.ray_address
    )
    executor, runtime = EXECUTORS[arguments.executor](resources), _runtime(study, arguments)
    begin(study, shlex.join([*command.split(), *arguments.overrides]), folder)
    cells = _run(study, folder, executor, runtime)
    measured = [cell for cell in cells if not cell.error]
    rows = result_rows(study, measured)
    claims = judged(rows)
    if rows:
        write_results(rows, folder)
        write_text(study_page(evidence(folder), folder, claims), folder / REPORT)
        _show(rows, folder)
    return _tell_failures([cell for cell in cells if cell.error])


def _runtime(study: Study, arguments: argparse.Namespace) -> Runtime:
    config, count = arguments.accelerate_config, arguments.num_processes
    if config is None and count is not None:
        raise UsageError("--num-processes: needs --accelerate-config, such as fsdp2")
    launcher = Launcher(config, count) if config else None
    return Runtime(report_to=tuple(divided(arguments.report_to)), project=study.name, launcher=launcher)


def _run(study: Study, folder: Path, executor: Executor, runtime: Runtime) -> list[Cell]:
    board, started, cells = Board(), time.perf_counter(), []
    written = started
    with executor as running, watching(board) as console:
        for cell in run_study(study, folder, running, runtime=runtime, board=board):
            cells.append(cell)
            if time.perf_counter() - written >= WRITTEN_EVERY:
                write_results(result_rows(study, cells), folder)
                written = time.perf_counter()
            console.print(f"{time.perf_counter() - started:5.0f} s  {_line(cell)}", highlight=False)
    return cells


def _line(cell: Cell) -> str:
    values = {metric.name: metric.value for metric in cell.metrics}
    shown = [f"{name} {values[name]:4.0%}" for name in ("harm", "ability", "refusal") if name in values]
    done = f"{cell.defense} after {cell.attack}" if cell.attack != "none" else f"{cell.defense}, not attacked"
    return f"{done:<28} {'  '.join(shown) or 'failed'}"


def _tell_failures(failed: Sequence[Cell]) -> int:
    """Each failure once, however many models it took with it."""
    errors = list(dict.fromkeys(cell.error for cell in failed))
    for error in errors:
        print(f"rupert: {error}", file=sys.stderr)
    if errors:
        print(f"rupert: {len(failed)} models are missing; repeat the command to try them again", file=sys.stderr)
    return 1 if errors else 0


def _show(rows: list[ResultRow], folder: Path) -> None:
    console = Console()
    console.print(summary_table(rows))
    console.print(f"numbers  {folder / CSV_FILE}", soft_wrap=True, highlight=False)
    console.print(f"page     {(folder / REPORT).resolve()}", soft_wrap=True, highlight=False)
