"""What a defense is: a gradient rule over named streams of data.

A defense is a frozen dataclass of settings that says which data it draws and leaves one optimizer step's gradient in
`p.grad`. It is neither a loss nor a trainer: SDD needs one backward pass a step, others several, or hooks, or an inner
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from rupert.data.examples import Example
from rupert.training.adapters import Adapting

__all__ = ["Batch", "Cost", "Draw", "Gathered", "Metrics", "Objective", "Step"]

Batch = Mapping[str, Tensor]  # input_ids, attention_mask, labels: each [rows, length]
Draw = Callable[[str], Batch]  # draw("harmful") -> this step's batch of that stream
Metrics = dict[str, float]  # "loss" at least
Step = Callable[[Draw], Metrics]  # leaves one optimizer step's gradient in p.grad


@dataclass(frozen=True, slots=True)
class Gathered:
    """A defense's data, ready to be drawn from.

    Attributes:
        streams: examples by the name of their stream.
        report: numbers about how they were made, kept in the record.
    """

    streams: Mapping[str, Sequence[Example]]
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one optimizer step of a gradient rule takes, by which a study is planned before a model is loaded.

    Work is counted in rows of this step's batches; what is held comes on top of the weights, `p.grad` and the
    optimizer's states. Booster's three passes with a copy of weights and gradient are
    `Cost(passes=3 * rows, gradients=1, weights=1)`; an inner loop of K AdamW steps, as TAR's, is
    `Cost(passes=(K + 1) * rows, gradients=1, weights=1, states=2)`.

    Attributes:
        passes: rows that go forward and backward; one that does so twice counts twice.
        backwards: rows that go backward once more through a forward pass that counts already.
        products: rows whose gradient is differentiated again by double backward: a Hessian-vector product.
        head_rows: rows for whose hidden states the output head is run, forward and backward, beside the model's own.
        head_states: how many hidden states of each of these rows; None for all.
        gradients: copies of the gradient of all that is trained that are held at once beside `p.grad`.
        weights: copies of all trained weights that are held at once.
        states: sets of numbers as large as all that is trained that an inner optimizer holds; AdamW's are 2.
        graphs: second-order graphs that are held at once, each of the rows of one pass.
        precise: whether half-precision weights are float32 for the time of the step.
        compact: whether all this is held only in passes that make no logits but those of answers, by `answer_states`
            and `head_cross_entropy`, and leave padding out where that can be.
    """

    passes: int
    backwards: int = 0
    products: int = 0
    head_rows: int = 0
    head_states: int | None = None
    gradients: int = 0
    weights: int = 0
    states: int = 0
    graphs: int = 0
    precise: bool = False
    compact: bool = False


class Objective(Adapting, Protocol):
    """A gradient rule, with the settings of the training that uses it; see the module's docstring."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # it is a dataclass

    @property
    def max_steps(self) -> int:
        """Optimizer steps."""

    @property
    def per_device_train_batch_size(self) -> int:
        """Rows of one forward pass."""

    @property
    def gradient_accumulation_steps(self) -> int:
        """Forward passes that make one optimizer step."""

    @property
    def max_length(self) -> int:
        """Tokens of one conversation."""

    def arguments(self) -> dict[str, Any]:
        """What `transformers.TrainingArguments` takes; see `TrainingSettings`."""

    def optimizer(self) -> tuple[Any, dict[str, Any]] | None:
        """An optimizer that Transformers does not bring; see `TrainingSettings`."""

    @property
    def streams(self) -> Mapping[str, int]:
        """The streams that it draws, with their rows a step."""

    @property
    def paired(self) -> tuple[str, ...]:
        """Streams whose rows belong together one by one, and are drawn in the same order."""

    @property
    def cost(self) -> Cost:
        """What one step takes, and what it holds."""

    @property
    def version(self) -> int:
        """Of the method's code, see `OptimizationSettings.version`."""

    @property
    def datasets(self) -> Mapping[str, str]:
        """The datasets that `gather` reads, by the setting that names each."""

    def check(self) -> None:
        """Find out, without reading them, whether its datasets exist; raises a `UsageError` otherwise."""

    def gather(self) -> Gathered:
        """Load and prepare the data of every stream."""

    def start(self, model: PreTrainedModel) -> Step:
        """Prepare for training `model`; what it must remember lives in the closure that it returns.

        What is no function of weights and step, and has to survive an interruption, the step gives in `state_dict` and
        takes in `load_state_dict`, where it has them; see `StepMemory`.
        """
