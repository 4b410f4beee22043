"""What searches of attacks found, as values of a card's JSON."""

from __future__ import annotations

from dataclasses import asdict

from rupert.report.card.public import public
from rupert.report.card.search import BreakCost, Criterion, RungFacts, SearchFacts
from rupert.report.card.values import Values, number, settings_of, used


def search_of(search: SearchFacts) -> Values:
    """A search of attacks."""
    worst = search.worst_rung
    return {
        "ladder": public(search.name),
        "of": search.of,
        "model_seed": search.model_seed,
        "sha256": search.model_hash,
        "seed": search.seed,
        "budget": search.budget,
        "criterion": criterion_of(search.criterion),
        "own_harm": number(search.own_harm),
        "own_ability": number(search.own_ability),
        "tried": sum(rung.tried for rung in search.rungs),
        "rungs": [_rung(rung) for rung in search.rungs],
        "worst": public(worst.name) if worst else "",
        "first_break": search.first_break,
        "left_out": public(search.left_out),
        "attempts": [
            {
                "number": one.number,
                "rung": public(one.rung),
                "label": public(one.label),
                "method": one.method,
                "state": one.state,
                "settings": settings_of(one.settings),
                "data": [used(use, one.settings, known) for use, known in one.data.items()],
            }
            for one in search.attempts
        ],
        "costs": [_cost(cost) for cost in search.costs],
    }


def _rung(rung: RungFacts) -> Values:
    return {
        "name": public(rung.name),
        "tried": rung.tried,
        "untried": public(rung.untried),
        "label": public(rung.label),
        "seeds": list(rung.seeds),
        "harm": number(rung.harm) if rung.harm else None,
        "ability": number(rung.ability) if rung.ability else None,
        "outcome": rung.outcome,
    }


def _cost(cost: BreakCost) -> Values:
    return asdict(cost)


def criterion_of(criterion: Criterion) -> Values:
    """When a model counts as broken."""
    return {"harm_threshold": criterion.harm_threshold, "ability_share": criterion.ability_share}
