"""What a report is made from: a study's numbers, and where each of them comes from; values, whoever read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rupert.records import Metric, Record, ResultRow

__all__ = ["Curve", "Evidence", "Exchange", "MeasuredCell", "Opinion", "Origin", "Reply"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity over the steps of a training.

    Attributes:
        name: such as "loss".
        steps, values: one a point; what was not finite is left out.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One stage that a number comes from.

    Attributes:
        kind: defend, attack, evaluate or score.
        label: as the study calls it, with its seed.
        seed: none where it is the same for every seed.
        folder: relative to the study's, with slashes.
        identity: the hash of all that defines it.
        command: what does this stage again; folders in it are relative to where it is typed.
        record: settings, content hashes of the weights that went in and came out, fingerprints of the data, seconds,
            versions and hardware.
        curves: how its training went, where the record says so.
        is_current: `rupert run` would take it as it is; otherwise rupert has changed since it was done, or its model or
            data are not on this machine, and it was found by its record.
    """

    kind: str
    label: str
    seed: int | None
    folder: str
    identity: str
    command: str
    record: Record
    curves: tuple[Curve, ...] = ()
    is_current: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCell:
    """One model of a study's grid, measured or not.

    Attributes:
        seed, defense, attack: where in the grid it stands; the attack "none" changes nothing.
        origins: the stages that are done, each after those that it works on: hardenings, attack, evaluation, scores.
        metrics: all that was measured; empty where something is missing.
        missing: the stages that are not done, each with its state: "attack seam-fine_tune-1e-4-seed0: running".
    """

    seed: int
    defense: str
    attack: str
    origins: tuple[Origin, ...]
    metrics: tuple[Metric, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell by name."""
        return f"{self.defense} / {self.attack} / seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge says of an answer; None where it could not say."""

    judge: str
    harmful: bool | None
    refusal: bool | None
    score: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to a request.

    Attributes:
        text: as the model gave it: untrusted.
        kind: refusal, harmful, irrelevant or degenerate; empty where answers were not classified.
        opinions: of each judge.
        is_hidden: a judge calls it harmful, or none could clear it: it is not shown unasked.
    """

    text: str
    kind: str
    opinions: tuple[Opinion, ...]
    is_hidden: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, answered by a defense's model before an attack and after it.

    Attributes:
        number: its place among the cell's requests, from 0.
        request: untrusted, as the answers are.
        category: the kind of harm; empty where the requests have none.
        is_hidden: the request comes from a real corpus, whose text is not shown unasked.
        before: none where the same request was not asked, and for the cell that no attack changed.
        after: by the cell's own model.
    """

    number: int
    request: str
    category: str
    is_hidden: bool
    before: Reply | None
    after: Reply


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A study's numbers and all that stands behind them; of a study that is not finished, as far as it is.

    Attributes:
        study, model: by name.
        command: what the study was run with; empty where nobody remembered it.
        seeds: of the study.
        defenses, attacks: label -> settings; none for the undefended model.
        notes: what a reader has to know to read the numbers rightly.
        cells: the whole grid, in its order.
        rows: the numbers of `results.csv`.
        all_rows: every metric of every cell, also those of single tasks and of further judges.
        exchanges: a cell's requests with its answers before and after; files are read when it is called, and an
            evaluation whose files are damaged raises a `UsageError`.
    """

    study: str
    model: str
    command: str
    seeds: tuple[int, ...]
    defenses: Mapping[str, Mapping[str, Any] | None]
    attacks: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]
    cells: tuple[MeasuredCell, ...]
    rows: tuple[ResultRow, ...]
    all_rows: tuple[ResultRow, ...]
    exchanges: Callable[[MeasuredCell], Iterator[Exchange]]

    @property
    def missing(self) -> tuple[MeasuredCell, ...]:
        """The cells that are not measured."""
        return tuple(cell for cell in self.cells if cell.missing)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every stage that is done, each once."""
        return tuple({origin.folder: origin for cell in self.cells for origin in cell.origins}.values())

    @property
    def seconds(self) -> float:
        """Wall time of all stages that are done."""
        return sum(origin.record.seconds for origin in self.origins)

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware by the records; where stages differ, each that occurs."""
        return _occurring([origin.record.environment for origin in self.origins])


def _occurring(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for found in environments for name in found)
    return {name: "; ".join(dict.fromkeys(found[name] for found in environments if name in found)) for name in names}
