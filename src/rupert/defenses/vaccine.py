"""Vaccine: align the model under the perturbation of its hidden states that harms alignment most.

Huang et al., "Vaccine: Perturbation-aware Alignment for Large Language Models against Harmful Fine-tuning Attack",
NeurIPS 2024, arXiv 2402.01109.

Fine-tuning on harm drifts the hidden states of aligned text; what was aligned under a drift withstands one. With R
alignment data, ℓ the mean cross entropy over answer tokens and e_l what is added to the output of attention block l,

    min over θ of max over |e| ≤ rho of ℓ(R; θ, e)
    d_l = ∂ℓ(R; θ, 0)/∂(output of block l)      e_l = rho d_l / sqrt(Σ_l |d_l|²)      gradient of a step = ∇ℓ(R; θ, e)

The norm runs over all blocks, rows and tokens of the step, however it is cut into micro-batches and processes.

Work of a step: a forward pass, and a backward pass through the activations alone, for d; a forward and a backward pass
for the gradient. Held beside `p.grad`: d of all rows of the step, a number for each output of a block.

The published code takes the norm of each micro-batch, forgets all but the last one's gradient when it accumulates,
makes gradients of weights in its first pass that it throws away, and leaves its hooks behind when a pass fails. None of
that is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from rupert.data import sources
from rupert.models.anatomy import attention_blocks
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training.activations import backward_perturbed
from rupert.training.mixing import MixesBenign, check_benign_share
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import Scheduler, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Vaccine(MixesBenign, TrainingSettings):
    """Perturbation-aware alignment (Huang et al., NeurIPS 2024): train refusals under the worst drift of hidden states.

    The defaults are those of its published scripts. `benign_share` is ours: on small models, benign pairs in each batch
    keep ability.
    """

    alignment: str = setting("beavertails:safe", "dataset of harmful requests with safe answers")
    num_examples: int = setting(2000, "rows of the alignment data that are used")
    benign: str = setting("", "dataset of benign pairs to mix in")
    benign_share: float = setting(0.0, "share of each batch that is benign pairs")
    rho: float = setting(2.0, "norm of the perturbation of all attention blocks together")
    max_steps: int = setting(20000, "optimizer steps; 50 epochs of 2,000 rows")
    learning_rate: float = setting(1e-3, "peak learning rate")
    per_device_train_batch_size: int = setting(5, "rows of one forward pass")
    lr_scheduler_type: Scheduler = setting("cosine", "course of the learning rate")
    warmup_steps: float = setting(0.1, "steps of linear warm-up; below 1: share of all steps")
    weight_decay: float = setting(0.1, "decoupled weight decay")
    max_length: int = setting(200, "tokens of one conversation; what is longer is cut")
    lora: bool = setting(True, "train a low-rank adapter, merged into the weights afterwards")
    lora_alpha: int = setting(4, "scale of the adapter")
    lora_dropout: float = setting(0.1, "dropout inside the adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "num_examples")
        check_not_negative(self, "rho")
        check_benign_share(self)

    @property
    def streams(self) -> Mapping[str, int]:
        """Alignment rows, and benign rows where they are asked for."""
        alignment = {"alignment": self.batch_size - self.benign_rows}
        return alignment | {"benign": self.benign_rows} if self.benign_rows else alignment

    @property
    def cost(self) -> Cost:
        """Two passes over each row; what is held of the first one is smaller than what a pass keeps."""
        return Cost(passes=2 * self.batch_size)

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with safe answers; benign pairs where they are asked for."""
        return {"alignment": self.alignment} | ({"benign": self.benign} if self.benign_rows else {})

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        return Gathered(sources.load_enough(self.datasets, self.streams, {"alignment": self.num_examples}))

    def start(self, model: PreTrainedModel) -> Step:
        """See the module's docstring for the work of a step."""
        blocks = attention_blocks(model)

        def step(draw: Draw) -> Metrics:
            found = backward_perturbed(
                model,
                [draw(stream) for stream in self.streams],
                blocks,
                rho=self.rho,
                micro_batch_size=self.per_device_train_batch_size,
            )
            return {"loss": found.loss, "unperturbed_loss": found.unperturbed, "output_gradient_norm": found.norm}

        return step
