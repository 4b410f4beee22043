"""RepNoise, representation noising: make what a model represents of harmful answers look like noise.

Rosati et al., "Representation Noising: A Defence Mechanism Against Harmful Finetuning", NeurIPS 2024, arXiv 2405.14577.

On two streams, H harmful (requests with harmful answers) and R alignment (the same requests with refusals), with ℓ the
mean cross entropy over answer tokens:

    loss = ℓ(R) + β mean over layers of MMD(z, ε) - α log(1 + mean over k of ℓ_k(H))

    z    a row's MLP outputs in a layer at the tokens of H's answers that R does not have in the same place, in a line;
         H and R are drawn in one order: a row of R is the refusal of its row of H, unless benign rows are mixed in
    ε    Gaussian noise of that shape, drawn anew in each step
    MMD  `maximum_mean_discrepancy` over the rows of the step, in all micro-batches and processes
    ℓ_k  the loss of what the output head makes of hidden state k: the embedding's output and that of every layer

Work of a step. H: a forward pass, the output head forward and backward on every hidden state, on answer tokens alone,
and one backward pass from all hidden states and MLP outputs; each micro-batch but the last is run forward once more,
because what its rows are pushed to depends on all others. R: one forward and one backward pass.

Buffers beside weights and `p.grad`: the gradient of H, which becomes `p.grad`; H's hidden states at answer tokens and
MLP outputs. No row of H is padded where `packing` knows the architecture; features do not depend on padding anywhere.

The published code (github.com/domenicrosati/representation-noising, `loss.py`) takes padding for tokens of H where R is
longer; takes a label of token id 0 for none; counts the last hidden state twice, once normed twice; divides the sum by
one term too few; adds a hook to every module in every step, and removes none. None of that is done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.models.packing import packing
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training import processes
from rupert.training.discrepancy import RowNoise, maximum_mean_discrepancy
from rupert.training.gradients import (
    aside,
    backward_answer_cross_entropy,
    give,
    mean_loss,
    token_share,
    trained,
)
from rupert.training.mixing import MixesBenign, check_benign_share
from rupert.training.objective import Batch, Cost, Draw, Gathered, Metrics, Step
from rupert.training.representations import PLACE, Features, Pass, differing, passes
from rupert.training.settings import Scheduler, TrainingSettings
from rupert.training.unlearning import draw_states


@dataclass(frozen=True, kw_only=True)
class RepNoise(MixesBenign, TrainingSettings):
    """Representation noising (Rosati et al., NeurIPS 2024): harmful answers are represented as if they were noise.

    α, β and the kernel are those of the published code, whose README says that learning rate, α, β and the number of
    samples need a grid search in every case. Rows, length, schedule and 10,000 pairs in one epoch are its defaults.
    The learning rate is that of SEAM's paper, as the code has none. `unlearning_layers` is ours, for models whose
    output head is most of their work; so are `benign` and `benign_share`, which keep ability on small models.
    """

    paired: ClassVar[tuple[str, ...]] = ("harmful", "alignment")

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of the same requests with refusals")
    benign: str = setting("", "dataset of benign pairs to mix into the alignment rows")
    benign_share: float = setting(0.0, "share of the alignment rows that is benign pairs")
    alpha: float = setting(1.0, "weight of the unlearning loss; 0: none")
    beta: float = setting(0.001, "weight of the noise loss; 0: none")
    unlearning_layers: int | None = setting(None, "hidden states drawn a step for the unlearning loss; empty: all")
    kernels: int = setting(5, "Gaussian kernels of the noise loss")
    kernel_factor: float = setting(2.0, "width of each kernel over that of the one before")
    max_steps: int = setting(2500, "optimizer steps")
    learning_rate: float = setting(2e-5, "peak learning rate")
    per_device_train_batch_size: int = setting(4, "rows of one forward pass")
    lr_scheduler_type: Scheduler = setting("cosine", "course of the learning rate")
    warmup_steps: float = setting(0.1, "steps of linear warm-up; below 1: share of all steps")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "kernels", "kernel_factor", "unlearning_layers")
        check_not_negative(self, "alpha", "beta")
        check_benign_share(self)

    @property
    def streams(self) -> Mapping[str, int]:
        """Harmful and alignment rows, and benign ones where they are asked for."""
        streams = {"harmful": self.batch_size, "alignment": self.batch_size - self.benign_rows}
        return streams | {"benign": self.benign_rows} if self.benign_rows else streams

    @property
    def cost(self) -> Cost:
        """The work and the buffers of the module's docstring; a forward pass run again counts as a whole one."""
        again = self.batch_size - self.per_device_train_batch_size
        heads = self.batch_size if self.alpha else 0
        return Cost(
            passes=2 * self.batch_size + again,
            head_rows=heads,
            head_states=self.unlearning_layers,
            gradients=1,
            compact=True,
        )

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers, the same with refusals, and benign pairs where they are asked for."""
        datasets = {"harmful": self.harmful, "alignment": self.alignment}
        return datasets | {"benign": self.benign} if self.benign_rows else datasets

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        return Gathered(sources.load_enough(self.datasets, self.streams))

    def start(self, model: PreTrainedModel) -> Step:
        """See the module's docstring for the work of a step."""

        def step(draw: Draw) -> Metrics:
            harmful, *utility = (draw(stream) for stream in self.streams)
            with packing(model):
                metrics = self._push(model, harmful, utility[0])
            rows = self.per_device_train_batch_size
            metrics["utility"] = backward_answer_cross_entropy(model, utility, micro_batch_size=rows)
            weights = {"utility": 1.0, "noise": self.beta, "unlearning": self.alpha}
            return {"loss": sum(weights[name] * value for name, value in metrics.items()), **metrics}

        return step

    def _push(self, model: PreTrainedModel, harmful: Batch, alignment: Batch) -> Metrics:
        """Leave the gradient of the noise loss and of unlearning.

        It is added up divided by `scale`: the output head's backward passes, which are part of unlearning's gradient,
        come before its factor -α / (1 + mean) is known.
        """
        parameters, gradient, metrics, scale = trained(model), list[Tensor](), Metrics(), 1.0
        states = draw_states(model.config.num_hidden_layers + 1, self.unlearning_layers)
        share = token_share([harmful]) / len(states)
        features = Features.at(differing(harmful, alignment))
        with aside(parameters, gradient):
            made = passes(model, {**harmful, PLACE: features.places}, self.per_device_train_batch_size)
            if self.alpha:
                mean = mean_loss(sum(one.backward_heads(states, share) for one in made))
                metrics["unlearning"], scale = -math.log1p(mean), -self.alpha / (1 + mean)
            at_outputs: list[Sequence[Tensor]] = [()] * len(made)
            if self.beta:
                metrics["noise"], at_outputs = self._noise(made, features, self.beta / scale)
            # The last one first: it holds its graph.
            for one, cotangents in zip(reversed(made), reversed(at_outputs), strict=True):
                one.backward(cotangents)
        give(parameters, gradient, scale)
        return metrics

    def _noise(self, made: Sequence[Pass], features: Features, weight: float) -> tuple[float, list[Sequence[Tensor]]]:
        """The noise loss, and `weight` times its gradient at each pass's MLP outputs."""
        places, sizes = torch.cat([one.places for one in made]), [len(one.places) for one in made]
        first = processes.rank() * len(features.places)
        noise = RowNoise(first + places // features.longest, places.device)
        layers = list(zip(*(one.outputs for one in made), strict=True))
        total, cotangents = 0.0, list[tuple[Tensor, ...]]()
        for outputs in layers:
            tokens = torch.cat([output.to(torch.promote_types(output.dtype, torch.float32)) for output in outputs])
            here, width = places.to(tokens.device), tokens.shape[1]
            lines = features.lines(here, tokens).requires_grad_()
            target = features.lines(here, noise.draw(width).to(tokens))
            with torch.enable_grad():
                loss = maximum_mean_discrepancy(lines, target, kernels=self.kernels, factor=self.kernel_factor)
            (at_lines,) = torch.autograd.grad(loss, lines)
            total += float(loss.detach()) / len(layers)
            # Each process goes back from its own rows, and the mean over processes is taken of what they leave.
            factor = weight * processes.count() / len(layers)
            cotangents.append(features.tokens(here, at_lines * factor, width).split(sizes))
        return total, list(zip(*cotangents, strict=True))
