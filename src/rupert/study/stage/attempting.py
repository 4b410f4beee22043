"""The stage that attacks a model in memory and measures what comes out, keeping no weights: one attempt of many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rupert.attacks import Attacker
from rupert.data.examples import fingerprint
from rupert.evaluation import comparison, judging, trajectory
from rupert.evaluation.outcomes import Measured
from rupert.evaluation.suite import HARMLESS_FILE, Evaluation
from rupert.evaluation.trajectory import Point, Stop, Trajectory, check_eval_steps, follow
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.models.threads import fitting_threads
from rupert.records import RESULT_FILE, Record
from rupert.settings import as_mapping
from rupert.study.stage.attacking import Attack, prepare_measuring
from rupert.study.stage.work import Request, do
from rupert.training.fine_tuning import Following


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A model is attacked, and what comes out is measured as `Evaluate` does; then it is gone.

    An interrupted attempt starts again, because its model is gone too.

    Attributes:
        evaluation: what is measured; what it leaves open is chosen by the model, its requests are asked as the attacker
            asks where it does not say how.
        eval_steps: how often the model is measured on the way, see `Trajectory`.
        stop: ends the attack at a point on the way; nothing of an attempt that ends by itself depends on it.
    """

    settings: Attacker
    model: ModelSettings
    evaluation: Evaluation
    eval_steps: float = 0.0
    stop: Stop | None = None
    mends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_eval_steps(self.eval_steps)

    @cached_property
    def _attacking(self) -> Attack:
        return Attack(settings=self.settings, model=self.model, evaluation=self.evaluation)

    def request(self) -> Request:
        """By attack, data and weights, and by what is measured when."""
        attack, measured = self._attacking.request(), self._attacking.evaluating.request()
        evaluation = {**measured.definition()["settings"], "version": measured.method_version}
        return replace(
            attack,
            stage="attempt",
            settings={**attack.settings, "evaluation": {**evaluation, "eval_steps": float(self.eval_steps)}},
            data={**attack.data, **_of_evaluation(measured.data)},
            packages={**attack.packages, **measured.packages},
        )

    def prepare(self) -> None:
        """Draw the rows, load what is asked, and ask the judges whether they can judge."""
        self._attacking.prepare()
        prepare_measuring(self._attacking.evaluating, self._attacking.data)

    def damage(self, folder: Path) -> str:
        """What is wrong with answers, verdicts and outcomes."""
        return judging.damage(folder) or comparison.damage(folder)

    def run(self, stage: StageFolder) -> Record:
        """Attack and measure from the start.

        Raises:
            Stopped: `stop` said so; there is no record.
        """
        started, folder, evaluating = time.perf_counter(), stage.path, self._attacking.evaluating
        _forget(folder)
        attacked, measured, way = self._attack(folder)
        found = evaluating.conclude(measured, folder)
        way.end(found.metrics)
        report = {
            **found.report,
            "attack": attacked,
            "evaluation": as_mapping(evaluating.chosen),
            "trajectory": [point.row() for point in way.points],
        }
        data = {use: fingerprint(rows) for use, rows in self._attacking.data.items()} | _of_evaluation(found.data)
        return self.request().finish(stage, started, data=data, metrics=found.metrics, report=report)

    def _attack(self, folder: Path) -> tuple[dict[str, Any], Measured, Trajectory]:
        """What needs the model, which is gone afterwards: judges and reference may need its memory.

        Returns:
            what the attack says of itself, what was measured, and the way there.
        """
        evaluating, loaded = self._attacking.evaluating, loading.load(self.model)
        way = follow(evaluating.prepared, loaded, evaluating.data, folder, self.eval_steps, stop=self.stop)
        with fitting_threads(loaded.model):
            with way.attacking():
                attacked = self.settings.run(loaded, self._attacking.data, Following(callbacks=(way,)))
            measured = evaluating.prepared.measure(attacked.loaded, evaluating.data, folder)
        return {"steps": attacked.steps, "tokens": attacked.tokens, **attacked.report}, measured, way


def _of_evaluation(data: Mapping[str, str]) -> dict[str, str]:
    """An evaluation's data beside an attack's, whose uses may have the same names."""
    return {f"evaluation: {use}": known for use, known in data.items()}


def _forget(folder: Path) -> None:
    """Remove what another run of this attempt left: answers are kept by their requests, and its model is gone."""
    trajectory.forget(folder)
    for name in (judging.ANSWERS_FILE, HARMLESS_FILE, RESULT_FILE):
        (folder / name).unlink(missing_ok=True)


def attempt(
    settings: Attacker,
    model: ModelSettings,
    evaluation: Evaluation,
    folder: Path,
    *,
    eval_steps: float = 0.0,
    stop: Stop | None = None,
    resume: bool = False,
) -> Record:
    """Attack a model and measure what comes out, without keeping its weights.

    Args:
        settings: an instance of one of `ATTACKS`.
        model: what to attack; its own weights stay as they are.
        evaluation: what to measure; what it leaves open is chosen by the model.
        folder: new, empty, or of the same request.
        eval_steps: how often to measure on the way: below 1 a share of all steps of a training, else every so many
            steps; 0: at the end alone.
        stop: asked at each point on the way; when it says so, the attack ends.
        resume: do again what an interrupted or stopped run left unfinished.

    Raises:
        Stopped: `stop` said so; the folder has no record.
        UsageError: something that is asked for cannot be.
        NonFiniteError: a loss or gradient is not finite.
    """
    work = Attempt(settings=settings, model=model, evaluation=evaluation, eval_steps=eval_steps, stop=stop)
    return do(work, folder, resume=resume)


def points(record: Record) -> list[Point]:
    """The points of an attempt, in the order of their steps; the last is the attacked model."""
    return [Point.from_row(row) for row in record.report["trajectory"]]
