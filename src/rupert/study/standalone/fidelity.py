"""The stage that measures how true each way of estimating SEAM's gradient is for a model."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import torch

from rupert import folders
from rupert.data.examples import fingerprint
from rupert.evaluation.gradients.fidelity import FidelitySettings, measure, reference_memory
from rupert.evaluation.gradients.precision import free_memory, has_tf32
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.threads import fitting_threads
from rupert.records import Record
from rupert.settings import as_mapping
from rupert.study.stage.work import Request
from rupert.terminal import bar, progress_console


def fidelity(settings: FidelitySettings, model: ModelSettings, folder: Path, *, resume: bool = False) -> Record:
    """Compare each way of estimating the gradient of the cosine of harmful and benign gradient with the exact one.

    The record has the metrics of each `Fidelity`, and in `report["reference"]` the type of the exact gradient.

    Args:
        settings: what is compared; what it leaves open is chosen by the model and the device.
        model: whose gradients; its dtype is what the weights are rounded to before anything is computed.
        folder: new, empty, or of the same request.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
        NonFiniteError: a gradient is not finite, or is zero and so has no direction.
    """
    started = time.perf_counter()
    folders.refuse_foreign(folder)
    chosen = settings.for_model(is_potionworld=loading.is_potionworld(model), has_tf32=has_tf32(model.device))
    chosen.check()
    data = chosen.gather()
    request = Request(
        stage="fidelity",
        method="cosine_gradient",
        settings={**as_mapping(chosen), "dtype": model.dtype},
        model=model.model,
        model_hash=loading.identity(model),
        data={name: fingerprint(examples) for name, examples in data.items()},
    )
    stage = request.claim(folder, resume=resume)
    if stage.finished:
        return stage.finished
    loaded = loading.load(model)
    batches = chosen.batches(data, loaded.tokenizer)
    reference = _reference(chosen, loaded)
    done = count()
    with fitting_threads(loaded.model), bar("estimating gradients", _gradients(chosen)) as shown:
        found = measure(
            chosen,
            loaded.model,
            batches,
            reference=getattr(torch, reference),
            begin=lambda name: shown.update(done=next(done), note=name),
        )
    metrics = tuple(metric for one in found for metric in one.metrics())
    return request.finish(stage, started, metrics=metrics, report={"reference": reference})


def _reference(settings: FidelitySettings, loaded: LoadedModel) -> str:
    """The type of the exact gradient: float64 only where it fits."""
    needed, free = reference_memory(loaded.model), free_memory(loaded.device)
    if settings.reference == "float32" or needed <= free:
        return settings.reference
    progress_console().print(
        f"the reference is float32: float64 needs about {needed / 1e9:.1f} GB, and {loaded.device} has "
        f"{free / 1e9:.1f} GB free for it",
        highlight=False,
        soft_wrap=True,
    )
    return "float32"


def _gradients(settings: FidelitySettings) -> int:
    """How many are computed: the exact one, and all estimates."""
    return 1 + sum(len(settings.estimates(way)) for way in settings.ways)
