"""The layer-wise unlearning loss of RepNoise and SEAM: -log(1 + mean over hidden states of their cross entropy).

ℓ_k is the mean cross entropy over answer tokens of what the model's own final norm and output head make of hidden state
k: the embedding's output (k = 0) and that of every layer. Rosati et al., NeurIPS 2024, arXiv 2405.14577; Wang et al.,
ICLR 2026, arXiv 2505.12186. Their code counts the last hidden state twice, once normed twice; here it counts once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.training import processes
from rupert.training.gradients import aside, give, mean_loss, trained
from rupert.training.losses import AnswerStates, backward_head


class LayerWiseUnlearning:
    """Collects the gradient of the mean of ℓ_k while forward passes are made for something else.

    The last hidden state's loss is the model's own, whose gradient the caller has; it is not computed again. Of each
    other drawn hidden state the head makes logits once, forward and backward, in chunks (`losses.CHUNK`);
    then one backward pass takes what they gave through the layers.

    Args:
        model: what is trained.
        count: how many hidden states are drawn, without replacement; None for all. The mean over those drawn is an
            unbiased estimate of the mean over all.
    """

    def __init__(self, model: PreTrainedModel, count: int | None = None) -> None:
        self._model = model
        self._last = model.config.num_hidden_layers
        self._parameters = trained(model)
        self._layers = draw_states(self._last + 1, count)
        self._gradient: list[Tensor] = []
        self._total = 0.0

    def __call__(self, states: AnswerStates, share: float) -> None:
        """Add a micro-batch: `share` is what its summed loss is multiplied by; its graph is kept."""
        weight = share / len(self._layers)
        reached, seeds = [], []
        with aside(self._parameters, self._gradient):
            for layer in self._layers:
                if layer != self._last:
                    found = states.layer(layer)
                    loss, seed = backward_head(self._model, found, states.targets, weight, norm=True)
                    self._total += weight * loss
                    if found.requires_grad:  # with an adapter, the embedding's output does not
                        reached.append(found)
                        seeds.append(seed)
            if reached:
                torch.autograd.backward(reached, seeds, retain_graph=True)

    def finish(self, last_loss: float, last_gradient: Sequence[Tensor], weight: float) -> float:
        """Add `weight` times the gradient of the unlearning loss to `p.grad`.

        Args:
            last_loss: the model's own loss on the whole batch.
            last_gradient: its gradient.
            weight: of the unlearning loss.

        Returns:
            the unlearning loss, without the weight.
        """
        mean = mean_loss(self._total)
        if self._last in self._layers:
            mean += last_loss / len(self._layers)
            for part, own in zip(self._gradient, last_gradient, strict=True):
                part.add_(own, alpha=1 / len(self._layers))
        give(self._parameters, self._gradient, -weight / (1 + mean))
        return -math.log1p(mean)


def draw_states(count: int, drawn: int | None) -> list[int]:
    """Numbers below `count`: all, or as many as are to be drawn, the same in every process."""
    if drawn is None:
        return list(range(count))
    generator = torch.Generator().manual_seed(processes.common_seed())
    return sorted(torch.randperm(count, generator=generator)[:drawn].tolist())
