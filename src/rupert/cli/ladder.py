"""`rupert ladder`: attackers of growing strength against one model, and what each has of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rupert.cli.arguments import Parser, add_settings, collect
from rupert.evaluation.verdicts import Thresholds
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.records import Metric
from rupert.study.definition.recipes import find_recipe
from rupert.study.ladder import (
    LADDER_FILE,
    TRIALS_FILE,
    Climb,
    Climbed,
    Ladder,
    Outcome,
    Trial,
    climb,
    read_ladder_file,
)
from rupert.terminal import progress_console

BUDGET = 20
CAPTION = (
    "chosen: the attack with the highest score on the half that attacks are chosen on, its harm and ability at its "
    "best look; held-out: the same attack and look with another seed on the other half, with 95 % interval; broke: at "
    "the first look that found harm and ability kept"
)
STYLES = {"broke": "bold red", "held": "green", "not resolved": "yellow"}


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("--output-dir", required=True, type=Path, help="where everything goes; the same call goes on")
    parser.add_argument(
        "--budget", type=int, default=BUDGET, help="attacks to try, over all rungs (default: %(default)s)"
    )
    parser.add_argument(
        "--config",
        help="YAML file, or name of a recipe, of a ladder (default: ladder-potionworld for models of the embedded "
        "world, ladder-paper for others)",
    )
    parser.add_argument("--rungs", nargs="+", default=[], metavar="RUNG", help="climb only these, such as L0 L1")
    parser.add_argument("--undefended", default="", help="the model before it was defended, if the attacker has it")
    parser.add_argument("--seed", type=int, default=0, help="of the search and of the attacks (default: 0)")
    parser.set_defaults(to_go_on="repeat the command to go on from here")
    add_settings(parser, ModelSettings)
    add_settings(parser, Thresholds)


def run(arguments: Any) -> int:
    """Climb, print what came of each rung, and say where everything is; 1 where a rung's attacks all failed."""
    asked = Climb(
        budget=arguments.budget, seed=arguments.seed, rungs=tuple(arguments.rungs), undefended=arguments.undefended
    )
    model = collect(arguments, ModelSettings)
    ladder = _ladder(arguments, model)
    outcome = climb(ladder, model, arguments.output_dir, asked, _telling(time.perf_counter()))
    _show(outcome, arguments.output_dir)
    return int(any(rung.tried and rung.verdict is None for rung in outcome.rungs))


def _ladder(arguments: Any, model: ModelSettings) -> Ladder:
    usual = "ladder-potionworld" if loading.is_potionworld(model) else "ladder-paper"
    ladder = read_ladder_file(find_recipe(arguments.config or usual, "--config"))
    return replace(ladder, thresholds=collect(arguments, Thresholds, defaults=ladder.thresholds))


def _telling(started: float) -> Callable[[Trial], None]:
    console = progress_console()

    def tell(trial: Trial) -> None:
        seconds = f"{time.perf_counter() - started:5.0f} s"
        console.print(f"{seconds}  {_line(trial)}", highlight=False, markup=False, soft_wrap=True)

    return tell


def _line(trial: Trial) -> str:
    found = trial.problem
    if trial.points:
        found = f"harm {trial.best.harm.value:4.0%}  ability {trial.best.ability.value:4.0%}"
        found += "  stopped" if trial.state == "stopped" else ""
    return f"{trial.number:3} {trial.rung} {trial.label:<16} {found}  {_settings(trial.settings)}".rstrip()


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _show(outcome: Outcome, folder: Path) -> None:
    console = Console(highlight=False)
    console.print(_table(outcome))
    for line in (*_details(outcome), *_conclusions(outcome), *_omissions(outcome)):
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"everything {folder / LADDER_FILE}", soft_wrap=True, markup=False)
    console.print(f"trials     {folder / TRIALS_FILE}", soft_wrap=True, markup=False)


def _table(outcome: Outcome) -> Table:
    table = Table(
        title=Text(f"{outcome.model}, {len(outcome.trials)} attacks tried"),
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("rung", no_wrap=True)
    table.add_column("tried", justify="right")
    table.add_column("chosen", overflow="fold", ratio=1)
    for heading in ("harm,\nability", "held-out\nharm", "held-out\nability"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("broke\nat step", justify="right", no_wrap=True)
    for rung in outcome.rungs:
        table.add_row(rung.name, str(rung.tried), *_cells(outcome, rung))
    return table


def _cells(outcome: Outcome, rung: Climbed) -> list[Text]:
    if rung.chosen is None:
        return [Text("not tried" if not rung.tried else "none was finished", style="dim")]
    trial, held_out = outcome.trial(rung.chosen), rung.held_out
    cells = [Text(trial.label), Text(f"{trial.best.harm.value:.0%},\n{trial.best.ability.value:.0%}")]
    step = Text(str(trial.broke_at.step) if trial.broke_at else "never")
    if held_out is None or rung.verdict is None:
        return [*cells, Text("failed"), Text(""), Text(""), step]
    kept = f"{held_out.ability.value:.0%}\nof {outcome.own.held_out.value:.0%}"
    verdict = Text(rung.verdict, style=STYLES[rung.verdict])
    return [*cells, _with_interval(held_out.harm), Text(kept), verdict, step]


def _with_interval(metric: Metric) -> Text:
    if metric.low is None or metric.high is None:
        return Text(f"{metric.value:.0%}")
    return Text.assemble(f"{metric.value:.0%}", (f"\n{metric.low:.0%} to {metric.high:.0%}", "dim"))


def _details(outcome: Outcome) -> list[str]:
    """The chosen attacks' settings, where the attacker ends them, and what they took until the model was broken."""
    chosen = [outcome.trial(rung.chosen) for rung in outcome.rungs if rung.chosen is not None]
    return [
        f"{trial.rung} {trial.label}: {'; '.join(filter(None, (_settings(trial.settings), _cost(trial))))}"
        for trial in chosen
    ]


def _cost(trial: Trial) -> str:
    best, at_point = f"best after {trial.best.step} steps", trial.broke_at
    if at_point is None:
        return f"{best}; never broke within {trial.points[-1].step}"
    return f"{best}; broke after {at_point.step}, {at_point.rows} rows, {at_point.flops:.1e} FLOPs"


def _conclusions(outcome: Outcome) -> list[str]:
    climbed = ", ".join(rung.name for rung in outcome.rungs if rung.tried)
    lines = [f"highest rung survived of {climbed}: {outcome.highest_survived or 'none'}"]
    if outcome.chosen is not None:
        trial = outcome.trial(outcome.chosen)
        rung = next(rung for rung in outcome.rungs if rung.name == trial.rung)
        lines.append(f"worst case: {trial.label} of {trial.rung}, the best of {len(outcome.trials)} tried{_of(rung)}")
    count = outcome.trials_until_break
    tried = f"never broke within {len(outcome.trials)} trials; more might"
    return [*lines, tried if count is None else f"broke in trial {count}, on the half that attacks are chosen on"]


def _of(rung: Climbed) -> str:
    if rung.held_out is None:
        return ""
    value, _, interval = _with_interval(rung.held_out.harm).plain.partition("\n")
    return f"; held-out harm {value} ({interval})"


def _omissions(outcome: Outcome) -> list[str]:
    """What was not tried, and why, and what failed."""
    budget = [rung.name for rung in outcome.rungs if not rung.tried and rung.untried]
    lines = [f"not climbed, the budget of {outcome.budget} being too small: {', '.join(budget)}"] if budget else []
    short = [rung for rung in outcome.rungs if rung.tried and rung.untried]
    lines += [f"{rung.name}: the budget did not reach {', '.join(rung.untried)}" for rung in short]
    lines += [f"{one.rung}: {one.label} was left out, {one.reason}" for one in outcome.left_out]
    lines += [f"{one.rung}: {one.label} failed: {one.problem}" for one in outcome.trials if one.problem]
    return [*lines, *(f"{rung.name}: no held-out score: {rung.problem}" for rung in outcome.rungs if rung.problem)]
