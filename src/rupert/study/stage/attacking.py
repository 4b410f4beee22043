"""The stage that attacks a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from rupert.attacks import ATTACKS, Attacker
from rupert.data import sources
from rupert.data.examples import Example, fingerprint
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.delta import DELTA_FILE
from rupert.models.loading import ModelSettings
from rupert.models.saving import cut_short
from rupert.models.threads import fitting_threads
from rupert.records import Record, read_record
from rupert.study import lineage
from rupert.study.stage.work import Request, do, followed, request_of, save_whole
from rupert.training import processes
from rupert.training.fine_tuning import Following
from rupert.training.launching import spread
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
    """

    settings: Attacker
    model: ModelSettings
    keep_adapter: bool = False
    tracking: Tracking = UNTRACKED
    spread_over: int = 1
    mends: ClassVar[bool] = False

    def request(self) -> Request:
        """By attack, data and weights."""
        return request_of("attack", self.settings, ATTACKS, self.model, sources.identities(self.settings.datasets))

    def prepare(self) -> None:
        """Draw the rows."""
        followed(self.tracking, Path()).check()
        self.settings.check()
        _ = self._data

    @cached_property
    def _data(self) -> dict[str, list[Example]]:
        return self.settings.gather()

    def _settings_of_one_process(self) -> Attacker:
        """What trains divides the rows of its steps."""
        settings: Any = self.settings
        if isinstance(settings, OptimizationSettings):
            settings = spread(settings, self.spread_over)
        return settings  # type: ignore[no-any-return]

    def damage(self, folder: Path) -> str:
        """What is wrong with weights, adapter and difference; none need be there: a study drops the weights."""
        kept = (folder.glob("*.safetensors"), (folder / ADAPTER).glob("*.safetensors"), folder.glob(DELTA_FILE))
        return cut_short(chain.from_iterable(kept))

    def run(self, stage: StageFolder) -> Record:
        """Train from the start."""
        started, data, folder = time.perf_counter(), self._data, stage.path
        if processes.rank() == 0:
            lineage.remember(chain.from_iterable(data.values()), folder)
        loaded = loading.load(self.model)
        with fitting_threads(loaded.model):
            attacked = self._settings_of_one_process().run(
                loaded,
                data,
                Following(
                    adapter_folder=folder / ADAPTER if self.keep_adapter else None,
                    tracking=followed(self.tracking, folder),
                ),
            )
        output_hash = save_whole(attacked.loaded, folder)
        if processes.rank() == 0:
            self.request().finish(
                stage,
                started,
                data={use: fingerprint(rows) for use, rows in data.items()},
                output_hash=output_hash,
                report={"steps": attacked.steps, "tokens": attacked.tokens, **attacked.report},
            )
        processes.wait()
        return read_record(folder)


def attack(
    settings: Attacker,
    model: ModelSettings,
    folder: Path,
    *,
    tracking: Tracking = UNTRACKED,
    resume: bool = False,
) -> Record:
    """Attack a model and save what comes out; an interrupted attack starts again.

    Every process of a launcher calls it with the same arguments; the main one writes.

    Args:
        settings: an instance of one of `ATTACKS`.
        model: what to attack.
        folder: new, empty, or of the same request.
        tracking: who is told of every step; its own files go into the folder.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: the loss or the gradient is not finite.
    """
    return do(Attack(settings=settings, model=model, tracking=tracking), folder, resume=resume)
