"""What an attack takes: that of fine-tuning on its rows, and what some do besides; without training, forward passes."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from rupert.attacks import EarlyStopping, Interpolation, Projection, PromptTune, Recovery, RefusalAblation
from rupert.study.estimates.memory import BYTES, Memory, Place, Rows, TrainingMemory, asking, trained_parameters
from rupert.study.estimates.requests import REQUEST_TOKENS
from rupert.study.estimates.work import Speed
from rupert.training.fine_tuning import FineTuningSettings
from rupert.training.objective import Cost

FORWARD_PASSES = 500  # rows that an attack is assumed to read that is not known and trains nothing


def attack_seconds(settings: Any, speed: Speed, processes: int = 1) -> float:
    """Seconds of an attack, without loading and saving.

    Args:
        settings: of any attack.
        speed: of the model on the device.
        processes: that divide the rows of a step, by which those in `settings` are divided already.
    """
    if not isinstance(settings, FineTuningSettings):
        return _untrained_seconds(settings, speed)
    training = _as_adapter(settings) if isinstance(settings, PromptTune) else settings
    seconds = speed.fine_tuning(training, int(getattr(settings, "num_examples", 0)), processes)
    match settings:
        case Recovery():
            first = replace(
                settings,
                num_train_epochs=settings.recovery_num_train_epochs,
                max_steps=settings.recovery_max_steps,
            )
            seconds += speed.fine_tuning(first, settings.recovery_num_examples, processes)
        case Projection():
            seconds *= 2  # a pass over as many benign rows
        case Interpolation() if not settings.data:
            seconds = 0.0
        case EarlyStopping():
            looks = 2 + speed.steps(settings, settings.num_examples, processes) // settings.watch_steps
            seconds += looks * speed.reading(settings.num_benign_examples, settings.max_length)
    return seconds


def attack_memory(settings: Any, speed: Speed, place: Place) -> Memory:
    """The peak of an attack on one device."""
    shape, dtype = speed.shape, speed.dtype
    if not isinstance(settings, FineTuningSettings):
        return _untrained_memory(settings, speed, place)
    match settings:
        case Projection():
            streams = settings.streams
            cost = Cost(passes=sum(streams.values()), gradients=1)
            return TrainingMemory(settings, shape, dtype, place).hardening(cost, streams)
        case PromptTune():
            return TrainingMemory(_as_adapter(settings), shape, dtype, place).fine_tuning()
        case EarlyStopping():
            memory = TrainingMemory(settings, shape, dtype, place).fine_tuning()
            copy = trained_parameters(settings, shape) * BYTES["float32" if settings.lora else dtype] // place.shards
            return replace(memory, copies=place.part(copy))
        case Interpolation():
            trained = TrainingMemory(settings, shape, dtype, place).fine_tuning()
            whole = place.part(shape.parameters * BYTES[dtype])
            other = Memory(weights=whole, copies=0 if place.is_gpu else whole)  # it waits in the CPU's memory
            return max([other, *([trained] if settings.data else [])], key=lambda memory: memory.total)
        case _:
            return TrainingMemory(settings, shape, dtype, place).fine_tuning()


def _as_adapter(settings: PromptTune) -> FineTuningSettings:
    """A training of next to nothing, which leaves all weights as they are, as a soft prompt's does."""
    return FineTuningSettings(
        lora=True,
        lora_r=1,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        max_length=settings.max_length,
        bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def _untrained_seconds(settings: Any, speed: Speed) -> float:
    if not isinstance(settings, RefusalAblation):
        return speed.reading(FORWARD_PASSES, REQUEST_TOKENS)
    length = REQUEST_TOKENS + settings.max_new_tokens
    candidates = ceil(settings.layer_share * speed.shape.layers) * settings.positions
    answers = speed.answering(
        settings.num_held_out, rows=settings.batch_size, prompt=REQUEST_TOKENS, new=settings.max_new_tokens
    )
    read = speed.reading(2 * settings.num_examples, REQUEST_TOKENS)
    return answers + read + (1 + candidates) * speed.reading(2 * settings.num_held_out, length)


def _untrained_memory(settings: Any, speed: Speed, place: Place) -> Memory:
    """A model that reads; of the matrices that are changed and tried, a copy is there."""
    new = int(getattr(settings, "max_new_tokens", 0))
    rows = int(getattr(settings, "batch_size", 1))
    read = Rows(rows, REQUEST_TOKENS + new)
    held = asking(speed.shape, speed.dtype, place, answers=Rows(rows, REQUEST_TOKENS, new), scores=read)
    return replace(held, copies=place.part(speed.shape.parameters * BYTES[speed.dtype]))
