"""The search of a rung: what it asks for, in which order, and that the same is asked again."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import pytest

from rupert.errors import MissingDependency
from rupert.study.ladder import Ladder
from rupert.study.ladder.rungs import Choice, Entry, Range, Rung
from rupert.study.ladder.search import Search

RATE = Range(1e-6, 1e-1, log=True)


def one(label: str = "a", **axes: Range | Choice) -> Rung:
    return Rung(name="L1", entries=(Entry(label=label, method="fine_tune", settings={}, search=axes),))


def went(rung: Rung, seed: int, count: int, worth: Callable[[Any], float]) -> list[tuple[str, dict[str, Any]]]:
    search, found = Search(rung, seed), []
    for _ in range(count):
        asked = search.ask()
        assert asked
        search.tell(asked, worth(asked))
        found.append((asked.entry.label, dict(asked.chosen)))
    return found


def peak(asked: Any) -> float:
    """Best at 1e-3."""
    return -abs(math.log10(asked.chosen["learning_rate"]) + 3)


def test_the_same_is_asked_for_the_same_seed_and_answers() -> None:
    rung = one(learning_rate=RATE, num_examples=Choice((1, 2, 3)))
    assert went(rung, 0, 12, peak) == went(rung, 0, 12, peak)
    assert went(rung, 0, 12, peak) != went(rung, 1, 12, peak)
    assert went(rung, 0, 12, peak) != went(rung, 0, 12, lambda asked: -peak(asked))


def test_it_learns_where_the_best_is() -> None:
    """Over five orders of magnitude half a random search lies more than 1.25 of them off the middle."""
    found = [chosen["learning_rate"] for _, chosen in went(one(learning_rate=RATE), 0, 40, peak)]
    off = [abs(math.log10(rate) + 3) for rate in found]
    assert sum(off[20:]) / 20 < 0.7 * sum(off[:10]) / 10
    assert min(off) < 0.2


def test_values_are_of_the_type_and_within_what_was_searched() -> None:
    rung = one(learning_rate=RATE, num_examples=Range(2, 9), layers_to_transform=Choice(([0], [-1, -2])))
    for _, chosen in went(rung, 0, 12, lambda _: 0.0):
        assert 1e-6 <= chosen["learning_rate"] <= 1e-1
        assert isinstance(chosen["num_examples"], int)
        assert 2 <= chosen["num_examples"] <= 9
        assert chosen["layers_to_transform"] in ([0], [-1, -2])


def test_each_attack_comes_once_in_order_with_what_is_tried_first(ladder: Ladder) -> None:
    found = went(ladder.rungs[2], 0, 4, lambda _: 0.0)
    assert [label for label, _ in found[:2]] == ["sgd", "adapter"]
    ((_, first),) = went(ladder.rungs[1], 0, 1, lambda _: 0.0)
    assert first["learning_rate"] == 1e-4
    assert first["num_examples"] in (16, 32)


def test_nothing_is_asked_twice_and_an_exhausted_rung_says_so() -> None:
    search, found = Search(one(num_examples=Choice((1, 2)), lora=Choice((False, True))), 0), []
    while asked := search.ask():
        search.tell(asked, 0.5)
        found.append(tuple(asked.chosen.values()))
    assert sorted(found) == [(1, False), (1, True), (2, False), (2, True)]


def test_what_does_less_than_the_median_by_the_same_look_is_to_be_stopped() -> None:
    search = Search(one(learning_rate=RATE), 0)
    for value in (0.4, 0.6, 0.8):
        asked = search.ask()
        assert asked
        assert not search.stops(asked, 1, value)  # nobody to compare with yet
        search.tell(asked, value)
    worse = search.ask()
    assert worse
    assert search.stops(worse, 1, 0.5)
    search.tell(worse, 0.5, stopped=True)
    better = search.ask()
    assert better
    assert not search.stops(better, 1, 0.7)


def test_a_missing_optuna_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependency, match=r"^optuna is not installed; pip install 'rupert\[search\]'$"):
        Search(one(learning_rate=RATE), 0)
