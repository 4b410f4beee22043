"""What watches a training: progress, a step's metrics, gradients that are not finite, and Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from rupert.errors import NonFiniteError
from rupert.terminal import Bar, bar
from rupert.training import processes


def require_finite(name: str, value: float, step: int) -> None:
    """Raise `NonFiniteError`, before the optimizer can use what `value` tells about, unless it is finite."""
    if not math.isfinite(value):
        raise NonFiniteError(
            f"{name}: {value!r} at step {step}; stopped before the weights changed; lower learning_rate or use float32"
        )


class FiniteGradient(TrainerCallback):
    """Stops a training whose gradient is not finite, before the optimizer uses it."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the norm of the gradient."""
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        require_finite("gradient norm", float(whole), state.global_step)


class Interruption(TrainerCallback):
    """Turns the first Ctrl-C into a checkpoint and a clean stop after the step; a second one stops at once.

    Of several processes, all stop after the same step.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signal for the time of the training; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, where it was asked for in any process: a signal does not reach all within the same step."""
        if processes.total(float(self.requested)) > 0:
            self.requested = True
            control.should_save = True
            control.should_training_stop = True


class StepMetrics(TrainerCallback):
    """Adds a defense's own metrics to what is logged of a hardening's step; for the callbacks that come after it."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The history has its copy of the log already, and stays as it is; the last log is not of a step."""
        logs = kwargs["logs"]
        if "loss" in logs:
            logs.update(next(entry["metrics"] for entry in reversed(state.log_history) if "metrics" in entry))


class StepMemory(TrainerCallback, ExportableState):
    """Keeps in checkpoints what a gradient rule remembers from step to step, where it has a `state_dict`.

    Args:
        step: gives the rule; it need not be there before the training begins.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step

    def state(self) -> dict[str, Any]:
        """What goes into `trainer_state.json`; it has to be of JSON's types."""
        step = self._step()
        return {"args": {}, "attributes": step.state_dict() if isinstance(step, Stateful) else {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give it back, where the training goes on from a checkpoint."""
        step, kept = self._step(), state.stateful_callbacks.get(type(self).__name__, {}).get("attributes")
        if isinstance(step, Stateful) and kept:
            step.load_state_dict(kept)


class LeanOptimizer(TrainerCallback):
    """Drops the optimizer's states of parameters without a gradient: what is not trained now has none.

    A defense that trains a few layers at a time then holds the states of these, and not of all that ever were.
    """

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the optimizer makes those of parameters that are new."""
        states = kwargs["optimizer"].state
        for parameter in [parameter for parameter in states if parameter.grad is None]:
            del states[parameter]


class ProgressBar(TrainerCallback):
    """Shows step, loss and tokens a second on standard error, so that standard output stays for results.

    Of several processes, the main one shows it; make it when they have joined.
    """

    _bar: Bar

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = 0.0
        self._tokens_before = 0

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show the bar for the time of the training; it gives the terminal back also when that fails."""
        with bar(self._title, None, silent=processes.rank() > 0) as self._bar:
            yield

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start at the step that the training starts at."""
        self._started = time.perf_counter()
        self._tokens_before = state.num_input_tokens_seen
        self._bar.update(done=state.global_step, total=state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance; every step is logged, and at the end what all of them took."""
        if "loss" not in kwargs["logs"]:
            return
        rate = (state.num_input_tokens_seen - self._tokens_before) / (time.perf_counter() - self._started)
        note = f"loss {kwargs['logs']['loss']:.3f}  {rate:,.0f} tokens/s"
        self._bar.update(done=state.global_step, note=note)
