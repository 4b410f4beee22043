"""Losses over answers: pure functions of model and batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED
from rupert.models.anatomy import Anatomy, anatomy
from rupert.models.packing import is_packing, packed
from rupert.training.linear_cross_entropy import backward_linear_cross_entropy, linear_cross_entropy

# Logits of one chunk: 128 MiB in float32, enough for full speed.
CHUNK = 2**25


def answer_tokens(batch: Mapping[str, Tensor]) -> int:
    """How many labels a batch has that count."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def answer_cross_entropy(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Summed cross entropy of a batch's answer tokens; a scalar in float32, or in float64 for a model in float64.

    A sum, not a mean, so that micro-batches add up to the whole batch. The output head runs only on the columns from
    the first answer token of any row on, so that long prompts cost no logits.

    Args:
        model: a causal language model of Transformers.
        batch: input_ids, attention_mask and labels, each [rows, length].
    """
    logits, labels = answer_logits(model, batch)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def answer_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [rows, columns, vocabulary] and their labels [rows, columns], from the first answer token on."""
    labels = batch["labels"]
    first = int((labels != IGNORED).any(dim=0).int().argmax())
    columns = labels.shape[1] - max(first, 1)
    # One more column than labels: each logit predicts the next token, and the last predicts nothing.
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        logits_to_keep=columns + 1,
    ).logits
    return logits[:, :-1], labels[:, -columns:]


@dataclass(frozen=True)
class AnswerStates:
    """Hidden states of a batch at the positions whose next token is an answer's, with their graph.

    Attributes:
        hidden: [rows, length, width] each: the embedding's output and that of every layer; the last is final-normed.
            Within `packing` all tokens are one row, without padding.
        predicts: [rows, length], true where the next token is an answer's.
        targets: [tokens], these next tokens.
        is_real: [rows, length], false where there is padding.
    """

    hidden: tuple[Tensor, ...]
    predicts: Tensor
    targets: Tensor
    is_real: Tensor

    @cached_property
    def places(self) -> Tensor:
        """[tokens], where they are among all positions; found once for all layers, because a GPU is waited for."""
        return self.predicts.flatten().nonzero().squeeze(1)

    def layer(self, number: int) -> Tensor:
        """The states of one layer, [tokens, width]."""
        states = self.hidden[number]
        return states.flatten(0, 1).index_select(0, self.places.to(states.device))


def answer_states(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> AnswerStates:
    """Run a model, without its output head: what makes logits of the states can then leave out prompts and padding."""
    following = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    inputs, is_real = {name: batch[name] for name in ("input_ids", "attention_mask")}, batch["attention_mask"].bool()
    if is_packing(model):
        inputs, following = packed(**inputs), following[is_real][None]
        is_real = torch.ones_like(following, dtype=torch.bool)
    hidden = model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states
    predicts = following != IGNORED
    return AnswerStates(hidden, predicts, following[predicts], is_real)


def states_cross_entropy(model: PreTrainedModel, states: AnswerStates) -> Tensor:
    """Summed cross entropy of the answers that a model's own last states predict; a scalar, at least in float32."""
    return head_cross_entropy(anatomy(model), states.layer(-1), states.targets)


def head_cross_entropy(parts: Anatomy, normed: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of what the output head makes of final-normed states; a scalar, at least in float32.

    Args:
        parts: of the model.
        normed: [tokens, width].
        targets: [tokens].
    """
    if parts.matrix is not None:
        return linear_cross_entropy(normed.to(parts.matrix.device), parts.matrix, targets.to(parts.matrix.device))
    return _differentiable(parts, normed, targets)


def _differentiable(parts: Anatomy, normed: Tensor, targets: Tensor) -> Tensor:
    logits = parts.logits(normed)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, targets.to(logits.device), reduction="sum")


def backward_answers(model: PreTrainedModel, batch: Mapping[str, Tensor], scale: float) -> float:
    """Backward pass of `scale` times the loss of `answer_cross_entropy`, which is returned.

    The output head runs at answer tokens alone, and logits become their gradient in place.
    """
    states = answer_states(model, batch)
    normed = states.layer(-1)
    if torch.is_autocast_enabled(normed.device.type):  # which the head in place, of the weights' type, does not heed
        loss = _differentiable(anatomy(model), normed, states.targets)
        torch.autograd.backward(loss * scale)
        return float(loss.detach())
    value, seed = backward_head(model, normed, states.targets, scale)
    if normed.requires_grad:  # where nothing but the head is trained, it does not
        torch.autograd.backward(normed, seed)
    return value


def backward_head(
    model: PreTrainedModel, states: Tensor, targets: Tensor, scale: float, *, norm: bool = False
) -> tuple[float, Tensor]:
    """Add the gradient of the output head to `p.grad`, for at most `CHUNK` logits at a time.

    Args:
        model: whose head.
        states: [tokens, width].
        targets: [tokens].
        scale: what the gradient is multiplied by.
        norm: the states are not final-normed; the norm's gradient is added, too.

    Returns:
        the summed loss, and `scale` times its gradient at the states, [tokens, width].
    """
    parts, leaf, total = anatomy(model), states.detach().requires_grad_(), 0.0
    rows = max(1, CHUNK // model.config.get_text_config().vocab_size)
    for chunk, wanted in zip(leaf.split(rows), targets.split(rows), strict=True):
        total += backward_head_cross_entropy(parts, parts.normed(chunk) if norm else chunk, wanted, scale)
    assert leaf.grad is not None
    return total, leaf.grad


def backward_head_cross_entropy(parts: Anatomy, normed: Tensor, targets: Tensor, scale: float) -> float:
    """Backward pass of `scale` times `head_cross_entropy`, from the head on; returns the loss, without `scale`."""
    if parts.matrix is None:
        loss = head_cross_entropy(parts, normed, targets)
        torch.autograd.backward(loss * scale)
        return float(loss.detach())
    device = parts.matrix.device
    value, seed = backward_linear_cross_entropy(normed.to(device), parts.matrix, targets.to(device), scale)
    torch.autograd.backward(normed, seed.to(normed))
    return value


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch's tensors on a device."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
