"""How a budget is divided, and what an attacker tries who knows so much."""

from __future__ import annotations

import math

import pytest

from rupert.errors import UsageError
from rupert.study.ladder import Ladder, divided
from rupert.study.ladder.rungs import Choice, Entry, Range, Rung, for_attacker


def entry(label: str, *axes: Range | Choice, against: tuple[str, ...] = (), method: str = "fine_tune") -> Entry:
    names = ("learning_rate", "num_examples")
    return Entry(label=label, method=method, settings={}, search=dict(zip(names, axes, strict=False)), against=against)


def rung(name: str, *entries: Entry) -> Rung:
    return Rung(name=name, entries=entries)


ENDLESS = Range(1e-5, 1e-3)
RUNGS = (rung("L0", entry("a")), rung("L1", entry("b", ENDLESS)), rung("L2", entry("c", Choice((1, 2))), entry("d")))


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        (1, (1, 0, 0)),
        (2, (1, 1, 0)),
        (3, (1, 1, 1)),
        (4, (1, 2, 1)),
        (5, (1, 2, 2)),
        (7, (1, 3, 3)),
        (20, (1, 16, 3)),
    ],
)
def test_trials_are_dealt_in_turn_and_none_to_a_rung_that_has_no_other_attack(
    budget: int, shares: tuple[int, ...]
) -> None:
    assert tuple(divided(budget, RUNGS).values()) == shares


def test_more_trials_than_there_are_attacks_are_not_dealt() -> None:
    assert divided(9, RUNGS[::2]) == {"L0": 1, "L2": 3}
    assert divided(9, [rung("L9")]) == {"L9": 0}


def test_how_many_different_attacks_a_rung_has() -> None:
    assert [one.different for one in RUNGS] == [1, math.inf, 3]
    assert entry("e", Choice((1, 2)), Choice((1, 2, 3))).different == 6


def test_extremes_are_every_end_and_every_choice(ladder: Ladder) -> None:
    (tuned,) = ladder.rungs[1].entries
    made = [(attack.learning_rate, attack.num_examples) for attack in tuned.extremes()]  # type: ignore[attr-defined]
    assert made == [(1e-4, 16), (1e-5, 16), (1e-2, 16), (1e-4, 16), (1e-4, 32)]
    largest = tuned.largest()
    assert (largest.learning_rate, largest.num_examples) == (1e-2, 32)  # type: ignore[attr-defined]


KNOWING = (rung("L4", entry("p", against=("seam",)), entry("q", against=("sdd", "tar")), entry("r")),)


@pytest.mark.parametrize(
    ("defense", "tried"), [(None, ["p", "q", "r"]), ("seam", ["p", "r"]), ("tar", ["q", "r"]), ("vaccine", ["r"])]
)
def test_who_knows_the_defense_leaves_out_what_is_made_against_others(defense: str | None, tried: list[str]) -> None:
    (kept,), left_out = for_attacker(KNOWING, defense, "")
    assert [one.label for one in kept.entries] == tried
    assert {one.label for one in left_out} == {"p", "q", "r"} - set(tried)
    assert all(one.reason.startswith("made against") for one in left_out)


def test_what_needs_the_undefended_model_is_tried_where_there_is_one() -> None:
    rungs = (rung("L4", entry("between", method="interpolation")),)
    (without,), left_out = for_attacker(rungs, None, "")
    assert not without.entries
    assert [(one.rung, one.label, one.reason) for one in left_out] == [("L4", "between", "needs --undefended")]
    (kept,), none = for_attacker(rungs, None, "potionworld")
    assert kept.entries[0].settings["towards"] == "potionworld"
    assert not none


def test_a_wrong_choice_is_a_mistake_of_the_attack() -> None:
    with pytest.raises(UsageError, match=r"^a: num_examples: 0 is not valid"):
        entry("a").attack({"num_examples": 0})
