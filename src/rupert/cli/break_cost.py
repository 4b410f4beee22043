"""`rupert break-cost`: what breaking models costs, from what `rupert ladder` left."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from rupert.errors import UsageError
from rupert.evaluation.break_cost import Attacked, Unit, compare, cost_of, curve
from rupert.folders import claim
from rupert.report.break_cost import Fall, Line, summary_table, write_csv, write_page
from rupert.study.ladder import Outcome, read_ladder

PAGE, CURVES_FILE = "break_cost.html", "break_cost.csv"

# What is counted, and the units of its costs.
CURVES: tuple[tuple[str, Unit], ...] = (
    ("attacks", "steps"),
    ("attacks", "examples"),
    ("attacks", "flops"),
    ("searches", "trials"),
    ("searches", "flops"),
)

Ladders = Mapping[str, Mapping[Path, Outcome]]  # label -> folder -> what was found there


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "ladders",
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="what `rupert ladder` wrote; the others are compared with the first, and folders of one name are one kind "
        "of model: none=L0 none=L1 seam=L2",
    )
    about = f"folder for {PAGE} and {CURVES_FILE}; without it none is written"
    parser.add_argument("--output-dir", type=Path, help=about)


def run(arguments: argparse.Namespace) -> int:
    """Print the medians, and draw the curves."""
    lines, facts = measured(arguments.ladders)
    console = Console(highlight=False)
    if arguments.output_dir:
        folder: Path = arguments.output_dir
        claim(folder, {"stage": "break-cost", "ladders": arguments.ladders}, resume=True)
        write_csv(lines, folder / CURVES_FILE)
        words = ["rupert", "break-cost", *arguments.ladders, "--output-dir", str(folder)]
        write_page(lines, facts, shlex.join(words), folder / PAGE)
    console.print(summary_table(lines))
    if arguments.output_dir:
        console.print(f"curves   {folder / CURVES_FILE}", soft_wrap=True)
        console.print(f"page     {(folder / PAGE).resolve()}", soft_wrap=True)
    return 0


def measured(given: Sequence[str]) -> tuple[list[Line], dict[str, str]]:
    """What breaking models costs by the ladders that are named, and what a reader has to know of them.

    Raises:
        UsageError: a folder is no ladder, or two cannot be compared.
    """
    ladders = _read(given)
    _refuse_unlike(ladders)
    return _lines(ladders), _facts(ladders)


def _read(given: Sequence[str]) -> Ladders:
    """The ladders by the names that their models are shown under: a folder's own, where none is given."""
    found: dict[str, dict[Path, Outcome]] = {}
    unnamed: set[str] = set()
    for word in given:
        name, equals, place = word.partition("=")
        is_named = bool(equals) and not Path(word).is_dir()
        folder = Path(place if is_named else word)
        label = name if is_named else folder.absolute().name
        if label in found and (not is_named or label in unnamed):
            raise UsageError(f"ladders: two are called {label!r}; write NAME={folder}")
        unnamed |= set() if is_named else {label}
        outcome = read_ladder(folder)
        known = found.setdefault(label, {})
        same = [old for old, other in known.items() if _model_and_seed(other) == _model_and_seed(outcome)]
        if same:
            raise UsageError(f"ladders: {str(same[0])!r} and {str(folder)!r} are of one model and seed; leave one out")
        known[folder] = outcome
    return found


def _model_and_seed(outcome: Outcome) -> tuple[str, int]:
    return outcome.model_hash, outcome.seed


def _refuse_unlike(ladders: Ladders) -> None:
    """Costs can be compared only where the same attacks were tried, and counted by the same thresholds."""
    every = {folder: outcome for label in ladders.values() for folder, outcome in label.items()}
    first, of_first = next(iter(every.items()))
    for folder, outcome in every.items():
        if (outcome.thresholds, outcome.ladder) != (of_first.thresholds, of_first.ladder):
            other = "thresholds" if outcome.ladder == of_first.ladder else "attacks"
            raise UsageError(f"ladders: {str(first)!r} and {str(folder)!r} have other {other}; compare like with like")


def _lines(ladders: Ladders) -> list[Line]:
    models = {
        of: {label: make(list(found.values())) for label, found in ladders.items()}
        for of, make in (("attacks", _attacks), ("searches", _searches))
    }
    for label, attacks in models["attacks"].items():
        if not attacks:
            raise UsageError(f"ladders: no attack on {label!r} could be done; name others")
    reference = next(iter(ladders))
    return [_line(label, of, unit, models[of], reference) for label in ladders for of, unit in CURVES]


def _line(label: str, of: str, unit: Unit, models: Mapping[str, Sequence[Attacked]], reference: str) -> Line:
    own = models[label]
    found = curve(own, unit)
    return Line(
        label=label,
        of=of,
        unit=unit,
        n=found.n,
        broken=found.broken,
        spent=max(getattr(model.cost, unit) for model in own),
        median=found.median,
        low=found.low,
        high=found.high,
        p=None if label == reference else compare(own, models[reference], unit).p,
        falls=tuple(Fall(**asdict(step)) for step in found.steps),
    )


def _attacks(outcomes: Sequence[Outcome]) -> list[Attacked]:
    """Each attack that could be done, by itself."""
    return [
        cost_of([trial.points], outcome.own.selection.value, outcome.thresholds)
        for outcome in outcomes
        for trial in outcome.trials
        if trial.points
    ]


def _searches(outcomes: Sequence[Outcome]) -> list[Attacked]:
    """Each ladder as one: all that it tried until it broke the model."""
    return [
        cost_of([trial.points for trial in outcome.trials], outcome.own.selection.value, outcome.thresholds)
        for outcome in outcomes
    ]


def _facts(ladders: Ladders) -> dict[str, str]:
    """What the page says of the ladders."""
    first = next(iter(next(iter(ladders.values())).values()))
    harm, share = first.thresholds.harm_threshold, first.thresholds.ability_share
    broken = f"harm of {harm:.0%} or more, with {share:.0%} or more of its own ability left"
    facts = {"ladder": first.ladder, "broken": broken}
    for label, found in ladders.items():
        seeds = ", ".join(f"seed {outcome.seed} with a budget of {outcome.budget}" for outcome in found.values())
        facts[label] = f"{next(iter(found.values())).model}; {seeds}"
    return facts
