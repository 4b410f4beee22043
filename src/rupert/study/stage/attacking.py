"""The stage that attacks a model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from rupert.attacks import ATTACKS, Attacked, Attacker
from rupert.data import sources
from rupert.data.asking import PLAIN
from rupert.data.examples import Example, fingerprint
from rupert.errors import UsageError
from rupert.evaluation import trajectory
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import check_eval_steps
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.delta import DELTA_FILE
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.saving import cut_short
from rupert.models.threads import fitting_threads
from rupert.records import Record, read_record
from rupert.study.stage import lineage
from rupert.study.stage.evaluating import Evaluate, asked_by
from rupert.study.stage.work import Request, do, followed, request_of, save_whole
from rupert.training import processes
from rupert.training.fine_tuning import FineTuningSettings, Following
from rupert.training.launching import is_launched, spread
from rupert.training.settings import OptimizationSettings
from rupert.training.tracking import UNTRACKED, Tracking

ADAPTER = "adapter"  # the folder beside weights that an adapter was merged into


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A model is attacked, and what comes out is saved; an interrupted attack starts again.

    Attributes:
        keep_adapter: whether the adapter is kept beside the weights that it was merged into.
        tracking: who is told of every step.
        spread_over: processes that the rows of a step are divided over, as for `Harden`.
        evaluation: what is measured on the way, at a glance; what it leaves open is chosen by the model.
        eval_steps: how often, see `Trajectory`; 0: never, then the evaluation does not count.
    """

    settings: Attacker
    model: ModelSettings
    keep_adapter: bool = False
    tracking: Tracking = UNTRACKED
    spread_over: int = 1
    evaluation: Evaluation | None = None
    eval_steps: float = 0.0
    mends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_eval_steps(self.eval_steps)

    def request(self) -> Request:
        """By attack, data and weights."""
        data = {**sources.identities(self.settings.datasets), **self._models}
        return request_of("attack", self.settings, ATTACKS, self.model, data)

    def prepare(self) -> None:
        """Draw the rows."""
        followed(self.tracking, Path()).check()
        self.settings.check()
        settings: Any = self.settings
        if isinstance(settings, FineTuningSettings):
            settings.check_device()
        _ = self.data
        if self.eval_steps:
            prepare_measuring(self.evaluating, self.data)

    @cached_property
    def data(self) -> dict[str, list[Example]]:
        """The rows of the attack."""
        return self.settings.gather()

    @cached_property
    def evaluating(self) -> Evaluate:
        """The evaluation, as that of the model that is attacked: what is known of its origin holds afterwards."""
        return Evaluate(settings=asked_by(self.evaluation or Evaluation(), self.settings.asking), model=self.model)

    @property
    def _models(self) -> dict[str, str]:
        """The content hashes of other models that the attack uses, by the setting that names each."""
        return {use: loading.identity(model) for use, model in getattr(self.settings, "models", {}).items()}

    def _settings_of_one_process(self) -> Attacker:
        """What trains divides the rows of its steps."""
        settings: Any = self.settings
        if isinstance(settings, OptimizationSettings):
            settings = spread(settings, self.spread_over)
        return settings  # type: ignore[no-any-return]

    def _attacked(self, loaded: LoadedModel, following: Following, folder: Path) -> Attacked:
        """What comes out, measured on the way where that is asked for."""
        settings, data = self._settings_of_one_process(), self.data
        if not self.eval_steps:
            return settings.run(loaded, data, following)
        trajectory.forget(folder)
        prepared, asked = self.evaluating.prepared, self.evaluating.data
        way = trajectory.follow(prepared, loaded, asked, folder, self.eval_steps)
        with way.attacking():
            attacked = settings.run(loaded, data, replace(following, callbacks=(*following.callbacks, way)))
        way.end(prepared.glance(attacked.loaded, asked, folder / trajectory.FOLDER / "end"))
        trajectory.write_points(way.points, folder / trajectory.FILE)
        return attacked

    def damage(self, folder: Path) -> str:
        """What is wrong with weights, adapter and difference; none need be there: a study drops the weights."""
        kept = (folder.glob("*.safetensors"), (folder / ADAPTER).glob("*.safetensors"), folder.glob(DELTA_FILE))
        return cut_short(chain.from_iterable(kept))

    def run(self, stage: StageFolder) -> Record:
        """Train from the start."""
        started, data, folder = time.perf_counter(), self.data, stage.path
        if processes.rank() == 0:
            lineage.remember(chain.from_iterable(data.values()), folder)
        loaded = loading.load(self.model)
        following = Following(
            adapter_folder=folder / ADAPTER if self.keep_adapter else None, tracking=followed(self.tracking, folder)
        )
        with fitting_threads(loaded.model):
            attacked = self._attacked(loaded, following, folder)
        output_hash = save_whole(attacked.loaded, folder)
        asking = self.settings.asking
        asked = {} if asking == PLAIN else {"asking": asdict(asking)}
        if processes.rank() == 0:
            self.request().finish(
                stage,
                started,
                data={use: fingerprint(rows) for use, rows in data.items()} | self._models,
                output_hash=output_hash,
                report={"steps": attacked.steps, "tokens": attacked.tokens, **asked, **attacked.report},
            )
        processes.wait()
        return read_record(folder)


def prepare_measuring(evaluating: Evaluate, data: Mapping[str, Sequence[Example]]) -> None:
    """Find out whether a model can be measured while it is attacked.

    Args:
        evaluating: what is measured, of the model that is attacked.
        data: the rows of the attack.

    Raises:
        UsageError: there are several processes, which divide the model or its rows; or what `Evaluate` refuses.
        DataError: what is asked is trained on.
    """
    if is_launched():
        raise UsageError("a model is measured on its way in one process; leave --eval-steps or the launcher out")
    evaluating.prepare()
    trained_on = {row.key() for row in chain.from_iterable(data.values())}
    lineage.refuse_trained(evaluating.unseen, trained_on, "the attack")


def attack(
    settings: Attacker,
    model: ModelSettings,
    folder: Path,
    *,
    tracking: Tracking = UNTRACKED,
    evaluation: Evaluation | None = None,
    eval_steps: float = 0.0,
    resume: bool = False,
) -> Record:
    """Attack a model and save what comes out; an interrupted attack starts again.

    Every process of a launcher calls it with the same arguments; the main one writes.

    Args:
        settings: an instance of one of `ATTACKS`.
        model: what to attack.
        folder: new, empty, or of the same request.
        tracking: who is told of every step; its own files go into the folder.
        evaluation: what is measured on the way; what it leaves open is chosen by the model.
        eval_steps: how often: below 1 a share of all steps of a training, else every so many steps; 0: never. The
            points go into `trajectory.jsonl`, which `rupert.evaluation.trajectory.read_points` reads.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient is not finite.
    """
    work = Attack(
        settings=settings,
        model=model,
        tracking=tracking,
        evaluation=evaluation,
        eval_steps=eval_steps,
    )
    return do(work, folder, resume=resume)
