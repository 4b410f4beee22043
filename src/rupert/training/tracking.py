"""Trackers that follow a training step by step: TensorBoard, Weights & Biases, trackio and MLflow, by Transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from transformers import Trainer

TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")  # their packages have the same names


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """Who is told of a training while it runs. What comes out is the same, so it is no part of a stage's identity.

    TensorBoard's files are tested to hold what the history holds; of the others it is tested only that a missing
    package is told. Their own environment variables, such as WANDB_PROJECT, go before `project`.

    Attributes:
        report_to: names in `TRACKERS`.
        run_name: of this training, at Weights & Biases, trackio and MLflow; empty: theirs.
        project: that the run belongs to there; MLflow calls it experiment.
        folder: for TensorBoard's event files, and those of Weights & Biases.
    """

    report_to: tuple[str, ...] = ()
    run_name: str = ""
    project: str = "rupert"
    folder: Path | None = None

    def check(self) -> None:
        """Find out, before a model is loaded, whether all can be told.

        Raises:
            UnknownName: there is no such tracker.
            UsageError: it is not installed, or TensorBoard has no folder.
        """
        for name in self.report_to:
            if name not in TRACKERS:
                raise UnknownName("report_to", name, TRACKERS)
            if find_spec(name) is None:
                raise UsageError(f"report_to: {name!r} is not installed; pip install {name}")
        if "tensorboard" in self.report_to and self.folder is None:
            raise UsageError("report_to: 'tensorboard' needs a folder for its files; name one")

    def arguments(self) -> dict[str, Any]:
        """The fields that `transformers.TrainingArguments` takes; the trackers themselves are added by `following`."""
        return {"run_name": self.run_name or None, "project": self.project}

    @contextmanager
    def following(self, trainer: Trainer) -> Iterator[None]:
        """Let the trackers follow a training; the callbacks that the trainer has by now see each step before them."""
        if not self.report_to:
            yield
            return
        from accelerate.utils import patch_environment
        from transformers.integrations import get_reporting_integration_callbacks

        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        with patch_environment(**self._variables()), _own_run(self.report_to):
            for callback in get_reporting_integration_callbacks(list(dict.fromkeys(self.report_to))):
                trainer.add_callback(callback)
            yield

    def _variables(self) -> dict[str, str]:
        """What Transformers' callbacks read from the environment alone; what the user set there stays."""
        ours = {"WANDB_PROJECT": self.project, "MLFLOW_EXPERIMENT_NAME": self.project}
        if self.folder is not None:
            ours["WANDB_DIR"] = str(self.folder)
        variables = {name: value for name, value in ours.items() if name not in os.environ}
        # Each training has its own folder, which one variable for all of them cannot name.
        return variables | ({} if self.folder is None else {"TENSORBOARD_LOGGING_DIR": str(self.folder)})


UNTRACKED = Tracking()


@contextmanager
def _own_run(report_to: tuple[str, ...]) -> Iterator[None]:
    """End the run that Transformers begins at Weights & Biases; left open, the next training would go on with it."""
    if "wandb" not in report_to:
        yield
        return
    wandb = import_module("wandb")
    before = wandb.run
    try:
        yield
    finally:
        if before is None:
            wandb.finish()
