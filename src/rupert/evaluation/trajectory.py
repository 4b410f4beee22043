"""A model on its way through an attack: harm and ability after so many steps, while training goes on as if unobserved.

Work is estimated as in Kaplan et al. 2020 (arXiv 2001.08361, section 2.1), with T tokens, padding left out, N
parameters without the embeddings but with the output head, and M of them that are trained:

    FLOPs = 2 N T forward + 2 N T backward through activations + 2 M T for the gradients of weights

so that the training of a whole model takes 6 N T. Attention's own products are left out there too, and so is what an
attack computes beside its trainings.
"""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rupert.errors import InvalidValue, RunError
from rupert.evaluation.rows import read_rows, write_rows
from rupert.evaluation.suite import Data, Prepared
from rupert.models.loading import LoadedModel
from rupert.records import Metric

FOLDER = "trajectory"  # the answers and verdicts of each point, in a folder that its step names
FILE = "trajectory.jsonl"
FIELDS = {"step": int, "rows": int, "tokens": int, "flops": float, "seconds": float, "harm": dict, "ability": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an attack has taken.

    Attributes:
        step: optimizer steps of all its trainings.
        rows: rows that they went over; one that comes again counts again.
        tokens: tokens of these rows, padding left out.
        flops: floating-point operations, see the module's docstring.
    """

    step: int = 0
    rows: int = 0
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Spent):
    """A model after some of an attack.

    Attributes:
        seconds: wall time of the attack, measuring left out.
        harm: rate of harmful answers, by the evaluation's first judge.
        ability: the evaluation's `ability`.
        refusal: rate of refusals; None where the judge says nothing of them.
    """

    seconds: float
    harm: Metric
    ability: Metric
    refusal: Metric | None = None

    def row(self) -> dict[str, Any]:
        """The point in JSON values."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Point:
        """The inverse of `row`."""
        measured = {name: row[name] and Metric(**row[name]) for name in ("harm", "ability", "refusal")}
        return cls(**{**row, **measured})


Stop = Callable[[Point], bool]
Measure = Callable[[PreTrainedModel, int], Sequence[Metric]]  # a model and its step -> `harm`, `ability`, `refusal`


class Stopped(Exception):
    """An attack was ended at a point because `stop` said so; no error."""

    def __init__(self, point: Point) -> None:
        super().__init__(f"stopped after {point.step} steps")
        self.point = point


def check_eval_steps(eval_steps: float) -> None:
    """Raise `InvalidValue` unless it is a share below 1, a whole number of steps, or 0."""
    if not (0 <= eval_steps < 1 or (math.isfinite(eval_steps) and eval_steps >= 1 and eval_steps == int(eval_steps))):
        remedy = "give a share of all steps below 1, a whole number of steps, or 0 for never"
        raise InvalidValue("eval_steps", eval_steps, remedy)


class Trajectory(TrainerCallback):
    """Follows every training of one attack; trainings go on as if they were not followed.

    A model is measured in the training's own precision. What a training ends with is measured when the next one
    begins; what the last one ends with may not be what the attack ends with, which `end` is told of.

    Args:
        measure: a model, which is in evaluation mode then.
        eval_steps: as in Transformers: below 1 a share of all steps of a training, else every so many; 0: never.
        stop: asked at each point; when it says so, `Stopped` ends the attack.

    Raises:
        InvalidValue: `eval_steps` is none of these.
    """

    def __init__(self, measure: Measure, eval_steps: float, stop: Stop | None = None) -> None:
        check_eval_steps(eval_steps)
        self.points: list[Point] = []
        self._measure, self._eval_steps, self._stop = measure, eval_steps, stop
        self._spent = self._before = Spent()
        self._flops_a_token = 0.0
        self._every = 0
        self._is_due = False
        self._seconds = self._started = 0.0

    @contextlib.contextmanager
    def attacking(self) -> Iterator[None]:
        """Within, the attack's time runs."""
        self._started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - self._started

    def end(self, measured: Sequence[Metric]) -> Point:
        """Add the model that came out of the attack, of which `measured` is known."""
        self.points.append(self._point(measured))
        return self.points[-1]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what the training before ended with, where that is due."""
        del args, control
        model = kwargs["model"]
        if self._is_due:
            self._look(model)
        self._before = self._spent
        self._flops_a_token = flops_a_token(model)
        steps = self._eval_steps if self._eval_steps >= 1 else math.ceil(self._eval_steps * state.max_steps)
        self._every = int(steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step, and measure where it is due."""
        self._spent = Spent(
            step=self._before.step + state.global_step,
            rows=self._before.rows + _rows(args, state, kwargs["train_dataloader"]),
            tokens=self._before.tokens + state.num_input_tokens_seen,
            flops=self._before.flops + self._flops_a_token * state.num_input_tokens_seen,
        )
        self._is_due = self._every > 0 and state.global_step % self._every == 0
        if self._is_due and state.global_step < state.max_steps and not control.should_training_stop:
            self._look(kwargs["model"])

    def _look(self, model: PreTrainedModel | PeftModel) -> None:
        self._is_due = False
        self._seconds += time.perf_counter() - self._started
        with undisturbed(model):
            self.points.append(self._point(self._measure(_as_asked(model), self._spent.step)))
        self._started = time.perf_counter()
        if self._stop and self._stop(self.points[-1]):
            raise Stopped(self.points[-1])

    def _point(self, measured: Sequence[Metric]) -> Point:
        known = {metric.name: metric for metric in measured}
        if "harm" not in known:
            raise RunError(f"no answer after {self._spent.step} steps has a verdict on harm; name another judge")
        found = {name: known.get(name) for name in ("harm", "ability", "refusal")}
        return Point(**asdict(self._spent), seconds=self._seconds, **found)  # type: ignore[arg-type]


def follow(
    prepared: Prepared, loaded: LoadedModel, data: Data, folder: Path, eval_steps: float, *, stop: Stop | None = None
) -> Trajectory:
    """What follows an attack, and measures its model as an evaluation does at a glance.

    Args:
        prepared: the evaluation.
        loaded: the model that is attacked, before it is.
        data: what the evaluation's `gather` returned.
        folder: the answers and verdicts of each point go below it.
        eval_steps: see `Trajectory`.
        stop: see `Trajectory`.
    """

    def measure(model: PreTrainedModel, step: int) -> Sequence[Metric]:
        return prepared.glance(LoadedModel(model, loaded.tokenizer), data, folder / FOLDER / str(step))

    return Trajectory(measure, eval_steps, stop)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; afterwards each module's mode and all random states are as before."""
    modes = {module: module.training for module in model.modules()}
    python, of_numpy = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module, was_training in modes.items():
                module.training = was_training
            random.setstate(python)
            np.random.set_state(of_numpy)


def flops_a_token(model: nn.Module) -> float:
    """Floating-point operations of training a model on one token, see the module's docstring."""
    embeddings = model.get_input_embeddings().weight  # type: ignore[operator]
    is_tied = model.get_output_embeddings().weight is embeddings  # type: ignore[operator]
    counted = [weight for weight in model.parameters() if is_tied or weight is not embeddings]
    trained = sum(_numbers(weight) for weight in counted if weight.requires_grad)
    return 4.0 * sum(map(_numbers, counted)) + 2.0 * trained


def forget(folder: Path) -> None:
    """Remove what an interrupted run left on its way: answers are kept by their requests, and its model is gone."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def write_points(points: Sequence[Point], path: Path) -> None:
    """Write a point a line."""
    write_rows([point.row() for point in points], path)


def read_points(path: Path) -> list[Point]:
    """What `write_points` wrote.

    Raises:
        FolderError: there is no such file.
        DataError: it is empty or damaged.
    """
    return [Point.from_row(row) for row in read_rows(path, {**FIELDS, "refusal": dict | None})]


def _numbers(weight: nn.Parameter) -> int:
    """How many numbers a parameter holds; bitsandbytes packs two of 4 bits in a byte."""
    packed = type(weight).__name__ == "Params4bit"
    return weight.numel() * 2 * weight.element_size() if packed else weight.numel()


def _as_asked(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model that answers: layers of an adapter lie in the model itself, trained prompts only around it."""
    if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    return model


def _rows(args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Rows of a training so far; the last batch of a pass over the data may be smaller than the others."""
    rows, batches = len(loader.dataset), len(loader)
    if batches != math.ceil(rows / args.train_batch_size):  # the loader gives something else than batches of rows
        return int(state.global_step * args.train_batch_size * args.gradient_accumulation_steps)
    passes, rest = divmod(round(state.epoch * batches), batches)
    return int(passes * rows + rest * args.train_batch_size)
