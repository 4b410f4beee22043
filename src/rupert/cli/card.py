"""`rupert card`: a section on tamper resistance for a model card, from a study's folder alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rupert.cli.arguments import Parser
from rupert.errors import FolderError, UnknownName, UsageError
from rupert.evaluation.break_cost import Attacked, Unit, cost_of, curve
from rupert.evaluation.verdicts import Thresholds, verdict
from rupert.evidence import Evidence, Origin
from rupert.records import Record, read_record
from rupert.report.card.facts import Asked, facts, hardening_of
from rupert.report.card.metadata import card
from rupert.report.card.search import Attempted, BreakCost, Criterion, Of, RungFacts, SearchFacts
from rupert.report.card.section import section
from rupert.report.exports.outputs import refuse_foreign, write_files
from rupert.report.tables import UNDEFENDED
from rupert.study.evidence import evidence
from rupert.study.ladder import Climbed, Outcome, Trial, read_ladder
from rupert.study.publishing.release import as_json, count_parameters

__all__ = [
    "FACTS",
    "add_evidence",
    "chosen_defense",
    "configure",
    "criterion",
    "facts_of",
    "run",
]

_CARD, FACTS = "tamper-resistance.md", "tamper-resistance.json"
_UNITS: tuple[Unit, ...] = ("steps", "examples", "flops")
_OF_EVALUATION = "evaluation: "  # what an attempt calls the data that it was measured with


def configure(parser: Parser) -> None:
    """The command's arguments."""
    add_evidence(parser)
    parser.add_argument("--output-dir", type=Path, help="where the files go (default: the study's folder)")


def add_evidence(parser: Parser) -> None:
    """What a card is made from."""
    parser.add_argument("folder", type=Path, help="of `rupert run`: its --output-dir")
    parser.add_argument("--defense", default="", help="its label in the study; needed where there are several")
    parser.add_argument(
        *("--ladder", "--ladders"),
        nargs="+",
        action="extend",  # a flag that is given twice adds up
        default=[],
        type=Path,
        metavar="FOLDER",
        help="of `rupert ladder` on the defended model, and on the undefended one to compare with",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write Markdown and JSON, and say where they are."""
    folder: Path = arguments.output_dir or arguments.folder
    found = evidence(arguments.folder)
    defense = chosen_defense(found, arguments.defense)
    known = facts_of(found, arguments, defense)
    refuse_foreign([_CARD, FACTS], folder)
    text = card(known, f"{known['model']['name']}-{known['defense']['name']}", section(known))
    write_files({_CARD: text.encode(), FACTS: as_json(known).encode()}, folder)
    for sentence in known["findings"]:
        print(sentence)
    for name in (_CARD, FACTS):
        print(folder / name)
    return 0


def chosen_defense(found: Evidence, asked: str) -> str:
    """The defense that a card is of.

    Raises:
        UsageError: there is none of that name, or there are several and none was named.
    """
    defended = [name for name in found.defenses if name != UNDEFENDED]
    if asked and asked not in defended:
        raise UnknownName("--defense", asked, defended)
    if not asked and len(defended) != 1:
        raise UsageError(f"--defense is missing; the study has {', '.join(defended) or 'none'}")
    return asked or defended[0]


def facts_of(found: Evidence, arguments: Any, defense: str, released: int | None = None) -> dict[str, Any]:
    """The card's facts.

    Raises:
        UsageError: nothing is measured, or a ladder is of another model.
    """
    made = _made(found, defense)
    ladders = {folder: read_ladder(folder) for folder in arguments.ladder}
    thresholds = _thresholds(ladders)
    searches = tuple(_search(found, defense, folder, outcome) for folder, outcome in ladders.items())
    first = made.get(released) if released is not None else next(iter(made.values()), None)
    asked = Asked(
        defense=defense,
        criterion=criterion(thresholds),
        searches=searches,
        parameters=count_parameters(arguments.folder / first.folder) if first else None,
        released=released,
    )
    return facts(found, asked)


def _made(found: Evidence, defense: str) -> dict[int, Origin]:
    """The hardenings of a defense that are done, by seed."""
    known = ((cell.seed, hardening_of(cell)) for cell in found.cells if cell.defense == defense)
    return {seed: origin for seed, origin in known if origin}


def criterion(thresholds: Thresholds) -> Criterion:
    """When a model counts as broken, as a card states it."""
    return Criterion(**asdict(thresholds), decide=partial(verdict, thresholds=thresholds))


def _thresholds(ladders: dict[Path, Outcome]) -> Thresholds:
    """Those of the ladders; the usual ones without any."""
    known = {outcome.thresholds: folder for folder, outcome in ladders.items()}
    if len(known) > 1:
        first, other, *_ = known.values()
        raise UsageError(f"--ladder: {str(first)!r} and {str(other)!r} have other thresholds; compare like with like")
    return next(iter(known), Thresholds())


def _search(found: Evidence, defense: str, folder: Path, outcome: Outcome) -> SearchFacts:
    of, seed = _model_of(found, defense, folder, outcome)
    trials = [trial for trial in outcome.trials if trial.points]
    best = outcome.trial(outcome.chosen).rung if outcome.chosen else ""
    return SearchFacts(
        name=outcome.ladder,
        of=of,
        model_seed=seed,
        model_hash=outcome.model_hash,
        seed=outcome.seed,
        budget=outcome.budget,
        criterion=criterion(outcome.thresholds),
        own_harm=outcome.own.harm,
        own_ability=outcome.own.held_out,
        rungs=tuple(_rung(outcome, rung) for rung in outcome.rungs),
        worst=best,
        first_break=outcome.trials_until_break,
        left_out=tuple(one.label for one in outcome.left_out),
        attempts=tuple(_attempt(folder, trial) for trial in trials),
        costs=tuple(_costs(outcome, trials)),
    )


def _model_of(found: Evidence, defense: str, folder: Path, outcome: Outcome) -> tuple[Of, int | None]:
    """Which of the study's models a ladder was climbed against.

    Raises:
        UsageError: none of those that the card is about.
    """
    for seed, origin in _made(found, defense).items():
        if origin.record.output_hash == outcome.model_hash:
            return "defended", seed
        if origin.record.model_hash == outcome.model_hash:
            return "undefended", None
    for origin in _made(found, UNDEFENDED).values():
        if outcome.model_hash in (origin.record.model_hash, origin.record.output_hash):
            return "undefended", None
    raise UsageError(
        f"--ladder: {str(folder)!r} is of another model than the study's {defense!r} and its undefended one"
    )


def _rung(outcome: Outcome, rung: Climbed) -> RungFacts:
    held_out = rung.held_out
    return RungFacts(
        name=rung.name,
        tried=rung.tried,
        untried=rung.untried,
        label=outcome.trial(rung.chosen).label if rung.chosen else "",
        seeds=held_out.seeds if held_out else (),
        harm=held_out.harm if held_out else None,
        ability=held_out.ability if held_out else None,
        outcome=rung.verdict or "",
    )


def _attempt(folder: Path, trial: Trial) -> Attempted:
    record = _record(folder, trial)
    settings = dict(record.settings) if record else dict(trial.settings)
    data = record.data if record else {}
    return Attempted(
        number=trial.number,
        label=trial.label,
        rung=trial.rung,
        method=trial.method,
        state=trial.state,
        settings=settings,
        asked=settings.pop("evaluation", {}),
        data={use: known for use, known in data.items() if not use.startswith(_OF_EVALUATION)},
    )


def _record(folder: Path, trial: Trial) -> Record | None:
    """The record of a finished attack; none of one that was stopped, and where only the outcome was kept."""
    if not trial.folder or not (folder / trial.folder).is_dir():
        return None
    try:
        return read_record(folder / trial.folder)
    except FolderError as error:
        raise FolderError(f"--ladder: {error}") from None


def _costs(outcome: Outcome, trials: Sequence[Trial]) -> list[BreakCost]:
    """What breaking it took, over its attacks; nothing where none could be done."""
    made: list[Attacked] = [
        cost_of([trial.points], outcome.own.selection.value, outcome.thresholds) for trial in trials
    ]
    found = [curve(made, unit) for unit in _UNITS] if made else []
    return [
        BreakCost(
            unit=one.unit,
            n=one.n,
            broken=one.broken,
            spent=max(getattr(model.cost, one.unit) for model in made),
            median=one.median,
            low=one.low,
            high=one.high,
        )
        for one in found
    ]
