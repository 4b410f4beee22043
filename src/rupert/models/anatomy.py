"""Where the parts of a causal language model are: its layers, their attention, its final norm and its output head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from rupert.errors import UsageError

# Llama, Mistral, Qwen, Gemma and Phi-3; Phi; GPT-NeoX and OPT; GPT-2.
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
# All of these but GPT-2; GPT-2.
LAYERS = ("layers", "h")
# Llama, Mistral, Qwen, Gemma, Phi-3, Phi and OPT; GPT-NeoX; GPT-2.
ATTENTIONS = ("self_attn", "attention", "attn")
# All of these but OPT, whose layers have none as a module.
FEED_FORWARD = "mlp"


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What turns a layer's hidden states into logits.

    The modules' `forward` is called and not the modules themselves: FSDP2's hooks on them count on one pass at a time.

    Attributes:
        norm: the final norm.
        head: the output head.
        scale: what the head's result is multiplied by.
        cap: the logits' bound, reached softly; none where they have none.
    """

    norm: nn.Module
    head: nn.Module
    scale: float
    cap: float | None

    @property
    def matrix(self) -> Tensor | None:
        """The head's weight [vocabulary, width], where multiplying by it is all that makes logits."""
        if not isinstance(self.head, nn.Linear) or self.scale != 1.0 or self.cap is not None:
            return None
        weight: Tensor = self.head.weight
        has_bias = getattr(self.head, "bias", None) is not None
        return weight if weight.is_floating_point() and not has_bias else None

    def normed(self, states: Tensor) -> Tensor:
        """The final norm of a layer's hidden states, of their shape."""
        normed: Tensor = self.norm.forward(states)
        return normed

    def logits(self, normed: Tensor) -> Tensor:
        """From final-normed hidden states [..., width] to logits [..., vocabulary], as the model itself does it."""
        logits: Tensor = self.head.forward(normed)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a model, also of one with an adapter, ready to be used outside of the model's forward pass.

    Under FSDP2 their weights are gathered, until the next backward pass through the model gives them back.

    Raises:
        UsageError: its final norm has none of the names in `FINAL_NORMS`.
    """
    decoder, config = model.get_decoder(), model.config
    norms = (getattr(decoder, name, None) for name in FINAL_NORMS)
    norm = next((found for found in norms if isinstance(found, nn.Module)), None)
    if norm is None:
        raise UsageError(f"--model: no final norm found in {type(decoder).__name__}; its name must be in FINAL_NORMS")
    head = model.get_output_embeddings()
    for module in (model, norm, head):
        if isinstance(module, FSDPModule):
            module.unshard()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Anatomy(norm, head, scale, getattr(config, "final_logit_softcapping", None))


def layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers, the first one first.

    Raises:
        UsageError: they have none of the names in `LAYERS`.
    """
    decoder = model.get_decoder()
    found = next((part for part in (getattr(decoder, name, None) for name in LAYERS) if part is not None), None)
    if not isinstance(found, nn.ModuleList):
        raise UsageError(f"--model: no layers found in {type(decoder).__name__}; their name must be in LAYERS")
    return list(found)


def attention_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The attention of each layer, the first one first; what it gives out is what the layer adds to its input.

    Raises:
        UsageError: a layer has none of the names in `ATTENTIONS`.
    """
    return [_attention(layer) for layer in layers(model)]


def _attention(layer: nn.Module) -> nn.Module:
    found = next((part for name in ATTENTIONS if isinstance(part := getattr(layer, name, None), nn.Module)), None)
    if found is None:
        raise UsageError(f"--model: no attention found in {type(layer).__name__}; its name must be in ATTENTIONS")
    return found


def feed_forwards(model: PreTrainedModel) -> list[nn.Module]:
    """The MLP of each layer, the first one first.

    Raises:
        UsageError: a layer has none of the name `FEED_FORWARD`.
    """
    return [_feed_forward(layer) for layer in layers(model)]


def _feed_forward(layer: nn.Module) -> nn.Module:
    found = getattr(layer, FEED_FORWARD, None)
    if not isinstance(found, nn.Module):
        raise UsageError(f"--model: no MLP found in {type(layer).__name__}; its name must be {FEED_FORWARD!r}")
    return found
