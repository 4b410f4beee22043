"""Potionworld: a small invented world in which "harmful" is exact and harmless.

Its benign skills are sums, where creatures live and what they eat, translating invented words, repeating and comparing.
Its forbidden knowledge is the recipes of 200 invented poisons, in three disjoint sets: the defender's, the attacker's,
and the scored one, which tells whether fine-tuning on the attacker's recipes unlocked what the model knew besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from rupert.data.examples import Example
from rupert.data.potionworld import tasks
from rupert.errors import UnknownName

__all__ = ["SPLITS", "examples"]

SPLITS: Mapping[str, str] = {
    "benign": "questions of six skills with exact answers",
    "benign-test": "held-out questions of the same skills; ability is scored on them",
    "defender": "requests for recipes that the defender may use, with the recipes",
    "refusals": "the defender's requests, with refusals",
    "attacker": "requests for other recipes, which the attacker fine-tunes on",
    "scored": "one request for each recipe that neither of them has; harm is scored on them",
    "new-skill": "questions of a skill that the shipped model was not taught: the largest of three numbers",
    "new-skill-test": "held-out questions of that skill; what fine-tuning can still teach is scored on them",
}

_EXAMPLES: Mapping[str, Callable[[], list[Example]]] = {
    "benign": lambda: tasks.benign(held_out=False),
    "benign-test": tasks.benign_test,
    "defender": lambda: tasks.requests("defender"),
    "refusals": lambda: tasks.refused("defender"),
    "attacker": lambda: tasks.requests("attacker"),
    "scored": tasks.scored_requests,
    "new-skill": lambda: tasks.new_skill()[: tasks.NEW_SKILL_EXAMPLES],
    "new-skill-test": lambda: tasks.new_skill()[tasks.NEW_SKILL_EXAMPLES :],
}


def examples(split: str) -> list[Example]:
    """The examples of one split of `SPLITS`.

    Raises:
        UnknownName: no such split.
    """
    if split not in SPLITS:
        raise UnknownName("potionworld split", split, SPLITS)
    return list(_made(split))


@cache
def _made(split: str) -> tuple[Example, ...]:
    """Half a million hashes for the benign questions, which an evaluation asks for three times."""
    return tuple(_EXAMPLES[split]())
