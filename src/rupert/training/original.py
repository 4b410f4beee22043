"""The model that a training began with, without a second model: its trained weights, put in place for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from rupert.training.gradients import trained
from rupert.training.weights import holding


class Original:
    """A frozen copy of what is trained: with an adapter no more than that, under FSDP2 this process's shards.

    Args:
        model: as it is to be remembered.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._values = [parameter.detach().clone() for parameter in trained(model)]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model is the original, without dropout and without gradients."""
        model, was_training = self._model, self._model.training
        with holding(trained(model), self._values), torch.no_grad():
            model.eval()
            try:
                yield
            finally:
                model.train(was_training)
                _give_back(model)


def _give_back(model: PreTrainedModel) -> None:
    """Free what FSDP2 has gathered; without a backward pass it would go on with these weights."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
