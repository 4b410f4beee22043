"""SEAM, self-destructive language model: tie harmful gradients to the opposite of benign ones.

Wang et al., "Self-Destructive Language Model", ICLR 2026, arXiv 2505.12186.

On three streams, H harmful (requests with harmful answers), R alignment (the same requests with refusals) and B benign
(instructions with good answers), with ℓ the mean cross entropy over answer tokens, g_a = ∇ℓ(H) and g_b = ∇ℓ(B):

    gradient of a step = γ ∇L_ul + α ∇L_up + β ∇L_sd
    L_sd = cos(g_a, g_b)                    descending on harm is to ascend on benign text
    L_ul = -log(1 + mean over k of ℓ_k(H))  unlearning; ℓ_k: the loss of what the output head makes of hidden state k
    L_up = ℓ(R)                             utility

Work of a step. H: one forward pass, one backward pass for g_a, one for unlearning, and the output head forward and
backward on every hidden state but the last, on answer tokens alone and in chunks: half of a small model's work.
B and R: one forward and one backward pass. Then ∇L_sd exactly: a double backward pass through H and B, each worth two
forward and backward passes (with micro-batches, all but the last are run again first). Hessian-free: another forward
and backward pass of H and B (two with central differences).

Buffers beside weights and `p.grad`: g_a and g_b; exactly, the graphs of the last micro-batches of H and B; by
differences, a copy of the weights and the shifted gradient. No row is padded where `packing` knows the architecture;
elsewhere rows are padded to the longest of their micro-batch.

The published code computes in bfloat16, where a shift by ε = 1e-3 spread over all weights moves next to none of them,
and its L_sd is mostly noise (see `rupert fidelity`). It counts the last hidden state twice, normalizes the gradient of
each micro-batch, and pads every row to the full length. None of that is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedModel

from rupert.data import sources
from rupert.errors import InvalidValue
from rupert.models.attention import is_twice_differentiable, twice_differentiable
from rupert.models.packing import packing
from rupert.settings import check_not_negative, check_positive, setting
from rupert.terminal import progress_console
from rupert.training.cosine import BatchLoss, add_differences, add_exact, cosine, differentiate
from rupert.training.gradients import backward_answer_cross_entropy, give, trained
from rupert.training.mixing import check_share, mixed_rows
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import Scheduler, TrainingSettings
from rupert.training.unlearning import LayerWiseUnlearning
from rupert.training.weights import in_float32

LEAST_EPSILON = 0.01  # of differences in bfloat16: what moves the weights less is rounded away
# Measured by `rupert fidelity --model smollm2` for ε of 0.03 and 0.1; see docs/log.md.
ROUGH = (
    "bf16 with hessian_free: differences in bfloat16 are rough (cosine with the exact gradient 0.95 and 0.97 on "
    "SmolLM2 at epsilon 0.03 and 0.1); gradient: exact is not"
)


@dataclass(frozen=True, kw_only=True)
class SEAM(TrainingSettings):
    """Self-destructive language model (Wang et al., ICLR 2026): harmful gradients point against benign ones.

    The defaults are the paper's, but for `gradient`: it has "hessian_free". `unlearning_weight`, `unlearning_layers`
    and `alignment_benign_share` are ours; the last one is what keeps ability on small models.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of the same requests with refusals")
    benign: str = setting("alpaca-cleaned", "dataset of benign pairs")
    alignment_benign_share: float = setting(0.0, "share of the alignment rows that is benign pairs")
    alpha: float = setting(1.0, "weight of the utility loss")
    beta: float = setting(0.01, "weight of the self-destructive loss, the cosine of harmful and benign gradient")
    unlearning_weight: float = setting(1.0, "weight of the unlearning loss")
    unlearning: Literal["layer_wise", "plain"] = setting(
        "layer_wise", "unlearning loss: -log(1 + mean over layers), or minus the loss"
    )
    unlearning_layers: int | None = setting(None, "hidden states drawn a step for layer_wise; empty: all")
    gradient: Literal["exact", "hessian_free"] = setting("exact", "way of the self-destructive loss's gradient")
    epsilon: float = setting(1e-3, "how far hessian_free shifts the weights")
    central_differences: bool = setting(False, "hessian_free: shift the weights in both directions")
    max_steps: int = setting(2000, "optimizer steps")
    learning_rate: float = setting(2e-5, "peak learning rate")
    per_device_train_batch_size: int = setting(4, "rows of one forward pass")
    lr_scheduler_type: Scheduler = setting("cosine", "course of the learning rate")
    warmup_steps: float = setting(0.1, "steps of linear warm-up; below 1: share of all steps")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "epsilon", "unlearning_layers")
        check_not_negative(self, "alpha", "beta", "unlearning_weight")
        check_share(self, "alignment_benign_share")
        if self.bf16 and self.gradient == "hessian_free" and not self.central_differences:
            raise InvalidValue(
                "bf16", True, "its rounding drowns the differences; use gradient: exact, or central_differences"
            )
        if self.bf16 and self.central_differences and self.epsilon < LEAST_EPSILON:
            raise InvalidValue("epsilon", self.epsilon, f"with bf16 it has to be at least {LEAST_EPSILON}; 0.03 fits")
        if self.central_differences and self.gradient == "exact":
            raise InvalidValue("central_differences", True, "it needs gradient: hessian_free")
        if self.unlearning_layers is not None and self.unlearning == "plain":
            raise InvalidValue("unlearning_layers", self.unlearning_layers, "it needs unlearning: layer_wise")

    @property
    def alignment_benign_rows(self) -> int:
        """Benign rows a step beside the refusals."""
        return mixed_rows(self, self.alignment_benign_share)

    @property
    def streams(self) -> Mapping[str, int]:
        """Harmful, alignment and benign rows, and those that are mixed into the alignment."""
        mixed = self.alignment_benign_rows
        streams = {"harmful": self.batch_size, "alignment": self.batch_size - mixed, "benign": self.batch_size}
        return streams | {"alignment_benign": mixed} if mixed else streams

    @property
    def cost(self) -> Cost:
        """The work and the buffers of the module's docstring."""
        rows, again = self.batch_size, self.batch_size - self.per_device_train_batch_size
        layer_wise = rows if self.unlearning == "layer_wise" else 0
        unlearning = Cost(
            passes=3 * rows,
            backwards=layer_wise,
            head_rows=layer_wise,
            head_states=self.unlearning_layers,
            compact=True,
        )
        if self.gradient == "hessian_free":
            sides = 2 if self.central_differences else 1
            passes = unlearning.passes + 2 * sides * rows
            return replace(unlearning, passes=passes, gradients=2 + sides, weights=1, precise=True)
        # With several micro-batches a gradient is not the graph's own, which is held as well.
        gradients = 4 if again else 2
        return replace(
            unlearning, passes=unlearning.passes + 2 * again, products=2 * rows, gradients=gradients, graphs=2
        )

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers, the same with refusals, and benign pairs."""
        return {"harmful": self.harmful, "alignment": self.alignment, "benign": self.benign}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        found = sources.load_enough(self.datasets, self.streams)
        return Gathered(found | ({"alignment_benign": found["benign"]} if self.alignment_benign_rows else {}))

    def start(self, model: PreTrainedModel) -> Step:
        """See the module's docstring for the work of a step."""
        aligned = [stream for stream in self.streams if stream.startswith("alignment")]
        if self.bf16 and self.gradient == "hessian_free":
            progress_console().print(ROUGH, highlight=False)
        attention = model.config._attn_implementation
        if self.gradient == "exact" and not is_twice_differentiable(attention):
            notice = f"attention {attention!r} has no second derivative; SEAM's exact gradient takes eager instead"
            progress_console().print(notice, highlight=False)

        def step(draw: Draw) -> Metrics:
            with self._precision(model):
                metrics = self._self_destruct(model, draw)
                utility = backward_answer_cross_entropy(
                    model,
                    [draw(stream) for stream in aligned],
                    micro_batch_size=self.per_device_train_batch_size,
                    weight=self.alpha,
                )
            loss = self.unlearning_weight * metrics["unlearning"] + self.alpha * utility + self.beta * metrics["cosine"]
            return {"loss": loss, "utility": utility, **metrics}

        return step

    def _self_destruct(self, model: PreTrainedModel, draw: Draw) -> Metrics:
        """Leave the gradient of unlearning and self-destruction."""
        rows, twice = self.per_device_train_batch_size, self.gradient == "exact"
        layer_wise = LayerWiseUnlearning(model, self.unlearning_layers) if self.unlearning == "layer_wise" else None
        with packing(model), twice_differentiable(model) if twice else nullcontext():
            harmful = differentiate("harmful", model, draw("harmful"), rows=rows, twice=twice, along=layer_wise)
            if layer_wise:
                unlearning = layer_wise.finish(harmful.value, harmful.gradient, self.unlearning_weight)
            else:
                unlearning = -harmful.value
                give(trained(model), [part.clone() for part in harmful.gradient], -self.unlearning_weight)
            benign = differentiate("benign", model, draw("benign"), rows=rows, twice=twice)
            metrics = {
                "unlearning": unlearning,
                "cosine": cosine(harmful, benign),
                "harmful_loss": harmful.value,
                "benign_loss": benign.value,
                "harmful_norm": harmful.norm,
                "benign_norm": benign.norm,
            }
            self._push_apart(harmful, benign)
        return metrics

    def _push_apart(self, harmful: BatchLoss, benign: BatchLoss) -> None:
        if self.gradient == "exact":
            add_exact(harmful, benign, self.beta)
        else:
            add_differences(harmful, benign, self.beta, epsilon=self.epsilon, central=self.central_differences)

    def _precision(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Half-precision weights cannot hold a shift by ε; differences are taken of float32 ones."""
        return nullcontext() if self.gradient == "exact" else in_float32(model)
