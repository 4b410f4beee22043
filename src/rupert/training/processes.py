"""What the processes of one training tell each other; in a single process every function here is the identity.

Each process has its own rows of a step's batch, and its loss is (sum over its answer tokens) * count() / total(answer
tokens). The mean over processes of the gradients is then the gradient of the mean over all answer tokens of the step,
however unevenly they lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import PartialState, init_empty_weights
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel


def join(device: str) -> None:
    """Join the other processes, where a launcher (`accelerate launch`, torchrun) started this one among several.

    Done before a model is loaded, it makes this process's accelerator the one that "cuda" means.

    Args:
        device: the field of that name of `ModelSettings`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """This process's number, from 0; the main one is 0."""
    return distributed.get_rank() if _together() else 0


def total(value: float) -> float:
    """The sum of `value` over all processes, in float64; every process has to call it, and all get the same."""
    if not _together():
        return value
    # Gloo adds on the CPU; what an accelerator's backend adds has to lie there.
    device = None if distributed.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return float(summed)


def common_seed() -> int:
    """A number of the main process's global generator, which checkpoints keep; every process gets the same."""
    own = float(torch.randint(2**31, ()))
    return int(total(own if rank() == 0 else 0.0))


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place.

    Sharded tensors are left alone: FSDP2 has taken the mean of a sharded gradient when it was made.

    Args:
        tensors: of the same shapes and in the same order in every process.
    """
    if not _together():
        return
    replicas = [tensor.detach() for tensor in tensors if not isinstance(tensor, DTensor)]
    running = [distributed.all_reduce(replica, async_op=True) for replica in replicas]
    for replica, work in zip(replicas, running, strict=True):
        work.wait()
        replica.div_(count())


def wait() -> None:
    """Wait until every process has come here."""
    total(0.0)


def on_cpu(device: torch.device) -> bool:
    """Whether a model that lies on `device` is trained on CPUs; one that is to be sharded may lie there before."""
    return bool((PartialState().device if _together() else device).type == "cpu")


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has divided a model's weights among the processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(model: PreTrainedModel) -> PreTrainedModel:
    """The model with all of its weights, to be saved by the main process; every process has to call it.

    Returns:
        `model` itself, unless it is sharded. Then, in the main process, an ordinary one on the CPU; in the others an
        ordinary one without weights.
    """
    if not is_sharded(model):
        return model
    return ordinary(
        model, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    )


def ordinary(model: PreTrainedModel, weights: Mapping[str, Any]) -> PreTrainedModel:
    """A model as `model` was before it was divided among the processes.

    Args:
        model: of which each process holds a part.
        weights: all of its weights in the main process; those of the others do not count.

    Returns:
        one with the weights in the main process, and one without weights in the others.
    """
    with init_empty_weights(include_buffers=False):
        made = AutoModelForCausalLM.from_config(model.config)
    if rank() == 0:
        made.load_state_dict(weights, assign=True)
        made.tie_weights()
    made.generation_config = model.generation_config
    return made.eval()


def _together() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized())
