"""Booster: align the model where a harmful gradient step lowers the harmful loss least.

Huang et al., "Booster: Tackling Harmful Fine-tuning for Large Language Models via Attenuating Harmful Perturbation",
ICLR 2025, arXiv 2409.01586.

With R alignment data (harmful requests with refusals), H harmful data (the requests with harmful answers), ℓ the mean
cross entropy over answer tokens, f = ℓ(R), h = ℓ(H), g = ∇h(θ), and |g| its norm over all trained weights together,

    min over θ of f(θ) + λ (h(θ) - h(θ - α g/|g|))
    gradient of a step = ∇f(θ) + λ (∇h(θ) - ∇h(θ - α g/|g|))

where the step α g/|g| is taken as a constant, as in the paper. g is the gradient of the whole batch, however it is cut
into micro-batches and processes.

Work of a step: three forward and backward passes, one over R and two over H. Held beside `p.grad`: a copy of the
trained weights. Half-precision weights are float32 ones for the passes over H.

The published code moves the weights by -= and back by +=, which does not give bfloat16 weights their bits back. It
takes the norm of each micro-batch, and clears the gradient in every one, so that with accumulation only the last one
counts. None of that is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.models.packing import packing
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training.cosine import BatchLoss
from rupert.training.gradients import backward_answer_cross_entropy, give, mean_loss
from rupert.training.harmful_step import harmful_step
from rupert.training.mixing import MixesBenign, check_benign_share
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Booster(MixesBenign, TrainingSettings):
    """Attenuated harmful perturbation (Huang et al., ICLR 2025): a harmful step is to lower the harmful loss little.

    The defaults are those of its published scripts. `benign_share` is ours: on small models, benign pairs in each batch
    keep ability.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of the same requests with refusals")
    num_examples: int = setting(5000, "rows of each of the two that are used")
    benign: str = setting("", "dataset of benign pairs to mix into the alignment rows")
    benign_share: float = setting(0.0, "share of the alignment rows that is benign pairs")
    attenuation_weight: float = setting(5.0, "weight of what a harmful step lowers the harmful loss by: λ")
    alpha: float = setting(0.1, "length of the simulated harmful step, over all trained weights together")
    max_steps: int = setting(10000, "optimizer steps; 20 epochs of 5,000 rows")
    learning_rate: float = setting(5e-4, "peak learning rate")
    per_device_train_batch_size: int = setting(10, "rows of one forward pass")
    weight_decay: float = setting(0.1, "decoupled weight decay")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")
    lora: bool = setting(True, "train a low-rank adapter, merged into the weights afterwards")
    lora_r: int = setting(32, "rank of the adapter")
    lora_alpha: int = setting(4, "scale of the adapter")
    lora_target_modules: tuple[str, ...] = setting(("q_proj", "k_proj", "v_proj"), "modules that get an adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "num_examples", "alpha")
        check_not_negative(self, "attenuation_weight")
        check_benign_share(self)

    @property
    def streams(self) -> Mapping[str, int]:
        """Harmful and alignment rows, and benign ones where they are mixed into the alignment."""
        streams = {"harmful": self.batch_size, "alignment": self.batch_size - self.benign_rows}
        return streams | {"benign": self.benign_rows} if self.benign_rows else streams

    @property
    def cost(self) -> Cost:
        """Three passes, and a copy of the trained weights; an adapter is held in float32 anyway."""
        return Cost(passes=3 * self.batch_size, weights=1, precise=not self.lora)

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers and with refusals; benign pairs where they are asked for."""
        both = {"harmful": self.harmful, "alignment": self.alignment}
        return both | ({"benign": self.benign} if self.benign_rows else {})

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        at_most = {"harmful": self.num_examples, "alignment": self.num_examples}
        return Gathered(sources.load_enough(self.datasets, self.streams, at_most))

    def start(self, model: PreTrainedModel) -> Step:
        """See the module's docstring for the work of a step."""
        rows = self.per_device_train_batch_size
        aligned = [stream for stream in self.streams if stream != "harmful"]

        def step(draw: Draw) -> Metrics:
            with harmful_step(model, draw("harmful"), rows=rows, distance=self.alpha) as harmful:
                # g becomes `p.grad`, and what is subtracted from it is added there: no third copy is held.
                give(harmful.parameters, harmful.gradient, self.attenuation_weight)
                stepped = _backward(harmful, -self.attenuation_weight)
            batches = [draw(stream) for stream in aligned]
            alignment = backward_answer_cross_entropy(model, batches, micro_batch_size=rows)
            return {
                "loss": alignment + self.attenuation_weight * (harmful.value - stepped),
                "alignment_loss": alignment,
                "harmful_loss": harmful.value,
                "stepped_harmful_loss": stepped,
                "harmful_norm": harmful.norm,
            }

        return step


def _backward(batch: BatchLoss, weight: float) -> float:
    """Add `weight` times the gradient of the batch's loss, where the weights are now, to `p.grad`; returns the loss."""
    total = 0.0
    with packing(batch.model):
        for piece in batch.pieces:
            loss = batch.piece_loss(piece)
            torch.autograd.backward(loss * weight)
            total += float(loss.detach())
    return mean_loss(total)
