"""What to change so that a stage fits: settings of which the same estimate says that it would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from rupert.defenses import SEAM
from rupert.errors import UsageError
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import SPLIT
from rupert.models.shape import ModelShape
from rupert.study.definition.graph import Node
from rupert.study.definition.study import Study
from rupert.study.estimates.estimate import Setup, estimate
from rupert.training.settings import TrainingSettings

DEVICES = (2, 4, 8, 16, 32, 64)
MOST = 3  # changes together


@dataclass(frozen=True, slots=True)
class Trial:
    """A stage with some of its settings changed.

    Attributes:
        words: what the user would write.
        node: the stage.
        study: its study.
        setup: where it would run.
    """

    words: tuple[str, ...]
    node: Node
    study: Study
    setup: Setup

    def told(self, **settings: object) -> Trial:
        """With other settings of the method."""
        words = (*self.words, *(f"{name}={_written(value)}" for name, value in settings.items()))
        return replace(self, words=words, node=replace(self.node, settings=replace(self.node.settings, **settings)))

    def loaded(self, **settings: Any) -> Trial:
        """With the model held in memory in another way."""
        words = (*self.words, *(f"model.{name}={value}" for name, value in settings.items()))
        return replace(self, words=words, study=replace(self.study, model=replace(self.study.model, **settings)))

    def on(self, gpus: int, *words: str, **setup: Any) -> Trial:
        """On more devices."""
        words = (*self.words, *words, f"--gpus {gpus}")
        return replace(self, words=words, setup=replace(self.setup, gpus=gpus, **setup))

    def fits(self, shape: ModelShape) -> bool:
        """Whether it could run."""
        return estimate(self.node, self.study, shape, self.setup).fits(self.setup.hardware)


Change = Callable[[Trial], Iterator[Trial]]


def remedies(node: Node, study: Study, shape: ModelShape, setup: Setup) -> tuple[str, ...]:
    """The least changes by which a stage would fit on as many devices, and on more; none where none does."""
    start = Trial((), node, study, setup)
    here = _first(start, shape, (_split_here, *SETTINGS, _sharded_here))
    if here and setup.gpus > 1:
        return (" ".join(here.words),)
    more = _first(start, shape, (_split, _sharded, *SETTINGS), needed=frozenset({_split, _sharded}))
    return tuple(" ".join(trial.words) for trial in (here, more) if trial)


def _first(
    start: Trial, shape: ModelShape, changes: tuple[Change, ...], needed: frozenset[Change] = frozenset()
) -> Trial | None:
    """The first of single changes, then of two and three together, that fits; with one of those needed, if any are."""
    chosen = (some for count in range(1, MOST + 1) for some in combinations(changes, count))
    trials = (trial for some in chosen if not needed or needed & set(some) for trial in _together(start, some))
    return next((trial for trial in trials if trial.fits(shape)), None)


def _together(start: Trial, changes: tuple[Change, ...]) -> Iterator[Trial]:
    if not changes:
        yield start
        return
    try:
        for trial in changes[0](start):
            yield from _together(trial, changes[1:])
    except UsageError:  # settings that exclude each other
        return


def _fewer_rows(trial: Trial) -> Iterator[Trial]:
    """Fewer rows of one pass, and as many of a step; of an evaluation simply fewer at once."""
    settings = trial.node.settings
    if isinstance(settings, Evaluation):
        for rows in _divisors(settings.batch_size):
            yield trial.told(batch_size=rows)
    elif isinstance(settings, TrainingSettings):
        for rows in _divisors(settings.per_device_train_batch_size):
            passes = settings.batch_size // rows
            yield trial.told(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)


def _checkpointing(trial: Trial) -> Iterator[Trial]:
    settings = trial.node.settings
    if isinstance(settings, TrainingSettings) and not settings.gradient_checkpointing:
        yield trial.told(gradient_checkpointing=True)


def _half_weights(trial: Trial) -> Iterator[Trial]:
    if trial.study.model.dtype == "float32":
        yield trial.loaded(dtype="bfloat16")


def _small_optimizer(trial: Trial) -> Iterator[Trial]:
    settings = trial.node.settings
    if isinstance(settings, TrainingSettings) and settings.optim not in ("adafactor", "sgd"):
        yield trial.told(optim="adafactor")


def _differences(trial: Trial) -> Iterator[Trial]:
    settings = trial.node.settings
    if isinstance(settings, SEAM) and settings.gradient == "exact":
        yield trial.told(gradient="hessian_free")


def _adapter(trial: Trial) -> Iterator[Trial]:
    settings = trial.node.settings
    if isinstance(settings, TrainingSettings) and not settings.lora:
        yield trial.told(lora=True)


def _split_here(trial: Trial) -> Iterator[Trial]:
    """The layers of one process over the devices that there are: what is computed stays the same."""
    if trial.setup.gpus > 1 and trial.study.model.device != SPLIT and trial.setup.sharding == "none":
        yield trial.loaded(device=SPLIT)


def _split(trial: Trial) -> Iterator[Trial]:
    """The same over more devices."""
    for gpus in DEVICES:
        if gpus > trial.setup.gpus and trial.study.model.device != SPLIT and trial.setup.sharding == "none":
            yield trial.loaded(device=SPLIT).on(gpus)


def _sharded_here(trial: Trial) -> Iterator[Trial]:
    """FSDP2 over the devices that there are."""
    if trial.setup.gpus > 1 and trial.setup.sharding == "none":
        for able in _shardable(trial):
            words = (*able.words, "--sharding fsdp2")
            yield replace(able, words=words, setup=replace(able.setup, sharding="fsdp2"))


def _sharded(trial: Trial) -> Iterator[Trial]:
    """The same over more devices."""
    for able in _shardable(trial):
        for gpus in DEVICES:
            if gpus > trial.setup.gpus:
                yield able.on(gpus, "--sharding fsdp2", sharding="fsdp2")


def _shardable(trial: Trial) -> Iterator[Trial]:
    """A training, with what FSDP2 asks of SEAM: differences, of float32 weights."""
    if not isinstance(trial.node.settings, TrainingSettings) or trial.node.kind == "score":
        return
    if isinstance(trial.node.settings, SEAM):
        trial = next(_differences(trial), trial)
        trial = trial if trial.study.model.dtype == "float32" else trial.loaded(dtype="float32")
    yield trial


# What changes the numbers least comes first.
SETTINGS: tuple[Change, ...] = (
    _fewer_rows,
    _checkpointing,
    _half_weights,
    _small_optimizer,
    _differences,
    _adapter,
)


def _divisors(number: int) -> list[int]:
    """Those below it, the largest first."""
    return [part for part in range(number - 1, 0, -1) if number % part == 0]


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
