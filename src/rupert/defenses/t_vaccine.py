"""T-Vaccine: Vaccine on a few layers at a time, those that harmful data moves most; all others are frozen.

Liu et al., "Targeted Vaccine: Safety Alignment for Large Language Models against Harmful Fine-Tuning via Layer-wise
Perturbation", arXiv 2410.09760.

With ℓ the mean cross entropy over answer tokens, R alignment data and (x, y) pairs of H, harmful requests with answers:

    every K steps     p_l in proportion to the mean over pairs of |∂ℓ(x, y)/∂(output of attention block l)|
    every J steps     S: so many layers drawn without replacement, by p
    d_l, l in S       ∂ℓ(R)/∂(output of attention block l)       e_l = rho d_l / sqrt(Σ over S of |d_l|²)
    gradient          ∇ℓ(R) with e_l added to the outputs of S, of the weights of the layers in S alone

All other weights, embedding and output head among them, are frozen: they get no gradient, nothing of a forward pass is
kept for one, and the optimizer holds no state of them. States of layers that are drawn no more are dropped by the
training loop; a layer that comes back begins anew. What was drawn, p and the number of the step go into checkpoints.

Work of a step: as Vaccine's, a forward pass and a backward pass through activations, then a forward and a backward
pass; no backward pass goes beyond the first layer of S. Every K steps, a forward pass and a backward pass through
activations of `harmful_batches` batches of harmful pairs.

The published code takes one pair in place of 200 for p, freezes attention alone and trains all MLPs, takes
a norm of each micro-batch, forgets all but the last one's gradient when it accumulates, leaves its hooks behind when a
pass fails, keeps the states of every layer that ever was drawn, and cannot be resumed. None of that is done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.errors import InvalidValue, NonFiniteError
from rupert.models.anatomy import attention_blocks, layers
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training import processes
from rupert.training.activations import backward_perturbed, frozen, mean_output_norms
from rupert.training.mixing import MixesBenign, check_benign_share
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import Scheduler, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TVaccine(MixesBenign, TrainingSettings):
    """Targeted Vaccine (Liu et al., 2024): perturb and train a few layers at a time, drawn by harmful gradients.

    The defaults are those of its published script, with `rho` from its README. `benign_share` is its code's
    `vaccine_ratio`, 0 there too.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of harmful requests with refusals")
    num_examples: int = setting(2000, "rows of the alignment data that are used")
    benign: str = setting("", "dataset of benign pairs to mix in")
    benign_share: float = setting(0.0, "share of each batch that is benign pairs")
    rho: float = setting(3.0, "norm of the perturbation of all drawn layers together")
    trained_layers: int = setting(8, "layers that are perturbed and trained at a time")
    draw_steps: int = setting(20, "steps after which layers are drawn again")
    probability_steps: int = setting(200, "steps after which the layers' probabilities are found again")
    harmful_batches: int = setting(20, "batches of harmful pairs that find probabilities; 20 of 10 are the 200 pairs")
    max_steps: int = setting(4000, "optimizer steps; 20 epochs of 2,000 rows")
    learning_rate: float = setting(1e-3, "peak learning rate")
    per_device_train_batch_size: int = setting(10, "rows of one forward pass")
    lr_scheduler_type: Scheduler = setting("cosine", "course of the learning rate")
    warmup_steps: float = setting(0.1, "steps of linear warm-up; below 1: share of all steps")
    weight_decay: float = setting(0.1, "decoupled weight decay")
    max_length: int = setting(200, "tokens of one conversation; what is longer is cut")
    lora: bool = setting(True, "train a low-rank adapter, merged into the weights afterwards")
    lora_alpha: int = setting(4, "scale of the adapter")
    lora_dropout: float = setting(0.1, "dropout inside the adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "num_examples", "trained_layers", "draw_steps", "probability_steps")
        check_positive(self, "harmful_batches")
        check_not_negative(self, "rho")
        check_benign_share(self)

    @property
    def harmful_rows(self) -> int:
        """Harmful rows that probabilities are found on."""
        return self.harmful_batches * self.batch_size

    @property
    def streams(self) -> Mapping[str, int]:
        """Alignment rows, benign ones where they are asked for, and harmful ones, drawn every `probability_steps`."""
        benign = {"benign": self.benign_rows} if self.benign_rows else {}
        return {"alignment": self.batch_size - self.benign_rows, **benign, "harmful": self.harmful_rows}

    @property
    def cost(self) -> Cost:
        """Two passes over each row, and a step's share of those over harmful rows; that few layers are trained, and
        how much less that takes and holds, is not counted."""
        return Cost(passes=2 * self.batch_size + math.ceil(self.harmful_rows / self.probability_steps))

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers and with refusals; benign pairs where they are asked for."""
        benign = {"benign": self.benign} if self.benign_rows else {}
        return {"alignment": self.alignment, **benign, "harmful": self.harmful}

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
        """See the module's docstring for the work of a step.

        Raises:
            InvalidValue: the model has fewer layers than are to be trained at a time.
        """
        count = len(layers(model))
        if self.trained_layers > count:
            raise InvalidValue("trained_layers", self.trained_layers, f"the model has {count} layers; ask for fewer")
        return _TargetedStep(self, model)


class _TargetedStep:
    """The gradient rule; checkpoints keep its `state_dict`."""

    def __init__(self, settings: TVaccine, model: PreTrainedModel) -> None:
        self._settings, self._model = settings, model
        self._layers, self._blocks = layers(model), attention_blocks(model)
        self._steps = 0
        self._probabilities: list[float] = []
        self._drawn: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        """Steps that were made, and what was found and drawn in them."""
        return {"steps": self._steps, "probabilities": self._probabilities, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._steps, self._probabilities, self._drawn = (state[key] for key in ("steps", "probabilities", "drawn"))

    def __call__(self, draw: Draw) -> Metrics:
        settings = self._settings
        if self._steps % settings.probability_steps == 0:
            rows = settings.per_device_train_batch_size
            norms = mean_output_norms(self._model, draw("harmful"), self._blocks, micro_batch_size=rows)
            self._probabilities = _shares(norms)
        if self._steps % settings.draw_steps == 0:
            self._drawn = _draw(self._probabilities, settings.trained_layers)
        trained = {id(parameter) for number in self._drawn for parameter in self._layers[number].parameters()}
        with frozen(parameter for parameter in self._model.parameters() if id(parameter) not in trained):
            found = backward_perturbed(
                self._model,
                [draw(stream) for stream in settings.streams if stream != "harmful"],
                [self._blocks[number] for number in self._drawn],
                rho=settings.rho,
                micro_batch_size=settings.per_device_train_batch_size,
            )
        self._steps += 1
        return {"loss": found.loss, "unperturbed_loss": found.unperturbed, "output_gradient_norm": found.norm}


def _shares(norms: Sequence[float]) -> list[float]:
    total = sum(norms)
    if not math.isfinite(total) or total == 0:
        raise NonFiniteError(
            f"harmful gradient norm: {total!r}, so no layer can be drawn; stopped before the weights changed"
        )
    return [norm / total for norm in norms]


def _draw(probabilities: Sequence[float], count: int) -> list[int]:
    """Numbers of layers without replacement, the same in every process."""
    generator = torch.Generator().manual_seed(processes.common_seed())
    weights = torch.tensor(probabilities, dtype=torch.float64)
    drawn = torch.multinomial(weights, count, generator=generator)
    return sorted(drawn.tolist())
