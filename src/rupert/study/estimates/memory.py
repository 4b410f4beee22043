"""The peak memory of a training and of an evaluation, part by part, from a model's sizes and the settings alone.

A step has phases that hold different things; the peak is that of the largest. Beside what `activations` counts:

- the output head of hardening: logits, their log-softmax and its gradient at once, 3 numbers in float32 for each token
  and word; of `linear_cross_entropy`, one number each, and one more while it is differentiated;
- that of fine-tuning: TRL makes logits in tiles of 4,096 tokens by 32,768 words, and the head's gradient in float32;
- the optimizer's step: PyTorch's AdamW holds, on an accelerator, one more number for each that is trained, because it
  steps all at once; on a CPU, two for the largest parameter alone;
- half-precision copies of the weights that autocast keeps until the backward pass is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import ceil

from rupert.models.generation import BATCH_TOKENS
from rupert.models.shape import ModelShape
from rupert.study.estimates.activations import HALF, SINGLE, Pass, first_order, second_order
from rupert.training.adapters import ALL_LINEAR
from rupert.training.fine_tuning import FineTuningSettings
from rupert.training.objective import Cost
from rupert.training.settings import TrainingSettings

BYTES = {"float32": SINGLE, "bfloat16": HALF, "float16": HALF}
LOGITS = 3  # numbers for each token and word of a cross entropy: logits, log-softmax, gradient
TILE_TOKENS, TILE_WORDS = 4096, 32768  # of TRL's tiles of logits
TILES = 9  # of that size at once, where there is no Triton kernel: on a CPU
# QLoRA (arXiv 2305.14314): 4 bits a weight and 0.127 for the scales of blocks.
QUANTIZED_BITS, QUANTIZED_OF = 4127, 1000
UNEVEN = 1.1  # layers are divided whole, and embedding and head make some devices' part larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: the model's.
        gradients: `p.grad`, and what is on the way to it.
        optimizer: its states, and what its step takes for the time.
        activations: what forward passes leave for backward passes; in an evaluation keys and values.
        logits: of the output head.
        second_order: graphs of gradients that are differentiated once more.
        copies: gradients and weights that a defense holds beside these.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    second_order: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a stage runs on.

    Attributes:
        is_gpu: whether the optimizer steps all parameters at once, and kernels make logits in tiles.
        shards: devices that weights, gradients and optimizer states are divided over.
        split: devices that the layers of one process are divided over.
    """

    is_gpu: bool
    shards: int = 1
    split: int = 1

    def part(self, size: int) -> int:
        """What one device has of something that is divided by layers."""
        return size if self.split == 1 else min(size, ceil(size * UNEVEN / self.split))


def trained_parameters(settings: TrainingSettings, shape: ModelShape) -> int:
    """Elements of what a training changes: all weights, those of some layers, or an adapter's."""
    chosen = chosen_numbers(settings, shape)
    if not settings.lora:
        return shape.parameters if settings.chosen_layers is None else len(chosen) * shape.layer_parameters
    targets = settings.lora_target_modules
    reached = [
        one for one in shape.maps if ALL_LINEAR in targets or any(f".{one.name}".endswith(f".{t}") for t in targets)
    ]
    magnitudes = sum(one.outputs for one in reached) if _is_dora(settings) else 0
    return len(chosen) * (settings.lora_r * sum(one.inputs + one.outputs for one in reached) + magnitudes)


def chosen_numbers(settings: TrainingSettings, shape: ModelShape) -> set[int]:
    """The layers that are trained or get an adapter, counted from 0."""
    if settings.chosen_layers is None:
        return set(range(shape.layers))
    return {number % shape.layers for number in settings.chosen_layers}


def optimizer_numbers(settings: TrainingSettings, shape: ModelShape) -> int:
    """Numbers that the optimizer holds for all that is trained; AdamW's are those of Muon's embedding and head, too."""
    trained = trained_parameters(settings, shape)
    tables = 0
    if settings.optim == "muon" and not settings.lora and settings.chosen_layers is None:
        tables = shape.parameters - shape.layers * shape.layer_parameters
    return OPTIMIZER_STATES[settings.optim] * (trained - tables) + OPTIMIZER_STATES["adamw_torch"] * tables


def _is_dora(settings: TrainingSettings) -> bool:
    return isinstance(settings, FineTuningSettings) and settings.use_dora


def _is_in_4bit(settings: TrainingSettings) -> bool:
    return isinstance(settings, FineTuningSettings) and settings.load_in_4bit


class TrainingMemory:
    """The phases of a training step, for one model, settings, type of weights and place."""

    def __init__(self, settings: TrainingSettings, shape: ModelShape, dtype: str, place: Place) -> None:
        self._settings, self._shape, self._place = settings, shape, place
        self._weight = BYTES[dtype]
        self._number = SINGLE if settings.lora else self._weight  # bytes of one that is trained
        self._trained = trained_parameters(settings, shape)
        # FSDP2 and ZeRO-3 gather the layer at work and the next one; embedding and head are whole throughout a pass.
        whole = 0 if place.shards == 1 else shape.parameters - (shape.layers - 2) * shape.layer_parameters
        self._gathered = min(whole, shape.parameters)

    def fine_tuning(self) -> Memory:
        """TRL's SFTTrainer: forward and backward, the end of the backward pass, the optimizer's step."""
        one = self._pass()
        is_whole = self._settings.gradient_accumulation_steps > 1
        begins = self._held(
            gradients=self._gradient() if is_whole else 0,
            activations=self._activations(one),
            logits=self._tiles(one),
        )
        if _is_in_4bit(self._settings):  # the model itself lies there before, unless it is loaded to the CPU
            return self._largest(begins, Memory(weights=self._place.part(self._shape.parameters * self._weight)))
        return self._largest(begins)

    def _activations(self, one: Pass) -> int:
        """What layers leave from the first that is trained on; DoRA's leave what each map gives, twice."""
        held, shape = first_order(self._shape, one), self._shape
        if _is_dora(self._settings):
            held += 2 * one.tokens * shape.layers * sum(each.outputs for each in shape.maps) * one.computed
        first = min(chosen_numbers(self._settings, shape))
        return held * (shape.layers - first) // shape.layers

    def hardening(self, cost: Cost, streams: Mapping[str, int]) -> Memory:
        """The one hardening loop, with what a gradient rule says that it holds; `streams` are its rows a step."""
        rows = min(self._settings.per_device_train_batch_size, max(streams.values()))
        one = replace(self._pass(), rows=rows)
        copies = self._copies(cost)
        is_single = len(streams) == 1 and cost.passes <= rows
        # The gradient grows as the graph of a single pass goes; of its largest part it has none of both.
        gradient = self._head_gradient() if is_single else self._gradient()
        padded = self._held(
            gradients=gradient,
            activations=self._activations(one),
            logits=self._cross_entropy(one),
            copies=0 if cost.compact else copies,
        )
        phases = [padded]
        if cost.compact:
            phases.append(self._compact(cost, copies))
        if cost.graphs:
            phases += [self._twice(cost, copies), self._halfway(cost, copies)]
        return self._largest(*phases)

    def _compact(self, cost: Cost, copies: int) -> Memory:
        """A pass without padding, whose loss keeps a number for each answer's token and word; all copies are there."""
        weight = SINGLE if cost.precise else self._weight
        one = replace(self._pass(), packed=True, weights=weight)
        words = one.tokens * self._shape.vocabulary * SINGLE
        # Hidden states are kept for the unlearning loss; float32 ones are those that the norms keep anyway.
        states = one.tokens * self._shape.layers * self._shape.width * (0 if weight == SINGLE else weight)
        return self._held(
            gradients=self._gradient(cost),
            activations=first_order(self._shape, one) + states,
            logits=2 * words,  # that number, and logits at work
            copies=copies,
        )

    def _twice(self, cost: Cost, copies: int) -> Memory:
        """The double backward pass: every graph with its matrix of the logits' size, and two more of that size."""
        one = replace(self._pass(), packed=True)
        words = one.tokens * self._shape.vocabulary * self._weight
        return self._held(
            gradients=self._gradient() + 2 * self._head_gradient(),
            logits=(cost.graphs + 2) * words,
            second_order=cost.graphs * second_order(self._shape, one),
            copies=copies,
        )

    def _halfway(self, cost: Cost, copies: int) -> Memory:
        """The middle of a double backward pass: what the first backward pass left is gone.

        Of each weight one of two parts of its gradient is there, and waits for the one of the forward pass; so do the
        gradients of all that the forward pass left.
        """
        one = replace(self._pass(), packed=True)
        words = one.tokens * self._shape.vocabulary * self._weight
        others = (cost.graphs - 1) * second_order(self._shape, one)
        return self._held(
            gradients=2 * self._gradient() + 2 * self._head_gradient(),
            logits=cost.graphs * words,
            second_order=others + 2 * first_order(self._shape, one),
            copies=copies,
        )

    def _largest(self, *phases: Memory) -> Memory:
        # An embedding's gradient is dense, and where it is the head's matrix too it is made beside that one's.
        end = self._held(gradients=self._gradient() + (self._head_gradient() if self._shape.tied else 0))
        step = self._held(gradients=self._gradient(), stepping=self._stepping())
        return max((*phases, end, step), key=lambda memory: memory.total)

    def _held(
        self,
        *,
        gradients: int,
        activations: int = 0,
        logits: int = 0,
        second_order: int = 0,
        copies: int = 0,
        stepping: int = 0,
    ) -> Memory:
        """A phase; weights and the optimizer's states are there in each."""
        part, settings = self._place.part, self._settings
        weights = self._model() // self._place.shards + self._gathered * self._weight
        if settings.lora:
            weights += self._trained * SINGLE
        if settings.bf16 and self._weight == SINGLE and (activations or second_order):
            weights += HALF * (self._shape.matrices + self._shape.head) // self._place.shards
        return Memory(
            weights=part(weights),
            gradients=part(gradients),
            optimizer=part(self._states() + stepping),
            activations=part(activations),
            logits=logits,
            second_order=part(second_order),
            copies=part(copies),
        )

    def _model(self) -> int:
        """Bytes of the weights; in 4 bits the matrices of the layers, and the others in float32."""
        if not _is_in_4bit(self._settings):
            return self._shape.parameters * self._weight
        matrices = self._shape.matrices
        return matrices * QUANTIZED_BITS // (8 * QUANTIZED_OF) + (self._shape.parameters - matrices) * SINGLE

    def _pass(self) -> Pass:
        settings = self._settings
        return Pass(
            rows=settings.per_device_train_batch_size,
            length=self._length,
            weights=self._weight,
            autocast=settings.bf16 and self._weight == SINGLE,
            adapter=settings.lora,
            checkpointing=settings.gradient_checkpointing,
        )

    @property
    def _length(self) -> int:
        return min(self._settings.max_length, self._shape.positions or self._settings.max_length)

    def _gradient(self, cost: Cost | None = None) -> int:
        number = SINGLE if cost and cost.precise else self._number
        gathered = 0 if self._settings.lora else self._gathered
        return self._trained * number // self._place.shards + gathered * number

    def _head_gradient(self) -> int:
        return 0 if self._settings.lora else self._shape.head * self._number

    def _copies(self, cost: Cost) -> int:
        number = SINGLE if cost.precise else self._number
        sets = cost.gradients + cost.weights + cost.states
        precise = self._shape.parameters * SINGLE if cost.precise and self._weight == HALF else 0
        return (sets * self._trained * number + precise) // self._place.shards

    def _states(self) -> int:
        return optimizer_numbers(self._settings, self._shape) * self._number // self._place.shards

    def _stepping(self) -> int:
        if self._settings.optim == "sgd":
            return 0
        if self._settings.optim == "adamw_torch" and self._place.is_gpu:
            return self._trained * self._number // self._place.shards
        largest = 0 if self._settings.lora else self._shape.largest // self._place.shards
        return 2 * largest * (self._number if self._settings.optim == "adamw_torch" else SINGLE)

    def _cross_entropy(self, one: Pass) -> int:
        return LOGITS * SINGLE * one.tokens * self._shape.vocabulary

    def _tiles(self, one: Pass) -> int:
        """TRL's: logits in tiles, and the gradient of head and hidden states in float32."""
        tile = min(one.tokens, TILE_TOKENS) * min(self._shape.vocabulary, TILE_WORDS)
        head = 0 if self._settings.lora else self._shape.head * SINGLE
        size = one.computed if self._place.is_gpu else TILES * SINGLE
        return tile * size + head + one.tokens * self._shape.width * SINGLE


# Numbers for each that is trained. Adafactor keeps one a row and one a column of each matrix: next to none.
OPTIMIZER_STATES = {"adamw_torch": 2, "sgd": 0, "adafactor": 0, "lion": 1, "muon": 1}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a model is asked at once.

    Attributes:
        count: how many; 0 for none.
        length: tokens of each.
        new: tokens of each one's answer; 0 where none is made.
    """

    count: int
    length: int
    new: int = 0


NO_ROWS = Rows(0, 0)


def asking(
    shape: ModelShape,
    dtype: str,
    place: Place,
    *,
    answers: Rows = NO_ROWS,
    scores: Rows = NO_ROWS,
    choices: Rows = NO_ROWS,
) -> Memory:
    """Answers, log-probabilities and tasks of lm-eval, whichever takes the most.

    Args:
        shape: of the model.
        dtype: of its weights.
        place: what it runs on.
        answers: requests that are answered.
        scores: rows whose log-probability is measured.
        choices: tasks' questions, each with a choice.
    """
    size = BYTES[dtype]
    weights = place.part(shape.parameters * size)
    words = shape.vocabulary * size
    whole = max(1, answers.length + answers.new)
    answered = min(answers.count, max(1, BATCH_TOKENS // whole))
    cache = place.part(2 * shape.layers * shape.keys * size * answered * whole)
    # In the forward pass over the prompts each layer's MLP is at work, and its half-made tensors go at once.
    working = answered * answers.length * size * (4 * shape.width + 3 * shape.inner)

    def hidden(rows: Rows) -> int:
        return rows.count * rows.length * shape.width * size

    # The logits of all, and one row's made float32 with their log-softmax; lm-eval makes that of all at once.
    one_row = scores.length * shape.vocabulary * 2 * SINGLE if scores.count else 0
    phases = (
        Memory(weights=weights, activations=cache + working, logits=answered * words),
        Memory(weights=weights, activations=hidden(scores), logits=scores.count * scores.length * words + one_row),
        Memory(weights=weights, activations=hidden(choices), logits=2 * choices.count * choices.length * words),
    )
    return max(phases, key=lambda memory: memory.total)
