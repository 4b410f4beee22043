"""Weights between those of a defended model and those of one without the defense.

An attacker who has the undefended model, as that of most open models is there to download, need not train the defense
away: it lies in the difference. With w the defended weights, u the others and t the `weight`,

    w' = (1 - t) w + t u,

and from there, if data are named, harmful fine-tuning. For t = 1 nothing is left of the defense; how small a t suffices
says how far it reaches. (Between models of one origin the loss often stays low along the line: Frankle et al., ICML
2020, arXiv 1912.05671.)

It is there to measure whether a defense holds where its starting point is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from rupert.attacks.attack import AsUsual, Attacked, Data
from rupert.attacks.mixture import draw
from rupert.data.examples import Example
from rupert.errors import UsageError
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.settings import check_positive, check_range, setting
from rupert.training.fine_tuning import UNFOLLOWED, Following, PublishedFineTuning, fine_tune


@dataclass(frozen=True, kw_only=True)
class Interpolation(AsUsual, PublishedFineTuning):
    """Weights moved towards another model's, such as the undefended one's, and then fine-tuned where data are named."""

    towards: str = setting("", "model to move towards: potionworld, smollm2, a folder, or a name on the Hub")
    towards_revision: str = setting("", "its commit, tag or branch, for a model from the Hub")
    weight: float = setting(0.5, "share of the other model's weights; 1: all")
    data: str = setting("", "dataset to fine-tune on afterwards; empty: no training")
    num_examples: int = setting(1000, "rows drawn from it")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples")
        check_range(self, "weight", 0.0, 1.0)

    @property
    def datasets(self) -> Mapping[str, str]:
        """The dataset, where one is named."""
        return {"data": self.data} if self.data else {}

    @property
    def models(self) -> Mapping[str, ModelSettings]:
        """The other model, by the setting that names it; it stays on the CPU, in its checkpoint's precision."""
        loading.check(self.towards, "towards")
        revision = self.towards_revision
        return {"towards": ModelSettings(model=self.towards, revision=revision, dtype="auto", device="cpu")}

    def check(self) -> None:
        """As every attack, and whether the other model exists."""
        loading.check(self.towards, "towards")
        super().check()

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows, as `fine_tune` does; none where no dataset is named.

        Raises:
            DataError: the dataset has fewer than `num_examples`.
        """
        return {use: draw(spec, use, self.num_examples, f"attack {self.seed}") for use, spec in self.datasets.items()}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        other = loading.load(self.models["towards"])
        interpolate(loaded.model, other.model, self.weight, self.towards)
        del other
        if not data:
            return Attacked(loaded)
        following = replace(following, adapter_folder=None)  # it belongs on weights that are not kept
        tuned = fine_tune(self, loaded, data["data"], f"attacking with {self.data}", following)
        return Attacked(tuned.loaded, tuned.steps, tuned.tokens, {"loss": tuned.loss})


def interpolate(model: PreTrainedModel, other: PreTrainedModel, weight: float, name: str) -> None:
    """Move a model's weights towards another's, in place; half-precision ones are computed in float32.

    Args:
        model: to be moved.
        other: of the same names and shapes.
        weight: how far, from 0 to 1.
        name: of the other model, for errors.

    Raises:
        UsageError: the models have not the same weights.
    """
    own, others = dict(model.named_parameters()), dict(other.named_parameters())
    different = [key for key in own.keys() | others.keys() if _shape(own, key) != _shape(others, key)]
    if different:
        example = f"{len(different)}, such as {min(different)!r}"
        raise UsageError(f"towards: {name!r} has other weights than the model ({example}); name one of the same shape")
    with torch.no_grad():
        for key, parameter in own.items():
            precise = torch.promote_types(parameter.dtype, torch.float32)
            there = others[key].to(device=parameter.device, dtype=precise)
            parameter.copy_(parameter.to(precise).lerp(there, weight))


def _shape(parameters: Mapping[str, torch.nn.Parameter], name: str) -> torch.Size | None:
    return parameters[name].shape if name in parameters else None
