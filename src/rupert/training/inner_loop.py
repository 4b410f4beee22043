"""A simulated attack: fine-tuning inside one step of a defense, the same in every process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.training import processes
from rupert.training.gradients import aside, backward_answer_cross_entropy, trained
from rupert.training.weights import in_float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What an adversary does.

    Attributes:
        learning_rate: of its steps.
        benign_steps: how many of them are on benign rows; the rest, which come after, on harmful ones.
    """

    learning_rate: float
    benign_steps: int


def draw_attack(
    *, steps: int, learning_rates: Sequence[float], switch_share: float, switch_at: tuple[float, float]
) -> Attack:
    """Draw an adversary: harmful fine-tuning, or benign fine-tuning that turns harmful at a step M.

    Args:
        steps: K, of an attack.
        learning_rates: one is drawn, each as likely.
        switch_share: how likely the adversary is one that switches.
        switch_at: a and b of M ~ Beta(a, b) * K, rounded down.
    """
    generator = np.random.default_rng(processes.common_seed())
    rate = learning_rates[int(generator.integers(len(learning_rates)))]
    switches, share = generator.random() < switch_share, generator.beta(*switch_at)
    return Attack(learning_rate=rate, benign_steps=int(share * steps) if switches else 0)


def dealt(batch: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Cut a batch into `count` of as many rows, dealt like cards: every `count`th row is of the same.

    So the rows that several processes draw for one of them are those that a single process would.
    """
    return [{name: tensor[first::count] for name, tensor in batch.items()} for first in range(count)]


def attacked(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], *, learning_rate: float, micro_batch_size: int
) -> Iterator[float]:
    """Fine-tune the trained parameters in place, one AdamW step a batch; yields the loss before each step, after it.

    The optimizer is PyTorch's AdamW with its own defaults, made anew. Its gradient, kept apart from `p.grad`, is the
    mean over all processes, so that all hold the same weights. Who calls it restores them.

    Args:
        model: what is attacked.
        batches: this process's rows of each step.
        learning_rate: of the steps.
        micro_batch_size: rows of one pass.
    """
    parameters = trained(model)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, fused=True)  # one pass over memory instead of eight
    for batch in batches:
        with aside(parameters, []):
            loss = backward_answer_cross_entropy(model, [batch], micro_batch_size=micro_batch_size)
            processes.average(parameter.grad for parameter in parameters if parameter.grad is not None)
            optimizer.step()
        torch.clear_autocast_cache()  # of the weights before the step, in half precision
        yield loss


def steppable(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within, what is trained is float32, at the least: half precision rounds an attack's small steps away."""
    is_half = any(parameter.dtype.itemsize < torch.float32.itemsize for parameter in trained(model))
    return in_float32(model) if is_half else nullcontext()
