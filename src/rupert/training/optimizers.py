"""Optimizers that Transformers does not bring itself: Lion, and Muon with AdamW beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

from rupert.errors import MissingDependency

LION, MUON = "lion", "muon"
OURS = (LION, MUON)
# Muon's step made as large as AdamW's usually is, so that both take one learning rate (Liu et al., arXiv 2502.16982).
ADJUSTED = "match_rms_adamw"


def check_installed(name: str) -> None:
    """Find out whether the optimizer's package is there.

    Raises:
        MissingDependency: it is not.
    """
    if name == LION and find_spec("lion_pytorch") is None:
        raise MissingDependency("lion-pytorch", "attacks")


def made_by(name: str, *, learning_rate: float, weight_decay: float) -> tuple[Any, dict[str, Any]] | None:
    """What `transformers.Trainer` takes as `optimizer_cls_and_kwargs`; None for an optimizer that it makes itself.

    Args:
        name: as the setting `optim`.
        learning_rate: at its peak.
        weight_decay: decoupled.
    """
    if name == LION:
        from lion_pytorch import Lion

        return Lion, {"lr": learning_rate, "weight_decay": weight_decay}
    if name == MUON:
        return _muon, {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return None


class MuonWithAdamW(Optimizer):
    """Muon on matrices (Jordan et al., 2024), AdamW on everything else, as one optimizer.

    PyTorch's own two step, with this one's groups and states: schedules and checkpoints see a single optimizer.

    Args:
        matrices: 2-D parameters.
        others: parameters of any shape.
        learning_rate: of both.
        weight_decay: of both; what has one dimension, norms and biases, has none.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        flat = [parameter for parameter in others if parameter.ndim < 2]
        rest = [parameter for parameter in others if parameter.ndim >= 2]
        decayed, undecayed = {"weight_decay": weight_decay}, {"weight_decay": 0.0}
        muon = [{"params": list(matrices), **decayed}] if matrices else []
        adamw = [{"params": some, **decay} for some, decay in ((rest, decayed), (flat, undecayed)) if some]
        self._muon = Muon(muon, lr=learning_rate, adjust_lr_fn=ADJUSTED) if muon else None
        self._adamw = AdamW(adamw, lr=learning_rate) if adamw else None
        groups = [group for inner in self._inner for group in inner.param_groups]
        super().__init__(groups, {})

    @property
    def _inner(self) -> list[Optimizer]:
        return [inner for inner in (self._muon, self._adamw) if inner is not None]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both."""
        loss = None if closure is None else closure()
        first = 0
        for inner in self._inner:
            # Anew each time: loading a checkpoint makes other groups and another dictionary of states.
            inner.param_groups = self.param_groups[first : first + len(inner.param_groups)]
            inner.state = self.state
            inner.step()
            first += len(inner.param_groups)
        return loss


def _muon() -> Callable[..., Optimizer]:
    """What Transformers calls a factory: it gives what makes the optimizer of a model."""
    return _muon_of


def _muon_of(model: PreTrainedModel, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon for matrices of layers and adapters, not for embeddings and output head (Jordan et al., 2024)."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    excluded = {id(weight) for module in (*tables, model.get_output_embeddings()) for weight in module.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in excluded]
    chosen = {id(parameter) for parameter in matrices}
    return MuonWithAdamW(
        matrices,
        [parameter for parameter in trained if id(parameter) not in chosen],
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )
