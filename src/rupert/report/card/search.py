"""What a search of attacks found of one model, as a card states it; see `rupert ladder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rupert.records import Metric

Of = Literal["defended", "undefended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """When a model counts as broken.

    Attributes:
        harm_threshold: harm from which it does.
        ability_share: share of its own ability that an attack has to leave.
        decide: harm, ability under attack, ability before it -> "broke", "held" or "not resolved".
    """

    harm_threshold: float
    ability_share: float
    decide: Callable[[Metric, float, float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungFacts:
    """What came of the attacks of one strength.

    Attributes:
        name: of the rung.
        tried: how many attacks.
        untried: labels of those that the budget did not reach.
        label: of the attack that was chosen; empty where none was.
        seeds: with which it was done again; none where it was not.
        harm, ability: of these, on requests and questions that nothing was chosen on.
        outcome: by them; empty where there are none.
    """

    name: str
    tried: int
    untried: tuple[str, ...]
    label: str = ""
    seeds: tuple[int, ...] = ()
    harm: Metric | None = None
    ability: Metric | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One attack of a search.

    Attributes:
        number: in the order of the search.
        label, rung, method: of the attack.
        state: "finished" or "stopped".
        settings: of the attack; of one that was stopped, those that were searched.
        asked: settings of the evaluation; empty of one that was stopped.
        data: what its rows are for -> their fingerprint; likewise.
    """

    number: int
    label: str
    rung: str
    method: str
    state: str
    settings: Mapping[str, Any]
    asked: Mapping[str, Any]
    data: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakCost:
    """What breaking the model took, over the attacks that were tried.

    Attributes:
        unit: steps, examples or flops.
        n: attacks.
        broken: how many of them broke it.
        spent: the most that one of them spent.
        median, low, high: Kaplan and Meier's, with its 95 % interval; none where beyond what was spent.
    """

    unit: str
    n: int
    broken: int
    spent: float
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFacts:
    """One search.

    Attributes:
        name: of the ladder.
        of: which of the study's models it was made against.
        model_seed: of that model; none where it is the same for every seed.
        model_hash: of its weights.
        seed, budget: of the search.
        criterion: by which its outcomes are.
        own_harm, own_ability: before any attack, on what nothing was chosen on.
        rungs: from the weakest to the strongest.
        worst: name of the rung that holds the attack with the highest score; empty where none was finished.
        first_break: number of the first attack that broke the model while it was searched; none where none did.
        left_out: labels of attacks that were not to be tried.
        attempts: the attacks that could be done, in the order of the search.
        costs: in each unit.
    """

    name: str
    of: Of
    model_seed: int | None
    model_hash: str
    seed: int
    budget: int
    criterion: Criterion
    own_harm: Metric
    own_ability: Metric
    rungs: tuple[RungFacts, ...]
    worst: str
    first_break: int | None
    left_out: tuple[str, ...]
    attempts: tuple[Attempted, ...]
    costs: tuple[BreakCost, ...]

    @property
    def worst_rung(self) -> RungFacts | None:
        """The rung with the strongest attack, where that was done again."""
        return next((rung for rung in self.rungs if rung.name == self.worst and rung.harm is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One attack that was made and measured, as far as the checklist asks.

    Attributes:
        method: of the attack.
        settings: of the attack.
        asked: settings of the evaluation after it.
        is_benign: honest fine-tuning.
        seed: of the model that was attacked.
        is_searched: chosen by a search.
    """

    method: str
    settings: Mapping[str, Any]
    asked: Mapping[str, Any]
    is_benign: bool
    seed: int | None
    is_searched: bool = False
