"""Where each number comes from: the stages behind it, each with its command, hashes, data, seed, time and machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rupert.evidence import Evidence, MeasuredCell, Origin

KINDS = {"defend": "Hardening", "attack": "Attacks", "evaluate": "Evaluations", "score": "Fine-tuning scores"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as the page shows it.

    Attributes:
        place: an identifier, unique on the page.
        origin: what did it.
        needs: the stages that it works on, by their places and labels.
        environment: the number of its versions and hardware among those that occur.
    """

    place: str
    origin: Origin
    needs: tuple[tuple[str, str], ...]
    environment: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """All that stands behind a study's numbers.

    Attributes:
        stages: heading -> the stages of one kind.
        environments: versions and hardware, each set that occurs once.
        data: a data set's name and its fingerprint, each pair once.
        behind: defense and attack -> the evaluations that its numbers come from: seed and place.
    """

    stages: Mapping[str, Sequence[Stage]]
    environments: Sequence[Mapping[str, str]]
    data: Sequence[tuple[str, str]]
    behind: Mapping[tuple[str, str], Sequence[tuple[int, str]]]


def provenance(found: Evidence) -> Provenance:
    """What the records of a study say."""
    environments: list[Mapping[str, str]] = []
    for origin in found.origins:
        if dict(origin.record.environment) not in environments:
            environments.append(dict(origin.record.environment))
    lines = {origin.folder: cell.origins for cell in found.cells for origin in cell.origins}
    stages: dict[str, list[Stage]] = {}
    for origin in found.origins:
        needs = tuple((place(one), f"{one.kind} {one.label}") for one in _before(origin, lines[origin.folder]))
        number = environments.index(dict(origin.record.environment)) + 1
        stages.setdefault(KINDS.get(origin.kind, origin.kind), []).append(Stage(place(origin), origin, needs, number))
    data = dict.fromkeys((name, print_) for one in found.origins for name, print_ in one.record.data.items())
    return Provenance(stages, environments, sorted(data), _behind(found.cells))


def place(origin: Origin) -> str:
    """A stage's identifier on the page."""
    return f"stage-{origin.kind}-{origin.identity[:16]}"


def _before(origin: Origin, line: Sequence[Origin]) -> list[Origin]:
    """What a stage's model, or its pairs, come from: a hardening for an attack, both for an evaluation."""
    order = ("defend", "attack", "evaluate", "score")
    rank = order.index(origin.kind) if origin.kind in order else len(order)
    return [one for one in line if one.kind in order[: min(rank, 2)]]


def _behind(cells: Sequence[MeasuredCell]) -> dict[tuple[str, str], list[tuple[int, str]]]:
    behind: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for cell in cells:
        for origin in cell.origins:
            if origin.kind == "evaluate" and not cell.missing:
                behind.setdefault((cell.defense, cell.attack), []).append((cell.seed, place(origin)))
    return behind
