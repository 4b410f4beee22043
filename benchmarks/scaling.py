"""What a training step costs as model and rows grow: seconds and peak memory against 6 N operations a token.

    OMP_NUM_THREADS=2 python benchmarks/scaling.py

Fine-tuning, as `rupert attack fine_tune` does it, and SDD's hardening step, all weights in float32, on rows that fill
their length. The model of 1 M parameters is Potionworld's, that of 10 M a Llama with random weights, that of 135 M
SmolLM2; the first two are written with more positions than Potionworld has. Each case runs in a process of its own,
after a few steps of the same code on Potionworld's model, and measures the rate of the very matrix products there.

6 N operations a token leave out attention, whose work grows with a row's length, and count the embedding of a model
whose output head is another matrix. Here all three have one matrix for both, so that N is what a token is multiplied
by; "counted" adds attention, as the estimates behind `rupert plan` do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matrix_work import Rates, Size, measure_rates
from measuring import forget, held, in_a_fresh_process, peak, reset_peak
from memory import predict
from memory_cases import WARM_UP, Case, train
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from rupert.data.examples import Example
from rupert.models.loading import ModelSettings, load
from rupert.models.saving import save
from rupert.models.shape import ModelShape, shape_of
from rupert.models.threads import fitting_threads

MIB, MILLION, WIDTH = 2**20, 10**6, 140
OPERATIONS = 6  # a parameter and token: two forward, four backward
MODELS = ("1M", "10M", "135M")
LENGTHS = (64, 128, 256, 512)
METHODS = ("attack", "sdd")
TEN_MILLION = {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 8, "num_attention_heads": 10}
# A step of a small model is over in a moment: more of them are timed.
TIMES_AS_MANY = {"1M": 8, "10M": 2, "135M": 1}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case's process found: seconds of each timed step, bytes at the peak, and the rates of its products."""

    seconds: tuple[float, ...]
    memory: int
    rates: Rates
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case.

    Attributes:
        model: of `MODELS`.
        method: of `METHODS`.
        length: tokens of each row.
        tokens: of a step.
        parameters: of the model.
        seconds: of a step, the median.
        operations: 6 N a token.
        counted: operations with attention, and the output head at every position.
        attention: its share of these.
        head: the output head's.
        rate: operations a second of the layers' matrix products.
        share: of that rate which 6 N operations a token come to.
        memory: bytes at the peak, above what the process held before the model was loaded.
        predicted_memory: by `rupert.study.estimates`.
        predicted_seconds: likewise, of a step.
        threads: that it computed with.
    """

    model: str
    method: str
    length: int
    tokens: int
    parameters: int
    seconds: float
    operations: float
    counted: float
    attention: float
    head: float
    rate: float
    share: float
    memory: int
    predicted_memory: int
    predicted_seconds: float
    threads: int


class StepClock(TrainerCallback):
    """Notes when each optimizer step is done."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by Transformers."""
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> tuple[float, ...]:
        """From each step's end to that of the next, reading its rows included."""
        return tuple(later - earlier for earlier, later in zip(self.ends, self.ends[1:], strict=False))


def measure(case: Case, model: str, steps: int) -> Measured:
    """Train so many steps, of which all but the first are timed."""
    tiny = Case(name="", kind=case.kind, rows=1, length=32, settings=case.settings)
    train(tiny, load(ModelSettings(model=WARM_UP)), filled(4, 32))
    forget()
    before = held("cpu")
    loaded, clock = load(ModelSettings(model=model)), StepClock()
    forget()  # of what loading took
    reset_peak("cpu")
    train(case, loaded, filled(steps * case.rows, case.length), steps, (clock,))
    most = peak("cpu") - before
    tokens = case.rows * case.length
    with fitting_threads(loaded.model):
        rates = measure_rates(Size.of(loaded.model.config), tokens, tokens, torch.ones(1))
        return Measured(clock.seconds, most, rates, torch.get_num_threads())


def filled(count: int, length: int) -> Sequence[Example]:
    """Rows that are all longer than what is read of them, nearly all of it answer."""
    return [Example(f"Count on from {number}.", "one two three " * length) for number in range(count)]


def models(folder: Path, longest: int) -> dict[str, str]:
    """Where each model is; the small ones are written with positions enough."""
    potionworld = load(ModelSettings(model="potionworld"))
    settings = potionworld.model.config.to_dict() | {"max_position_embeddings": longest}
    torch.manual_seed(0)
    for name, sizes in (("1M", {}), ("10M", TEN_MILLION | {"num_key_value_heads": None})):
        config = LlamaConfig(**{**settings, **sizes})
        made = LlamaForCausalLM(config)
        if not sizes:
            made.load_state_dict(potionworld.model.state_dict())
        (folder / name).mkdir()
        save(made, potionworld.tokenizer, folder / name)
    return {"1M": str(folder / "1M"), "10M": str(folder / "10M"), "135M": "smollm2"}


def row_of(case: Case, name: str, folder: str, found: Measured) -> Row:
    """What follows from a measurement, beside what is predicted."""
    shape, tokens = shape_of(folder), case.rows * case.length
    predicted, steps = predict(case, folder), case.method().max_steps
    matrices, head, attention = operations(shape, case.length)
    done, seconds = OPERATIONS * shape.parameters * tokens, median(found.seconds)
    counted = matrices + head + attention
    return Row(
        model=name,
        method=case.name,
        length=case.length,
        tokens=tokens,
        parameters=shape.parameters,
        seconds=seconds,
        operations=done,
        counted=counted * tokens,
        attention=attention / counted,
        head=head / counted,
        rate=found.rates.layers,
        share=done / seconds / found.rates.layers,
        memory=found.memory,
        predicted_memory=predicted.memory.total,
        predicted_seconds=predicted.seconds / steps,
        threads=found.threads,
    )


def operations(shape: ModelShape, length: int) -> tuple[float, float, float]:
    """Of a token's forward and backward pass: in the layers' matrices, in the output head, in attention."""
    attention = 3 * 4 * length * shape.queries * shape.layers
    return OPERATIONS * shape.matrices, OPERATIONS * shape.head, attention


def main() -> int:
    """Run the cases, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="tokens of a row")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tokens", type=int, default=1024, help="of a step: so many rows as come to that")
    parser.add_argument("--repeats", type=int, default=4, help="timed steps of 135 M parameters; more of fewer")
    begun = begin("scaling", parser)
    arguments, rows = begun.arguments, []
    with tempfile.TemporaryDirectory() as folder:
        places = models(Path(folder), max(arguments.lengths))
        for name, method, length in _cases(arguments):
            settings = {"pairs": "pairs"} if method == "sdd" else {}
            case = Case(
                name=method, kind=method, rows=max(1, arguments.tokens // length), length=length, settings=settings
            )
            steps = 1 + arguments.repeats * TIMES_AS_MANY[name]
            rows.append(row_of(case, name, places[name], in_a_fresh_process(measure, case, places[name], steps)))
    Console(width=WIDTH).print(_table(rows))
    return begun.end(rows, _figures(rows))


def _cases(arguments: Any) -> list[tuple[str, str, int]]:
    return [(n, m, length) for n in arguments.models for m in arguments.methods for length in arguments.lengths]


def _figures(rows: Sequence[Row]) -> list[Figure]:
    """What growing costs: of each model the share of the rate at the shortest and the longest rows."""
    attacks: Mapping[str, list[Row]] = {name: [row for row in rows if row.model == name] for name in MODELS}
    return [
        Figure(
            what=f"{one.method}, {name}, rows of {one.length}: 6 N a token over the measured matrix rate",
            value=100 * one.share,
            unit="%",
        )
        for name, found in attacks.items()
        for one in found
        if one.length in (min(row.length for row in found), max(row.length for row in found))
    ]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="one training step, all weights, float32")
    headings = ("parameters", "method", "row", "tokens", "s", "predicted", "of the matrix rate", "counted over 6 N")
    for heading in (*headings, "attention", "head", "peak, MiB", "predicted"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.parameters / MILLION:.1f} M",
        row.method,
        str(row.length),
        str(row.tokens),
        f"{row.seconds:.3f}",
        f"{row.predicted_seconds:.3f}",
        f"{row.share:.0%}",
        f"{row.counted / row.operations:.2f}",
        f"{row.attention:.0%}",
        f"{row.head:.0%}",
        f"{row.memory / MIB:,.0f}",
        f"{row.predicted_memory / MIB:,.0f}",
    )


if __name__ == "__main__":
    raise SystemExit(main())
