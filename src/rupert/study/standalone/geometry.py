"""The stage that compares the gradients of several models, before an attack and along it."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from rupert import folders
from rupert.attacks import FineTune
from rupert.data.examples import Example, fingerprint
from rupert.errors import InvalidValue, NonFiniteError, UsageError
from rupert.evaluation.gradients.geometry import GROUPS, Geometry, GeometrySettings, measure
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.threads import fitting_threads
from rupert.records import Metric, Record, content_hash, write_text
from rupert.settings import as_mapping, check_not_negative
from rupert.study.stage.work import Request
from rupert.terminal import bar
from rupert.training.fine_tuning import Following

POINTS_FILE = "geometry.csv"
MEMORY_GB = 4.0


@dataclass(frozen=True, kw_only=True)
class AttackSteps:
    """An attack, and the optimizer steps of it after which gradients are compared; before it they always are."""

    attack: FineTune
    at: tuple[int, ...]

    def __post_init__(self) -> None:
        check_not_negative(self, "at")
        rows = self.attack.batch_size
        epoch = ceil(self.attack.num_examples / rows)
        steps = ceil(self.attack.num_train_epochs * epoch) if self.attack.max_steps == -1 else self.attack.max_steps
        if self.at and max(self.at) > steps:
            raise InvalidValue("at", max(self.at), f"the attack has {steps} steps")


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The gradients of one model after so many attack steps, compared."""

    model: str
    attack_step: int
    geometry: Geometry

    def metrics(self) -> Iterator[Metric]:
        for name, interval in self.geometry.found.items():
            yield interval.metric(f"{name}/{self.model}/{self.attack_step}")

    def rows(self) -> Iterator[list[Any]]:
        """What the CSV file says: a row a batch."""
        count = len(self.geometry.scores) // len(GROUPS)
        for number, scores in enumerate(self.geometry.scores.tolist()):
            yield [self.model, self.attack_step, GROUPS[number // count], number % count, *scores]


def geometry(
    settings: GeometrySettings,
    models: Mapping[str, ModelSettings],
    folder: Path,
    *,
    along: AttackSteps | None = None,
    memory_gb: float = MEMORY_GB,
    resume: bool = False,
) -> Record:
    """Compare the harmful and benign gradients of each model; `geometry.csv` has each batch's place.

    The record has the metrics `<name>/<model>/<attack step>`, and in `report["measurements"]` one entry for each
    model and step.

    Args:
        settings: what is compared; what it leaves open is chosen by the models.
        models: by the name that they have in the results.
        folder: new, empty, or of the same request.
        along: compare also after some steps of an attack; the attacked models are not kept.
        memory_gb: gigabytes of gradients held at once, on the model's device.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: a loss or gradient is not finite.
    """
    started = time.perf_counter()
    if memory_gb <= 0:
        raise InvalidValue("memory_gb", memory_gb, "must be above 0")
    folders.refuse_foreign(folder)
    chosen = _for_models(settings, models)
    chosen.check()
    if along:
        along.attack.check()
    data = chosen.gather()
    chosen = chosen.for_data(data)
    attack_data = along.attack.gather() if along else {}
    request = _request(chosen, models, along, {**data, **{f"attack/{use}": rows for use, rows in attack_data.items()}})
    stage = request.claim(folder, resume=resume)
    if stage.finished:
        return stage.finished
    measured: list[_Measurement] = []
    for label, model in models.items():
        loaded = loading.load(model)
        compare = _comparison(chosen, data, loaded, label, memory_gb)
        with fitting_threads(loaded.model):
            by_step = _attacked(along, loaded, attack_data, compare) if along else {0: compare(loaded.model, 0)}
        measured += [_Measurement(label, step, found) for step, found in sorted(by_step.items())]
    _write_points(measured, chosen.components, folder / POINTS_FILE)
    metrics = tuple(metric for one in measured for metric in one.metrics())
    return request.finish(stage, started, metrics=metrics, report=_report(models, measured))


def _for_models(settings: GeometrySettings, models: Mapping[str, ModelSettings]) -> GeometrySettings:
    kinds = {loading.is_potionworld(model) for model in models.values()}
    if len(kinds) > 1 and not (settings.harmful and settings.benign):
        raise UsageError("harmful, benign: name both, because these models are of different worlds")
    return settings.for_model(is_potionworld=kinds == {True})


def _request(
    settings: GeometrySettings,
    models: Mapping[str, ModelSettings],
    along: AttackSteps | None,
    data: Mapping[str, Sequence[Example]],
) -> Request:
    attack = {"attack": as_mapping(along.attack), "at": sorted({0, *along.at})} if along else {}
    dtypes = {label: model.dtype for label, model in models.items()}
    return Request(
        stage="geometry",
        method=settings.projection,
        settings={**as_mapping(settings), **attack, "dtypes": dtypes},
        model=", ".join(model.model for model in models.values()),
        model_hash=content_hash([loading.identity(model) for model in models.values()]),
        data={name: fingerprint(examples) for name, examples in data.items()},
    )


Compare = Callable[[PreTrainedModel, int], Geometry]  # model, attack step -> how its gradients lie


def _comparison(
    settings: GeometrySettings, data: Mapping[str, Sequence[Example]], loaded: LoadedModel, label: str, memory_gb: float
) -> Compare:
    batches = settings.batches(data, loaded.tokenizer)
    # Those of now: an adapter that an attack adds is no part of the model, and the weights under it still are.
    parameters = list(loaded.model.parameters())
    total = settings.computations(parameters, memory_gb)

    def compare(model: PreTrainedModel, step: int) -> Geometry:
        place = f"{label} after {step} attack steps" if step else label
        with bar(f"gradients of {place}", total) as shown:
            try:
                return measure(
                    settings, model, batches, parameters=parameters, memory_gb=memory_gb, advance=shown.advance
                )
            except NonFiniteError as error:
                raise NonFiniteError(f"{place}: {error}") from None

    return compare


def _attacked(
    along: AttackSteps, loaded: LoadedModel, data: Mapping[str, Sequence[Example]], compare: Compare
) -> dict[int, Geometry]:
    """Attack a model, whose weights change in place, and compare its gradients on the way."""
    watch = ComparesAlong({0, *along.at}, compare)
    along.attack.run(loaded, data, Following(callbacks=(watch,)))
    return watch.found


class ComparesAlong(TrainerCallback):
    """Compares gradients after some steps of a training, which goes on as if it had not.

    Everything that it computes is in evaluation mode, which draws no random number, and leaves `p.grad` alone.

    Attributes:
        found: what was found after each step.
    """

    def __init__(self, steps: set[int], compare: Compare) -> None:
        self._steps = steps
        self._compare = compare
        self.found: dict[int, Geometry] = {}

    def on_train_begin(self, *_: Any, model: PreTrainedModel, **others: Any) -> None:
        """Compare before the first step."""
        del others
        self._look(model, 0)

    def on_step_end(self, _args: Any, state: Any, *_: Any, model: PreTrainedModel, **others: Any) -> None:
        """Compare after a step."""
        del others
        self._look(model, state.global_step)

    def _look(self, model: PreTrainedModel, step: int) -> None:
        if step in self._steps:
            self.found[step] = self._compare(model, step)


def _report(models: Mapping[str, ModelSettings], measured: Sequence[_Measurement]) -> dict[str, Any]:
    return {
        "models": {label: model.model for label, model in models.items()},
        "measurements": [
            {"model": one.model, "attack_step": one.attack_step, "explained": list(one.geometry.explained)}
            for one in measured
        ],
    }


def _write_points(measured: Sequence[_Measurement], components: Sequence[int], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "attack_step", "group", "batch", *(f"component_{number}" for number in components)])
    writer.writerows(row for one in measured for row in one.rows())
    write_text(text.getvalue(), path)
