"""Fine-tuning from fresh last layers: what a defense did to them is thrown away, and learnt anew.

Against defenses that make the hidden states of harmful text useless, as RepNoise (Rosati et al., NeurIPS 2024, arXiv
2405.14577). With θ the defended weights and F the ones that are thrown away, those of the last layers or of chosen
modules in them,

    θ_F <- the model's own initialization, drawn with the seed;    θ' = argmin ℓ(H), trained from there on,

where H is harmful rows with a share of benign ones, which teach the fresh layers to speak at all.

It is there to measure whether a defense holds where weights are replaced and not only moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from rupert.attacks.attack import Attacked, Data, attacked
from rupert.attacks.mixture import MixedFineTuning
from rupert.errors import InvalidValue, UnknownName
from rupert.models.anatomy import layers
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training.fine_tuning import UNFOLLOWED, Following, fine_tune


@dataclass(frozen=True, kw_only=True)
class Reinitialization(MixedFineTuning):
    """Harmful fine-tuning, mixed with benign rows, after the last layers got fresh weights."""

    poison_ratio: float = setting(0.5, "share of the rows that is drawn from `data`; the others are benign")
    reinitialized_layers: int = setting(1, "last layers that get fresh weights")
    reinitialized_modules: tuple[str, ...] = setting((), "modules of these layers, such as down_proj; empty: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "reinitialized_layers")

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        reinitialize(loaded.model, self.reinitialized_layers, self.reinitialized_modules, self.seed)
        rows = [*data.get("data", ()), *data.get("benign", ())]
        following = replace(following, adapter_folder=None)  # an adapter alone would not bring fresh layers back
        return attacked(fine_tune(self, loaded, rows, f"attacking with {self.data}", following))


def reinitialize(model: PreTrainedModel, count: int, names: tuple[str, ...], seed: int) -> None:
    """Give modules in the last layers the weights that the model's class would begin training with.

    Args:
        model: whose weights change in place.
        count: last layers.
        names: of modules in them, or the ends of such names; empty for all.
        seed: of the weights.

    Raises:
        InvalidValue: the model has fewer layers.
        UnknownName: they have no module of that name.
    """
    found = layers(model)
    if count > len(found):
        raise InvalidValue("reinitialized_layers", count, f"the model has {len(found)}")
    chosen = [module for layer in found[-count:] for module in _modules(layer, names)]
    set_seed(seed)
    with torch.no_grad():
        for module in chosen:
            for parameter in module.parameters(recurse=False):
                parameter.__dict__.pop("_is_hf_initialized", None)  # with it Transformers leaves loaded weights alone
            model._init_weights(module)


def _modules(layer: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Those modules of a layer that are named so, with all that is in them."""
    modules = dict(layer.named_modules())
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for path in modules if path):
            raise UnknownName("reinitialized_modules", name, {path.split(".")[-1] for path in modules if path})
    return [
        module for path, module in modules.items() if not names or any(f".{name}." in f".{path}." for name in names)
    ]
