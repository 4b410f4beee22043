"""What an attack is: settings that say which data it takes, and what it does to a model with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from rupert.data import sources
from rupert.data.asking import PLAIN, Asking
from rupert.data.examples import Example
from rupert.models.loading import LoadedModel
from rupert.training.fine_tuning import UNFOLLOWED, FineTuned, Following

__all__ = ["AsUsual", "Attacked", "Attacker", "Data", "attacked"]

Data = Mapping[str, Sequence[Example]]  # what rows are for -> the rows, in the order in which they are drawn


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attacked model and what the attack took.

    Attributes:
        loaded: the model, an adapter merged into its weights.
        steps: optimizer steps of all its trainings.
        tokens: tokens that they went over, padding left out.
        report: what else is known of it, in JSON values: the mean loss of a training, the layer of a direction.
    """

    loaded: LoadedModel
    steps: int = 0
    tokens: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)


class Attacker(Protocol):
    """An attack, with the settings of the training that it may be; see the module's docstring."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # it is a dataclass

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    @property
    def version(self) -> int:
        """Of the method's code, see `OptimizationSettings.version`."""

    @property
    def datasets(self) -> Mapping[str, str]:
        """The datasets that `gather` reads, by the setting that names each."""

    @property
    def asking(self) -> Asking:
        """How the attacker asks the model afterwards; evaluations ask it so too."""

    def check(self) -> None:
        """Find out, without reading them, whether its datasets exist; raises a `UsageError` otherwise."""

    def gather(self) -> dict[str, list[Example]]:
        """Draw its rows, by what they are for.

        Raises:
            DataError: there are fewer than are asked for.
        """

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place.

        Args:
            loaded: the model.
            data: what `gather` returned.
            following: who follows each of its trainings. An adapter is kept only by an attack that is nothing but the
                training of one: merged into the model that was attacked, it has to give the attacked one.

        Raises:
            UsageError: the model has not what the attack needs.
            NonFiniteError: a loss or gradient is not finite.
        """


class AsUsual:
    """What an attack has that says nothing else: it needs its datasets alone, and asks as everybody asks."""

    @property
    def datasets(self) -> Mapping[str, str]:
        """None."""
        return {}

    @property
    def asking(self) -> Asking:
        """As everybody asks."""
        return PLAIN

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist; raises a `UsageError` otherwise."""
        sources.check_all(self.datasets)


def attacked(tuned: FineTuned) -> Attacked:
    """What came out of an attack that is one training."""
    return Attacked(tuned.loaded, tuned.steps, tuned.tokens, {"loss": tuned.loss})
