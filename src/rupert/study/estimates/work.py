"""How long a training and an evaluation take: operations over the device's rate, times an efficiency.

A token goes forward through N weights in 2 N operations, backward in twice as many, and through a double backward in
six times as many: each of the two products of a backward pass is differentiated by both its factors, and then the
forward's. Attention multiplies each token with all of its row, twice. The output head counts with its layers, as if
every token were an answer's. Rows count as if each were `max_length` long: a plan says "at most".

Making answers is another matter: for each token all weights and the keys and values of the batch are read once, so that
bandwidth decides, and on a small model the time that Python takes to call each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rupert.models.shape import ModelShape
from rupert.study.estimates.hardware import Hardware
from rupert.study.estimates.memory import BYTES, chosen_numbers
from rupert.training.fine_tuning import FineTuningSettings
from rupert.training.objective import Cost
from rupert.training.settings import TrainingSettings

FORWARD, BACKWARD, DOUBLE_BACKWARD = 1, 2, 6
FROZEN_BACKWARD = 1  # with an adapter only what the next layer needs: no product for a weight's gradient
# Assumed shares of a device's rate. On two cores SmolLM2 was measured at 0.6 (SEAM's exact step) to 0.8 of the matrix
# rate, see docs/log.md; 0.4 is usual for dense models of a few billion parameters on GPUs, and was not measured here.
CPU_EFFICIENCY, GPU_EFFICIENCY = 0.6, 0.4
READING_EFFICIENCY = 0.5  # of the memory's bandwidth, while answers are made
LAYER_SECONDS = 4e-4  # that Python takes to call one layer: 3.9e-4 on a CPU, for a layer with next to no work


def efficiency(hardware: Hardware) -> float:
    """The share of the rate of matrix products that a training is assumed to reach."""
    return GPU_EFFICIENCY if hardware.is_gpu else CPU_EFFICIENCY


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A model on a device.

    Attributes:
        shape: of the model.
        hardware: the device.
        dtype: of the weights.
    """

    shape: ModelShape
    hardware: Hardware
    dtype: str

    def fine_tuning(self, settings: FineTuningSettings, examples: int, processes: int = 1) -> float:
        """Seconds of TRL's SFTTrainer over `examples` rows."""
        return self.steps(settings, examples, processes) * self._step(settings, Cost(passes=settings.batch_size))

    def steps(self, settings: FineTuningSettings, examples: int, processes: int = 1) -> int:
        """Optimizer steps of that."""
        if settings.max_steps > 0:
            return settings.max_steps
        return ceil(examples / (settings.batch_size * processes) * settings.num_train_epochs)

    def hardening(self, settings: TrainingSettings, steps: int, cost: Cost) -> float:
        """Seconds of so many steps of a gradient rule."""
        return steps * self._step(settings, cost)

    def reading(self, rows: int, length: int) -> float:
        """Seconds of a forward pass over so many rows, in batches."""
        return rows * length * self._forward(length) / self._rate(self.dtype)

    def answering(self, requests: int, *, rows: int, prompt: int, new: int) -> float:
        """Seconds of answers of `new` tokens each, so many rows at once."""
        rows = min(rows, requests)
        cache = 2 * self.shape.layers * self.shape.keys * BYTES[self.dtype] * rows * (prompt + new)
        read = (self.shape.parameters * BYTES[self.dtype] + cache) / (self.hardware.bandwidth * READING_EFFICIENCY)
        computed = rows * self._forward(prompt + new) / self._rate(self.dtype)
        step = max(read, computed) + self.shape.layers * LAYER_SECONDS
        return self.reading(requests, prompt) + ceil(requests / rows) * new * step

    def _step(self, settings: TrainingSettings, cost: Cost) -> float:
        length = min(settings.max_length, self.shape.positions or settings.max_length)
        backward = self._backward(settings)
        again = FORWARD if settings.gradient_checkpointing else 0
        passes = cost.passes * (FORWARD + backward + again) + cost.backwards * backward
        passes += cost.products * DOUBLE_BACKWARD
        states = self.shape.layers if cost.head_states is None else cost.head_states
        heads = cost.head_rows * states * (FORWARD + BACKWARD) * 2 * self.shape.head
        operations = length * (passes * self._forward(length) + heads)
        is_half = not cost.precise and (settings.bf16 or BYTES[self.dtype] == BYTES["bfloat16"])
        return operations / self._rate("bfloat16" if is_half else "float32")

    def _backward(self, settings: TrainingSettings) -> float:
        """Of a backward pass in forward passes: down to the first layer that is trained, and no further."""
        if settings.chosen_layers is None:
            return FROZEN_BACKWARD if settings.lora else BACKWARD
        chosen = chosen_numbers(settings, self.shape)
        down = (self.shape.layers - min(chosen)) / self.shape.layers * FROZEN_BACKWARD
        weights = 0 if settings.lora else len(chosen) / self.shape.layers * (BACKWARD - FROZEN_BACKWARD)
        return down + weights

    def _forward(self, length: int) -> float:
        """Operations of one token in a row of `length`."""
        attention = 4 * length * self.shape.queries * self.shape.layers
        return 2 * (self.shape.matrices + self.shape.head) + attention

    def _rate(self, dtype: str) -> float:
        hardware = self.hardware
        return efficiency(hardware) * (hardware.single if dtype == "float32" else hardware.half)
