"""The undefended model that says which answers are coherent: calibrated once, asked for every evaluation."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rupert.errors import FolderError, UsageError
from rupert.evaluation.answers import read_answers
from rupert.evaluation.coherence.calibration import (
    Calibration,
    CalibrationSettings,
    calibrate,
    identity,
    read_calibration,
    write_calibration,
)
from rupert.evaluation.coherence.signals import measure, write_signals
from rupert.evaluation.judging import ANSWERS_FILE, CALIBRATION_FILE, SIGNALS_FILE
from rupert.folders import user_cache
from rupert.terminal import bar

if TYPE_CHECKING:
    from rupert.models.embedding import Encode
    from rupert.models.loading import LoadedModel, ModelSettings


def weigh(folder: Path, reference: ModelSettings, reference_hash: str, *, batch_size: int) -> Calibration:
    """Write into an evaluation's folder what the reference makes of its answers, and how it was calibrated.

    Args:
        folder: with all answers; the model that gave them is not needed.
        reference: the undefended model.
        reference_hash: its content hash, by which its calibration is kept.
        batch_size: rows of one forward pass.

    Raises:
        UsageError: the reference cannot be loaded.
    """
    from rupert.models import loading
    from rupert.models.threads import fitting_threads

    settings = CalibrationSettings(batch_size=batch_size).for_model(is_potionworld=loading.is_potionworld(reference))
    encoder = _encoder(settings)
    loaded = loading.load(reference)
    with fitting_threads(loaded.model):
        calibration = _calibrated(settings, loaded, reference_hash, encoder)
        signals = measure(
            read_answers(folder / ANSWERS_FILE), loaded, calibration.contexts, encoder, batch_size=batch_size
        )
    write_signals(signals, folder / SIGNALS_FILE)
    write_calibration(calibration, folder / CALIBRATION_FILE)
    return calibration


def _encoder(settings: CalibrationSettings) -> Encode | None:
    """Sentence embeddings where they are wanted and can be had; without them relevance is left to the judge."""
    from rupert.models import embedding

    if settings.encoder == "none":
        return None
    try:
        return embedding.load_encoder(settings.encoder)
    except UsageError:  # neither the package nor the network is there; the calibration says which encoder it had
        return None


def _calibrated(
    settings: CalibrationSettings, reference: LoadedModel, reference_hash: str, encoder: Encode | None
) -> Calibration:
    """The calibration from the user's cache, or a new one that goes there."""
    data = settings.gather()
    path = user_cache("calibrations") / (
        identity(settings, data, reference_hash, with_encoder=encoder is not None) + ".json"
    )
    try:
        return read_calibration(path)
    except FolderError:  # there is none, or another version's, or a damaged one
        with bar("calibrating what is coherent for this model, once", None):
            calibration = calibrate(reference, data, settings, reference_hash=reference_hash, encoder=encoder)
    with contextlib.suppress(OSError):  # a home that cannot be written to costs time, not the evaluation
        path.parent.mkdir(parents=True, exist_ok=True)
        write_calibration(calibration, path)
    return calibration
