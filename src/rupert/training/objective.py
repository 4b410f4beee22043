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


class Objective(Adapting, Protocol):
    """A gradient rule, with the settings of the training that uses it; see the module's docstring."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # it is a dataclass

    @property
    def max_steps(self) -> int:
        """Optimizer steps."""

    @property
    def max_length(self) -> int:
        """Tokens of one conversation."""

    def arguments(self) -> dict[str, Any]:
        """What `transformers.TrainingArguments` takes; see `TrainingSettings`."""

    @property
    def streams(self) -> Mapping[str, int]:
        """The streams that it draws, with their rows a step."""

    def check(self) -> None:
        """Find out, without reading them, whether its datasets exist; raises a `UsageError` otherwise."""

    def gather(self) -> Gathered:
        """Load and prepare the data of every stream."""

    def start(self, model: PreTrainedModel) -> Step:
        """Prepare for training `model`; what it must remember lives in the closure that it returns."""
