"""The search of one rung: Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), asked and told.

Everything follows from the seed and from what is told, in its order: a search that is asked and told the same again
goes the same way, so a ladder that was killed is continued by telling it what it has already found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rupert.errors import MissingDependency
from rupert.study.ladder.rungs import Choice, Entry, Range, Rung, as_text

STARTUP = 3  # trials that are drawn at random before the search learns from them; more where a rung has more attacks
AGAIN = 50  # times that the search may name what it named before, until a rung counts as exhausted


@dataclass(frozen=True, slots=True)
class Asked:
    """What the search wants to be tried."""

    entry: Entry
    chosen: Mapping[str, Any]
    trial: Any


class Search:
    """Which attack of a rung to try next, by what the ones before it did.

    Each attack is tried once, in the rung's order and with what its settings say where they say it, before the search
    chooses. An attack that has done less by one of its looks than the median of those before it by theirs is to be
    stopped (Optuna's median pruner).

    Raises:
        MissingDependency: Optuna is not installed.
    """

    def __init__(self, rung: Rung, seed: int) -> None:
        self._optuna = _optuna()
        self._entries = {entry.label: entry for entry in rung.entries}
        startup = max(STARTUP, len(self._entries))
        digest = hashlib.sha256(f"ladder {rung.name} {seed}".encode()).digest()
        self._study = self._optuna.create_study(
            direction="maximize",
            sampler=self._optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "little"), n_startup_trials=startup
            ),
            pruner=self._optuna.pruners.MedianPruner(n_startup_trials=startup, n_min_trials=STARTUP),
        )
        for entry in rung.entries:
            self._study.enqueue_trial({"attack": entry.label, **_first(entry)})
        self._told: dict[str, float] = {}

    def ask(self) -> Asked | None:
        """What to try next, never the same twice; None where there is nothing else."""
        for _ in range(AGAIN):
            trial = self._study.ask()
            entry = self._entries[trial.suggest_categorical("attack", list(self._entries))]
            chosen = {name: _suggested(trial, entry, name) for name in entry.search}
            asked = Asked(entry, chosen, trial)
            if _key(asked) not in self._told:
                return asked
            self.tell(asked, self._told[_key(asked)])
        return None

    def stops(self, asked: Asked, look: int, score: float) -> bool:
        """Whether an attack that has come so far is worth no more.

        Args:
            asked: the attack.
            look: the number of the look at it, from 1.
            score: what it did by then.
        """
        asked.trial.report(score, look)
        return bool(asked.trial.should_prune())

    def tell(self, asked: Asked, score: float, *, stopped: bool = False) -> None:
        """What an attack did in the end, or until it was stopped; 0 where it failed."""
        self._told[_key(asked)] = score
        if stopped:
            self._study.tell(asked.trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(asked.trial, score)


def _key(asked: Asked) -> str:
    return as_text([asked.entry.label, dict(asked.chosen)])


def _first(entry: Entry) -> dict[str, Any]:
    """What is tried first, under the names that the search has for it."""
    return {
        _name(entry, name): as_text(entry.settings[name]) if isinstance(axis, Choice) else entry.settings[name]
        for name, axis in entry.search.items()
        if name in entry.settings
    }


def _suggested(trial: Any, entry: Entry, name: str) -> Any:
    axis = entry.search[name]
    if isinstance(axis, Range):
        suggest = trial.suggest_int if isinstance(axis.low, int) else trial.suggest_float
        return suggest(_name(entry, name), axis.low, axis.high, log=axis.log)
    values = {as_text(value): value for value in axis.values}
    return values[trial.suggest_categorical(_name(entry, name), list(values))]


def _name(entry: Entry, name: str) -> str:
    return f"{entry.label}.{name}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingDependency("optuna", "search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
