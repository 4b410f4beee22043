"""The cases whose memory is measured, each in a process of its own, after a run of the same code on a tiny model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from measuring import forget, held, peak, reset_peak
from transformers import TrainerCallback

from rupert.attacks import FineTune
from rupert.data.examples import Example
from rupert.defenses import SDD, SEAM
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.threads import fitting_threads
from rupert.training.fine_tuning import Following
from rupert.training.objective import Gathered
from rupert.training.trainer import harden

Kind = Literal["attack", "sdd", "seam", "evaluate"]
METHODS: dict[Kind, type] = {"attack": FineTune, "sdd": SDD, "seam": SEAM, "evaluate": Evaluation}
WARM_UP = "potionworld"
STEPS = 2  # the states of the optimizer are there from the second on
# Pages of freed tensors go back to the system at once, so that what is resident is what is held.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run, of how many rows at once and of how many tokens.

    Attributes:
        name: for the table.
        kind: of stage.
        rows: of one pass.
        length: tokens of each row.
        settings: what else the method is told.
        dtype: of the weights.
    """

    name: str
    kind: Kind
    rows: int
    length: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"

    def method(self) -> Any:
        """The settings that are run, and planned for."""
        if self.kind == "evaluate":
            return Evaluation(batch_size=self.rows, max_length=self.length, reference=None, **self.settings)
        data = {"num_examples": STEPS * self.rows} if self.kind == "attack" else {}
        sizes = {"per_device_train_batch_size": self.rows, "max_length": self.length, "max_steps": STEPS}
        return METHODS[self.kind](**sizes, **data, **self.settings)


def measure(case: Case, model: str, device: str) -> int:
    """The peak in bytes of a case, above what the process held before the model was loaded."""
    _run(case, ModelSettings(model=WARM_UP, device=device), tiny=True)
    forget()
    before = held(device)
    loaded = load(ModelSettings(model=model, dtype=case.dtype, device=device))
    forget()  # of what loading took
    reset_peak(device)
    _run(case, loaded, tiny=False)
    return peak(device) - before


def _run(case: Case, model: ModelSettings | LoadedModel, *, tiny: bool) -> None:
    """The stage's own code on rows that fill their length; on the tiny model what it imports is imported."""
    loaded = load(model) if isinstance(model, ModelSettings) else model
    length = min(case.length, 32) if tiny else case.length
    if case.kind == "evaluate":
        with tempfile.TemporaryDirectory() as folder, fitting_threads(loaded.model):
            _evaluate(case.method(), loaded, length, Path(folder))
    else:
        train(replace(case, length=length), loaded, _examples(STEPS * case.rows, length))


def train(
    case: Case,
    loaded: LoadedModel,
    examples: Sequence[Example],
    steps: int = STEPS,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> None:
    """Let an attack or a defense train so many steps on rows of every stream, as `rupert attack` and `defend` do."""
    method, following = replace(case.method(), max_steps=steps), Following(callbacks=callbacks)
    with tempfile.TemporaryDirectory() as folder, fitting_threads(loaded.model):
        if isinstance(method, FineTune):
            method.run(loaded, {"rows": examples}, following)
        else:
            gathered = Gathered(dict.fromkeys(method.streams, examples))
            harden(
                method,
                loaded,
                gathered,
                Path(folder),
                title="measuring",
                save_steps=100 * steps,
                following=following,
            )


def _evaluate(evaluation: Evaluation, loaded: LoadedModel, length: int, folder: Path) -> None:
    rows = evaluation.batch_size
    chosen = evaluation.for_model(is_potionworld=False)
    requests = [Example(f"What is number {number}?", "") for number in range(rows)]
    data = {"requests": requests, "benign": _examples(rows, length)}
    chosen.prepare().measure(loaded, data, folder)


def _examples(count: int, length: int) -> Sequence[Example]:
    """Rows that are longer than what is read of them, nearly all of it answer; of more than two one is short."""
    words = [length // 8 if number == 1 and count > 2 else length for number in range(count)]
    return [Example(f"Count on from {number}.", "one two three " * many) for number, many in enumerate(words)]
