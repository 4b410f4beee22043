"""What one stage of a study takes: time, memory, disk and judge tokens, from configurations alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal

from rupert.errors import UsageError
from rupert.evaluation.ability.tasks import expand
from rupert.evaluation.coherence.signals import MAX_LENGTH
from rupert.evaluation.fine_tuning_score import Alpaca, FineTuningScore
from rupert.evaluation.judges import Judge
from rupert.evaluation.suite import Evaluation
from rupert.models import loading
from rupert.models.loading import SPLIT
from rupert.models.shape import ModelShape, shape_of
from rupert.study.definition.graph import Node
from rupert.study.definition.study import Study
from rupert.study.estimates.attacks import attack_memory, attack_seconds
from rupert.study.estimates.hardware import Hardware
from rupert.study.estimates.memory import (
    BYTES,
    Memory,
    Place,
    Rows,
    TrainingMemory,
    asking,
    optimizer_numbers,
    trained_parameters,
)
from rupert.study.estimates.requests import ANNOTATOR_TOKENS, TASKS, at_most, judge_tokens, judges_of
from rupert.study.estimates.work import Speed
from rupert.study.stage import SAVE_STEPS
from rupert.training.fine_tuning import FineTuningSettings
from rupert.training.launching import SettingsT, spread
from rupert.training.objective import Cost, Objective
from rupert.training.settings import TrainingSettings

Sharding = Literal["none", "fsdp2", "zero3"]
# Settings that cost nothing.
FREE = frozenset({"seed", "data_seed", "learning_rate", "weight_decay", "lr_scheduler_type"})
ANSWER_BYTES = 4096  # of an answer with its verdicts and outcomes, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where a study would run.

    Attributes:
        hardware: one device.
        gpus: how many of them.
        sharding: how a training is divided over them; with none, as many stages run at once.
    """

    hardware: Hardware
    gpus: int = 1
    sharding: Sharding = "none"

    def place(self, study: Study, *, training: bool) -> Place:
        """What a stage has: evaluations are not sharded."""
        is_sharded = self.sharding != "none" and training
        return Place(
            is_gpu=self.hardware.is_gpu,
            shards=self.gpus if is_sharded else 1,
            split=self.gpus if study.model.device == SPLIT and not is_sharded else 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one stage takes at most.

    Attributes:
        seconds: of work, without loading and saving.
        memory: of one device at the peak.
        kept: bytes on disk that stay.
        working: bytes on disk beside these while it runs, and until it is measured.
        judge_tokens: that endpoints are asked and answer with.
        not_counted: what its sizes are not known of.
        refused: why it cannot run at all, and what to change; empty where it can.
    """

    seconds: float
    memory: Memory
    kept: int = 0
    working: int = 0
    judge_tokens: int = 0
    not_counted: tuple[str, ...] = ()
    refused: str = ""

    def fits(self, hardware: Hardware) -> bool:
        """Whether nothing refuses it, and its peak is within a device's memory."""
        return not self.refused and self.memory.total <= hardware.usable


def estimates(nodes: Iterable[Node], study: Study, shape: ModelShape, setup: Setup) -> dict[Node, Estimate]:
    """`estimate` of many stages, worked out once for those that differ only in what it does not depend on."""
    known: dict[Any, Estimate] = {}
    found = {}
    for node in nodes:
        settings = node.settings
        names = [field.name for field in fields(settings) if field.name not in FREE] if settings else []
        key = (type(settings), *(getattr(settings, name) for name in names))
        if key not in known:
            known[key] = estimate(node, study, shape, setup)
        found[node] = known[key]
    return found


def estimate(node: Node, study: Study, shape: ModelShape, setup: Setup) -> Estimate:
    """What a stage takes at most, before it is run.

    Args:
        node: the stage.
        study: which it is of: its model, and what becomes of attacked weights.
        shape: of the study's model.
        setup: where it would run.
    """
    dtype = shape.dtype if study.model.dtype == "auto" else study.model.dtype
    speed = Speed(shape=shape, hardware=setup.hardware, dtype=dtype)
    if node.kind == "attack":
        return _attack(node.settings, study, speed, setup)
    match node.settings:
        case None:
            weights = shape.parameters * BYTES[dtype]
            held = setup.place(study, training=False).part(weights)
            return Estimate(seconds=0.0, memory=Memory(weights=held), kept=weights)
        case FineTuningScore():
            return _score(node.settings, study, speed, setup)
        case Evaluation():
            return _evaluation(_chosen(node, study), study, speed, setup)
        case _:
            return _defense(node.settings, study, speed, setup)


def _defense(settings: Objective, study: Study, speed: Speed, setup: Setup) -> Estimate:
    place = setup.place(study, training=True)
    settings, indivisible = _divided(settings, place.shards)
    assert isinstance(settings, TrainingSettings)
    cost = settings.cost
    memory = TrainingMemory(settings, speed.shape, speed.dtype, place).hardening(cost, settings.streams)
    whole = speed.shape.parameters * BYTES[speed.dtype]
    number = BYTES["float32" if settings.lora else speed.dtype]
    trained = trained_parameters(settings, speed.shape) * number
    states = optimizer_numbers(settings, speed.shape) * number
    # A checkpoint is written beside the last one, which goes afterwards.
    checkpoints = min(2, -(-settings.max_steps // SAVE_STEPS))
    return Estimate(
        seconds=speed.hardening(settings, settings.max_steps, cost),
        memory=memory,
        kept=whole,
        working=checkpoints * (trained + states),
        refused=_refused(cost, speed.dtype, setup) or indivisible,
    )


def _divided(settings: SettingsT, processes: int) -> tuple[SettingsT, str]:
    """The settings of each of several processes, as a study divides the rows of a step; or why it cannot."""
    try:
        return spread(settings, processes), ""
    except UsageError as error:
        return settings, str(error)


def _refused(cost: Cost, dtype: str, setup: Setup) -> str:
    """What the hardening loop refuses under sharding, whatever the memory."""
    if setup.sharding == "zero3":
        return "hardening is sharded by FSDP2 alone; use --sharding fsdp2"
    if setup.sharding == "fsdp2" and cost.graphs:
        return "sharded weights have no second derivative; use gradient=hessian_free, or model.device=auto unsharded"
    if setup.sharding == "fsdp2" and cost.precise and BYTES[dtype] < BYTES["float32"]:
        return "differences need float32 weights under FSDP2; use model.dtype=float32"
    return ""


def _attack(settings: Any, study: Study, speed: Speed, setup: Setup) -> Estimate:
    is_training = isinstance(settings, FineTuningSettings)
    place = setup.place(study, training=is_training)
    whole = left = speed.shape.parameters * BYTES[speed.dtype]
    refused, copied = "", 0
    if is_training:
        settings, refused = _divided(settings, place.shards)
        refused = _refused_training(settings, speed.shape, place) or refused
        left = trained_parameters(settings, speed.shape) * BYTES["float32"] if settings.lora else whole
        copied = whole if settings.load_in_4bit else 0  # on its way into 4 bits
    kept = {"drop": 0, "delta": left, "keep": whole}[study.attacked]
    return Estimate(
        seconds=attack_seconds(settings, speed, place.shards),
        memory=attack_memory(settings, speed, place),
        kept=kept,
        working=max(whole - kept, copied),
        refused=refused,
    )


def _refused_training(settings: FineTuningSettings, shape: ModelShape, place: Place) -> str:
    """What fine-tuning refuses, whatever the memory."""
    outside = [number for number in settings.layers_to_transform or () if not -shape.layers <= number < shape.layers]
    if outside:
        return f"layers_to_transform: the model has no layer {outside[0]}, but {shape.layers} layers"
    if settings.load_in_4bit and (not place.is_gpu or place.shards > 1):
        return "load_in_4bit needs a GPU, and weights that are not sharded"
    return ""


def _score(task: FineTuningScore, study: Study, speed: Speed, setup: Setup) -> Estimate:
    place = setup.place(study, training=False)
    trained = TrainingMemory(task, speed.shape, speed.dtype, place).fine_tuning()
    rows = at_most(task.test, task.limit)
    answers = speed.answering(
        rows or 0, rows=task.per_device_eval_batch_size, prompt=task.max_length, new=task.max_new_tokens
    )
    at_once = min(task.per_device_eval_batch_size, rows or task.per_device_eval_batch_size)
    answered = Rows(at_once, task.max_length, task.max_new_tokens)
    asked = asking(speed.shape, speed.dtype, place, answers=answered)
    is_paid = isinstance(task, Alpaca)
    return Estimate(
        seconds=speed.fine_tuning(task, task.num_examples) + 2 * answers,
        memory=max(trained, asked, key=lambda memory: memory.total),
        kept=2 * (rows or 0) * ANSWER_BYTES,
        judge_tokens=2 * (rows or 0) * (ANNOTATOR_TOKENS + task.max_new_tokens) if is_paid else 0,
        not_counted=() if rows else (f"the answers to {task.test}",),
    )


def _chosen(node: Node, study: Study) -> Evaluation:
    """The evaluation with nothing left to choose."""
    evaluation: Evaluation = node.settings.for_model(is_potionworld=_is_potionworld(study.model.model))
    return replace(evaluation, reference=study.model.model) if evaluation.reference == "" else evaluation


@cache
def _is_potionworld(model: str) -> bool:
    return loading.is_potionworld(loading.ModelSettings(model=model))


def _evaluation(evaluation: Evaluation, study: Study, speed: Speed, setup: Setup) -> Estimate:
    place = setup.place(study, training=False)
    requests = at_most(evaluation.requests, evaluation.num_requests, evaluation.limit)
    work = _Asked(evaluation, speed)
    seconds = work.answers(requests or 0) + work.log_probabilities() + work.tasks()
    memories = [work.memory(place)]
    not_counted = [*work.unknown, *([] if requests else [f"the answers to {evaluation.requests}"])]
    if evaluation.reference:
        found = shape_of(evaluation.reference)
        reference = replace(speed, shape=found)
        seconds += reference.reading(2 * (requests or 0), MAX_LENGTH // 2 + evaluation.max_new_tokens)
        length = min(MAX_LENGTH, found.positions or MAX_LENGTH)
        at_once = min(evaluation.batch_size, requests or evaluation.batch_size)
        memories.append(_reading(found, speed.dtype, at_once, length, place))
    for name, judge in judges_of(evaluation.judges).items():
        taken = _judge(judge, speed, requests or 0, evaluation.max_new_tokens, place)
        if isinstance(taken, str):
            not_counted.append(f"the judge {name} ({taken})")
        else:
            seconds += taken.seconds
            memories.append(taken.memory)
    return Estimate(
        seconds=seconds,
        memory=max(memories, key=lambda memory: memory.total),
        kept=(requests or 0) * ANSWER_BYTES,
        judge_tokens=judge_tokens(evaluation.judges, requests or 0, evaluation.max_new_tokens),
        not_counted=tuple(not_counted),
    )


class _Asked:
    """What the evaluated model itself is asked."""

    def __init__(self, evaluation: Evaluation, speed: Speed) -> None:
        self._evaluation, self._speed = evaluation, speed
        self._length = min(evaluation.max_length, speed.shape.positions or evaluation.max_length)
        exact = evaluation.exact_tasks()
        named = [task for task in expand(evaluation.tasks) if task not in exact]
        self._tasks = {task: TASKS[task] for task in named if task in TASKS}
        self.unknown = [f"the task {task}" for task in named if task not in TASKS]

    def answers(self, requests: int) -> float:
        """Seconds to answer the requests, the harmless ones, and the datasets with exact answers."""
        evaluation = self._evaluation
        others = [evaluation.harmless, *evaluation.exact_tasks()]
        counts = [requests, *(at_most(spec, evaluation.limit) or 0 for spec in others if spec)]
        prompt = max(1, self._length - evaluation.max_new_tokens)
        return sum(
            self._speed.answering(count, rows=evaluation.batch_size, prompt=prompt, new=evaluation.max_new_tokens)
            for count in counts
            if count
        )

    def log_probabilities(self) -> float:
        """Seconds to read benign pairs, and as many of a defense's."""
        rows = at_most(self._evaluation.benign, self._evaluation.limit) or 0
        return 2 * self._speed.reading(rows, self._length)

    def tasks(self) -> float:
        """Seconds to read the questions of the tasks."""
        limit = self._evaluation.limit
        return sum(self._speed.reading(task.asked(limit), task.tokens) for task in self._tasks.values())

    def memory(self, place: Place) -> Memory:
        """The peak of all that."""
        evaluation, length = self._evaluation, self._length
        longest = max((task.longest for task in self._tasks.values()), default=0)
        asked = max((task.asked(evaluation.limit) for task in self._tasks.values()), default=0)
        prompt = max(1, length - evaluation.max_new_tokens)
        return asking(
            self._speed.shape,
            self._speed.dtype,
            place,
            answers=Rows(evaluation.batch_size, prompt, evaluation.max_new_tokens),
            scores=Rows(min(evaluation.batch_size, self._scored()), length),
            choices=Rows(min(evaluation.batch_size, asked), min(longest, self._speed.shape.positions or longest)),
        )

    def _scored(self) -> int:
        """Rows whose log-probability is measured, at most."""
        rows = at_most(self._evaluation.benign, self._evaluation.limit)
        return self._evaluation.batch_size if rows is None else rows


def _judge(judge: Judge, speed: Speed, requests: int, new: int, place: Place) -> Estimate | str:
    """What a judge that is a model here takes; why that is not known, in words; nothing for any other."""
    name = str(getattr(judge, "local_model", "") or getattr(judge, "model", ""))
    if not name or (hasattr(judge, "base_url") and not getattr(judge, "local_model", "")):
        return Estimate(seconds=0.0, memory=Memory())
    try:
        shape = shape_of(name)
    except UsageError:
        return "its configuration is not at hand"
    dtype = str(getattr(judge, "dtype", "auto"))
    own = replace(speed, shape=shape, dtype=shape.dtype if dtype == "auto" else dtype)
    length = int(getattr(judge, "max_length", MAX_LENGTH))
    rows = int(getattr(judge, "batch_size", 1))
    replies = int(getattr(judge, "max_tokens", 0))
    seconds = own.reading(requests, min(length, MAX_LENGTH + new))
    if replies:
        seconds = own.answering(requests, rows=rows, prompt=MAX_LENGTH + new, new=replies)
    return Estimate(seconds=seconds, memory=_reading(shape, own.dtype, rows, 1, place))


def _reading(shape: ModelShape, dtype: str, rows: int, length: int, place: Place) -> Memory:
    """The peak of a model that scores given texts."""
    return asking(shape, dtype, place, scores=Rows(rows, length))
