"""The stage that fine-tunes a model for an honest task, and scores it before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rupert.data import sources
from rupert.data.examples import Example, fingerprint
from rupert.evaluation import comparison
from rupert.evaluation.comparison import OUTCOMES_FILE, write_outcomes
from rupert.evaluation.fine_tuning_score import TASKS, FineTuningScore
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.models.threads import fitting_threads
from rupert.records import Record
from rupert.study.stage import lineage
from rupert.study.stage.work import Request, do, request_of


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model is fine-tuned for an honest task; its own weights stay as they are."""

    settings: FineTuningScore
    model: ModelSettings
    mends: ClassVar[bool] = False

    def request(self) -> Request:
        """By task, data and weights."""
        return request_of("score", self.settings, TASKS, self.model, sources.identities(self.settings.datasets))

    def prepare(self) -> None:
        """Draw the rows."""
        self.settings.check()
        self.settings.check_device()
        lineage.refuse_seen({"test": self._data["test"]}, self.model.model)

    @cached_property
    def _data(self) -> dict[str, list[Example]]:
        return self.settings.gather()

    def damage(self, folder: Path) -> str:
        """What is wrong with the answers' marks."""
        return comparison.damage(folder)

    def run(self, stage: StageFolder) -> Record:
        """Answer, fine-tune, answer again."""
        started, data = time.perf_counter(), self._data
        loaded = loading.load(self.model)
        with fitting_threads(loaded.model):
            measured = self.settings.run(loaded, data, stage.path)
        write_outcomes(measured.outcomes, stage.path / OUTCOMES_FILE)
        return self.request().finish(
            stage,
            started,
            data={use: fingerprint(rows) for use, rows in data.items()},
            metrics=measured.metrics,
            report=measured.details,
        )


def score(task: FineTuningScore, model: ModelSettings, folder: Path, *, resume: bool = False) -> Record:
    """Fine-tune a model for an honest task, and score it before and after.

    Args:
        task: an instance of one of `fine_tuning_score.TASKS`.
        model: what to fine-tune; its own weights stay as they are.
        folder: new, empty, or of the same request.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient of the fine-tuning is not finite.
    """
    return do(Score(settings=task, model=model), folder, resume=resume)
