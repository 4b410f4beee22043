"""SDD's Theorems 1 and 2, simulated in the model of features that they are about.

Chen et al., arXiv 2507.21182, take a language model for a selector of features and a linear classifier, as Lin et
al., "Spurious Feature Diversification Improves Out-of-distribution Generalization", arXiv 2309.17230, do. What is
simulated:

- A label y is one of K classes. Feature i adds a direction of its own for each class, all of length 1 and orthogonal,
  and Gaussian noise of standard deviation 0.1. An invariant feature shows y; a spurious one shows y with probability
  1 - p, and otherwise a class drawn from all K, drawn anew for each pair of task and label. (While training, it shows
  y always.)
- A model is a set of n_v invariant and n_s spurious features, each with weight 1: its score of a class is the sum
  over its features of their projections on that class's directions. It answers with the class of the highest score.
- f̄ is the hardened model, f* what an attack aims at; the attacked model f̃ = λ f̄ + (1 - λ) f* averages both
  selector and classifier, so that a feature that both have counts 1, one of f̄ alone λ², and one of f* alone (1 -
  λ)². λ = 1/2 unless said.
- ξ(f) is its accuracy over tasks, labels and noise.

Theorem 1: the more spurious features the attack takes in (n_s*), the more accuracy alignment loses. Theorem 2: where
n_v > n_v* and n_s < n_s*, ξ(f̃) < ξ(f̄).

Not confirmed: neither paper could be read in full here. The model is put together from the abstract of one, from
public summaries of the other, and from what follows: with λ = 1/2, the mean lead of the right class over the standard
deviation of a wrong one is, up to a factor that depends on p and K alone,

    z(f̃) = ((1-p)(n_s + n_s* + 2 n_so) + n_v + n_v* + 2 n_vo) / sqrt(n_s + n_s* + 14 n_so)
    z(f̄) = ((1-p) n_s + n_v) / sqrt(n_s)

with n_so and n_vo the features that both have. A public summary of SDD's Lemma 1 has these very terms with a square
root over the numerator too. It makes a difference: with it Theorem 2 follows from (a + b) / (c + d) < a / c; without
it, it does not follow. So the simulation measures accuracies, by drawing features, and compares no formula but its
own z.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table

from rupert.evaluation.statistics import Interval, wilson

CLASSES = 10
SPURIOUS = (0, 5, 10, 20, 40, 80, 160)  # n_s*
FLIPS = (0.7, 0.8, 0.9, 1.0)  # p
HARDENED = (3, 10)  # n_v and n_s of f̄ in the table of Theorem 1
AIM = 1  # n_v* there
MOST_INVARIANT, MOST_SPURIOUS = 5, 100  # for Theorem 2, drawn uniformly from 1 on
NOISE = 0.1  # its standard deviation
LEAST = 0.01  # difference of accuracies that counts, and that the trials resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the attacked model is made of; with no features of f*, and λ = 1, it is the hardened one.

    Attributes:
        invariant, spurious: of f̄, those that f* has too included.
        aimed_invariant, aimed_spurious: of f*, likewise.
        shared_invariant, shared_spurious: of both.
        weight: λ.
    """

    invariant: int
    spurious: int
    aimed_invariant: int = 0
    aimed_spurious: int = 0
    shared_invariant: int = 0
    shared_spurious: int = 0
    weight: float = 0.5

    def kinds(self) -> tuple[tuple[int, int, float], ...]:
        """(invariant, spurious, weight of each): of f̄ alone, of f* alone, of both."""
        return (
            (self.invariant - self.shared_invariant, self.spurious - self.shared_spurious, self.weight**2),
            (
                self.aimed_invariant - self.shared_invariant,
                self.aimed_spurious - self.shared_spurious,
                (1 - self.weight) ** 2,
            ),
            (self.shared_invariant, self.shared_spurious, 1.0),
        )

    def hardened(self) -> Features:
        """The model before the attack."""
        return Features(invariant=self.invariant, spurious=self.spurious, weight=1.0)

    def lead(self, flip: float) -> float:
        """z: the mean lead of the right class over the deviation, without noise and the factor of p and K."""
        kinds = self.kinds()
        mean = sum(weight * (invariant + (1 - flip) * spurious) for invariant, spurious, weight in kinds)
        return mean / sqrt(sum(weight**2 * spurious for _, spurious, weight in kinds))


def right(features: Features, flip: float, trials: int, generator: np.random.Generator) -> int:
    """In how many of the trials the model is right. Class 0 is the label; no other is special.

    A spurious feature shows class 0 with probability 1 - p + p/K and each other with p/K, so that what all of one kind
    show is multinomial; the noise of a sum of n projections is sqrt(n) times that of one, as directions are orthogonal.
    """
    shown = np.full(CLASSES, flip / CLASSES)
    shown[0] += 1 - flip
    scores: NDArray[np.float64] = np.zeros((trials, CLASSES))
    for invariant, spurious, weight in features.kinds():
        if spurious:
            scores += weight * generator.multinomial(spurious, shown, size=trials)
        scores[:, 0] += weight * invariant
    variance = sum(weight**2 * (invariant + spurious) for invariant, spurious, weight in features.kinds())
    scores += NOISE * sqrt(variance) * generator.standard_normal((trials, CLASSES))
    return int((scores.argmax(axis=1) == 0).sum())


@dataclass(frozen=True, slots=True)
class Share:
    """How often Theorem 2's conclusion held among draws of features that are or are not as it asks for."""

    flip: float
    asked_for: bool
    draws: int
    lower: int
    resolved: int
    foretold: int


def draw_features(generator: np.random.Generator, asked_for: bool) -> Features:
    """Numbers of features that meet the theorem's conditions, or that do not; none is shared."""
    while True:
        invariant, aimed_invariant = (int(n) for n in generator.integers(1, MOST_INVARIANT + 1, size=2))
        spurious, aimed_spurious = (int(n) for n in generator.integers(1, MOST_SPURIOUS + 1, size=2))
        if (invariant > aimed_invariant and spurious < aimed_spurious) == asked_for:
            return Features(
                invariant=invariant,
                spurious=spurious,
                aimed_invariant=aimed_invariant,
                aimed_spurious=aimed_spurious,
            )


def share(flip: float, asked_for: bool, draws: int, trials: int, generator: np.random.Generator) -> Share:
    """Draw models and attacks, and count those whose accuracy falls, by more than `LEAST` either way.

    `foretold` are the resolved ones whose z moves the same way.
    """
    lower = resolved = foretold = 0
    for _ in range(draws):
        features = draw_features(generator, asked_for)
        after, before = (right(one, flip, trials, generator) / trials for one in (features, features.hardened()))
        if abs(after - before) < LEAST:
            continue
        resolved += 1
        lower += after < before
        foretold += (after < before) == (features.lead(flip) < features.hardened().lead(flip))
    return Share(flip, asked_for, draws, lower, resolved, foretold)


def main() -> int:
    """Simulate, and print both tables; it has no target."""
    begun = begin("sdd_theorem", _options())
    arguments = begun.arguments
    generator = np.random.default_rng(arguments.seed)
    base = Features(invariant=HARDENED[0], spurious=HARDENED[1], aimed_invariant=AIM)
    accuracies = {
        flip: {
            "before": right(base.hardened(), flip, arguments.trials, generator) / arguments.trials,
            **{
                str(spurious): right(replace(base, aimed_spurious=spurious), flip, arguments.trials, generator)
                / arguments.trials
                for spurious in SPURIOUS
            },
        }
        for flip in FLIPS
    }
    shares = [
        share(flip, asked_for, arguments.draws, arguments.trials, generator)
        for flip in FLIPS
        for asked_for in (True, False)
    ]
    console = Console()
    console.print(_first_table(accuracies))
    console.print(_second_table(shares))
    met = [one for one in shares if one.asked_for]
    worse = 100 * sum(one.lower for one in met) / sum(one.resolved for one in met)
    figure = Figure(what="attacked models that are worse where Theorem 2's conditions are met", value=worse, unit="%")
    return begun.end(shares, [figure], {"accuracies": accuracies})


def _options() -> argparse.ArgumentParser:
    parser = options((__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000, help="of each accuracy")
    parser.add_argument("--draws", type=int, default=100, help="of features, for Theorem 2")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _first_table(accuracies: dict[float, dict[str, float]]) -> Table:
    table = Table(
        title=f"Theorem 1: percent right after the attack, against n_s*; n_v, n_s = {HARDENED}, n_v* = {AIM}, "
        f"K = {CLASSES}, λ = 1/2, noise {NOISE}"
    )
    table.add_column("p", justify="right")
    for heading in ("before", *(f"{spurious}" for spurious in SPURIOUS)):
        table.add_column(heading, justify="right")
    for flip, found in accuracies.items():
        table.add_row(f"{flip}", *(f"{100 * value:.1f}" for value in found.values()))
    return table


def _second_table(shares: list[Share]) -> Table:
    table = Table(title=f"Theorem 2: how often the attacked model is worse, where it is {LEAST:.0%} apart or more")
    for heading in ("p", "conditions", "draws", "apart", "worse", "worse, % (95 %)", "z foretells, %"):
        table.add_column(heading, justify="right")
    for one in shares:
        rate = wilson(one.lower, one.resolved) if one.resolved else None
        table.add_row(
            f"{one.flip}",
            "met" if one.asked_for else "not",
            str(one.draws),
            str(one.resolved),
            str(one.lower),
            _percent(rate) if rate else "-",
            f"{100 * one.foretold / one.resolved:.0f}" if one.resolved else "-",
        )
    return table


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.0f} ({100 * rate.low:.0f} to {100 * rate.high:.0f})"


if __name__ == "__main__":
    raise SystemExit(main())
