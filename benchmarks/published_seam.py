"""SEAM as published (Wang et al., ICLR 2026, arXiv 2505.12186), written from its formulas, with what its code spends.

g_a = ∇ℓ(H), g_b = ∇ℓ(B), ĝ = g/|g|, c = ĝ_a·ĝ_b; the gradient is ∇L_ul + α ∇L_up + β ∇L_sd with

    L_ul = -log(1 + mean over hidden states k of ℓ_k(H))    L_up = ℓ(R)
    ∇L_sd ≈ (∇ℓ(θ + ε(ĝ_b - c ĝ_a); H) - g_a)/(ε|g_a|) + (∇ℓ(θ + ε(ĝ_a - c ĝ_b); B) - g_b)/(ε|g_b|)

Six forward and backward passes over rows padded to the full length, the output head at every position, and whole copies
of gradients and weights. All of it lies on one device here, and nothing is moved between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED

Batch = Mapping[str, Tensor]  # input_ids, attention_mask, labels: each [rows, max_length]
Gradient = dict[str, Tensor]  # by the name of the parameter

EPSILON = 1e-3


def leave_gradient(model: PreTrainedModel, batches: Mapping[str, Batch], *, alpha: float, beta: float) -> None:
    """Put ∇L_ul + α ∇L_up + β ∇L_sd into `p.grad`.

    Args:
        model: a causal language model with a `norm` before its output head.
        batches: "harmful", "alignment" and "benign", padded to the full length.
        alpha: weight of L_up.
        beta: weight of L_sd.
    """
    harmful, alignment, benign = (batches[stream] for stream in ("harmful", "alignment", "benign"))
    total = _gradient(model, lambda: unlearning_loss(model, harmful))
    utility = _gradient(model, lambda: answer_loss(model, alignment))
    for name, part in total.items():
        part.add_(utility[name], alpha=alpha)
    del utility
    add_self_destruction(total, model, harmful, benign, beta=beta)
    for name, parameter in model.named_parameters():
        parameter.grad = total[name]


def leave_self_destruction(model: PreTrainedModel, batches: Mapping[str, Batch]) -> None:
    """Put ∇L_sd alone into `p.grad`."""
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    add_self_destruction(total, model, batches["harmful"], batches["benign"], beta=1.0)
    for name, parameter in model.named_parameters():
        parameter.grad = total[name]


def unlearning_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """L_ul: the output head on the embedding's output and on every layer's, at all positions.

    The published code counts the last hidden state twice. It is counted once here, as in rupert, so that both compute
    the same gradient; the second time would cost one head more.
    """
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        output_hidden_states=True,
    )
    norm, head = model.get_decoder().norm, model.get_output_embeddings()
    # Transformers gives the last hidden state already normed; its logits are the model's own.
    logits = [*(head(norm(state)) for state in output.hidden_states[:-1]), output.logits]
    losses = torch.stack([_mean_cross_entropy(of_layer, batch["labels"]) for of_layer in logits])
    return -torch.log1p(losses.mean())


def answer_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """ℓ: mean cross entropy of the answer's tokens, from logits at all positions."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return _mean_cross_entropy(logits, batch["labels"])


def add_self_destruction(
    total: Gradient, model: PreTrainedModel, harmful: Batch, benign: Batch, *, beta: float
) -> None:
    """Add β ∇L_sd by one-sided differences to `total`; the weights come back as they were."""
    of_harmful = _gradient(model, lambda: answer_loss(model, harmful))
    of_benign = _gradient(model, lambda: answer_loss(model, benign))
    norm_harmful, norm_benign = _norm(of_harmful), _norm(of_benign)
    cosine = sum(float((part * of_benign[name]).sum()) for name, part in of_harmful.items())
    cosine /= norm_harmful * norm_benign

    before = _copies(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        direction = of_benign[name] / norm_benign - of_harmful[name] * (cosine / norm_harmful)
        parameter.data.copy_(before[name] + EPSILON * direction)
    shifted_harmful = _gradient(model, lambda: answer_loss(model, harmful))

    restored = _copies(before)
    for name, parameter in model.named_parameters():
        direction = of_harmful[name] / norm_harmful - of_benign[name] * (cosine / norm_benign)
        parameter.data.copy_(restored[name] + EPSILON * direction)
    shifted_benign = _gradient(model, lambda: answer_loss(model, benign))

    for name, parameter in model.named_parameters():
        parameter.data.copy_(restored[name])
        total[name].add_(shifted_harmful[name] - of_harmful[name], alpha=beta / (EPSILON * norm_harmful))
        total[name].add_(shifted_benign[name] - of_benign[name], alpha=beta / (EPSILON * norm_benign))


def _gradient(model: PreTrainedModel, loss: Callable[[], Tensor]) -> Gradient:
    """A copy of the gradient of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss())
    gradient = _copies({name: parameter.grad for name, parameter in model.named_parameters()})
    model.zero_grad(set_to_none=True)
    return gradient


def _copies(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if tensor is not None}


def _norm(gradient: Gradient) -> float:
    return float(torch.nn.utils.get_total_norm(list(gradient.values())))


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    following = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return functional.cross_entropy(logits.float().flatten(0, 1), following.flatten(), ignore_index=IGNORED)
