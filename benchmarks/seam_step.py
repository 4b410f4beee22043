"""One step of SEAM, published and rupert's: seconds, memory, matrix products, and whether the gradients agree."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path

import torch
from matrix_work import Rates
from measuring import in_a_fresh_process
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from seam_ways import EXACT, FEW_LAYERS, HESSIAN_FREE, PUBLISHED, WAYS, Run, Task, find_rates, gradient_files, run_way
from torch import Tensor

from rupert.models.loading import ModelSettings

LOWEST_SPEED_UP = 2.2
LOWEST_SPEED_UP_OF_FEW_LAYERS = 4.0
HIGHEST_SHARE_OF_MEMORY = 0.6
HIGHEST_OVER_MATRIX_RATE = 1.25
REFERENCE = "reference"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A gradient against the published way's in float32."""

    cosine: float
    norm_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One way: what was measured, and what follows from it.

    Attributes:
        run: what its process found.
        seconds: the fastest step.
        matrix_seconds: what its matrix products take at the measured rates, without padding.
        whole: its gradient's fidelity.
        self_destruction: that of ∇L_sd alone.
    """

    run: Run
    seconds: float
    matrix_seconds: float
    whole: Fidelity
    self_destruction: Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the benchmark found; `rates` in operations a second."""

    task: Task
    device: str
    threads: int
    rates: Rates
    results: dict[str, Result]


def main() -> None:
    """Run the benchmark, print its table, and exit with 1 where a target is missed."""
    begun = begin("seam_step", _options())
    arguments = begun.arguments
    task = Task(
        settings=ModelSettings(model=arguments.model, dtype=arguments.dtype, device=arguments.device),
        tokens=tuple(arguments.tokens),
        max_length=arguments.max_length,
        repeats=arguments.repeats,
        check_flops=arguments.check_flops,
    )
    outcome = _measure(task)
    Console().print(_table(outcome))
    rows = [{"way": way, **asdict(result)} for way, result in outcome.results.items()]
    details = {"device": outcome.device, "threads": outcome.threads, "rates": asdict(outcome.rates)}
    raise SystemExit(begun.end(rows, _figures(outcome.results, is_asked=task.has_targets), details))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--model", default="smollm2", help="of Llama's architecture")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="type of the weights")
    parser.add_argument("--device", default="cpu", help="such as cuda; the targets are for float32 on a CPU")
    parser.add_argument(
        "--tokens", type=int, nargs=3, default=(406, 112, 499), help="of the harmful, alignment and benign batch"
    )
    parser.add_argument("--max-length", type=int, default=256, help="what the published way pads to")
    parser.add_argument("--repeats", type=int, default=1, help="timed steps of each way; the fastest counts")
    parser.add_argument("--check-flops", action="store_true", help="also count with PyTorch's counter, a step more")
    return parser


def _measure(task: Task) -> Outcome:
    # Before and after, so that a machine that slows down or speeds up meanwhile is not held against the ways.
    before = in_a_fresh_process(find_rates, task)
    measured = _run_all(task)
    after = in_a_fresh_process(find_rates, task)
    rates = Rates(max(before.layers, after.layers), max(before.head, after.head))
    results = {
        way: Result(
            run=run,
            seconds=min(run.seconds),
            matrix_seconds=rates.seconds(run.work),
            whole=whole,
            self_destruction=self_destruction,
        )
        for way, (run, whole, self_destruction) in measured.items()
    }
    return Outcome(
        task=task,
        device=torch.cuda.get_device_name() if task.on_cuda else "cpu",
        threads=torch.get_num_threads(),
        rates=rates,
        results=results,
    )


def _run_all(task: Task) -> dict[str, tuple[Run, Fidelity, Fidelity]]:
    """Each way's run, and how faithful its gradient and its ∇L_sd are; a way's files go when they are compared."""
    measured = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = PUBLISHED
        if task.settings.dtype != "float32":
            reference = REFERENCE
            precise = replace(task, settings=replace(task.settings, dtype="float32"), repeats=1, check_flops=False)
            in_a_fresh_process(run_way, precise, PUBLISHED, folder, reference)
        for way in WAYS:
            run = in_a_fresh_process(run_way, task, way, folder, way)
            own, theirs = gradient_files(folder, way), gradient_files(folder, reference)
            whole, self_destruction = (_fidelity(*map(load_file, pair)) for pair in zip(own, theirs, strict=True))
            measured[way] = (run, whole, self_destruction)
            if way != reference:
                for file in own:
                    file.unlink()
    return measured


def _fidelity(gradient: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Fidelity:
    def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
        return sum(float(left[name].double().flatten() @ right[name].double().flatten()) for name in reference)

    norm, reference_norm = sqrt(inner(gradient, gradient)), sqrt(inner(reference, reference))
    return Fidelity(inner(gradient, reference) / (norm * reference_norm), norm / reference_norm)


def _figures(results: Mapping[str, Result], *, is_asked: bool) -> tuple[Figure, ...]:
    """Ratios, and whether they are what is asked for where the sizes are those that targets are made for."""
    published, exact, few = (results[way] for way in (PUBLISHED, EXACT, FEW_LAYERS))
    bounds: tuple[dict[str, float], ...] = (
        {"at_least": LOWEST_SPEED_UP},
        {"at_least": LOWEST_SPEED_UP_OF_FEW_LAYERS},
        {"at_most": HIGHEST_SHARE_OF_MEMORY},
        {"at_most": HIGHEST_OVER_MATRIX_RATE},
        {},
    )
    values = (
        ("exact step: times as fast as published", published.seconds / exact.seconds),
        ("exact step, 4 hidden states: times as fast as published", published.seconds / few.seconds),
        ("exact step: peak memory over published", exact.run.memory / published.run.memory),
        ("exact step: seconds over those at the matrix rate", exact.seconds / exact.matrix_seconds),
        ("Hessian-free step: times as fast as published", published.seconds / results[HESSIAN_FREE].seconds),
    )
    return tuple(
        Figure(what=what, value=value, unit="times", **(bound if is_asked else {}))
        for (what, value), bound in zip(values, bounds, strict=True)
    )


def _table(outcome: Outcome) -> Table:
    """One column a way, because there are more numbers than ways."""
    settings, published = outcome.task.settings, outcome.results[PUBLISHED]
    tokens = " + ".join(map(str, outcome.task.tokens))
    table = Table("", title=f"one step of SEAM: {settings.model}, {settings.dtype}, {outcome.device}; {tokens} tokens")
    columns = [_column(result, published, outcome.rates) for result in outcome.results.values()]
    for way in outcome.results:
        table.add_column(way, justify="right")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    table.caption = (
        f"matrix rate, GFLOP/s: layers {outcome.rates.layers / 1e9:.1f}, head {outcome.rates.head / 1e9:.1f}; "
        f"{outcome.threads} threads"
    )
    return table


def _column(result: Result, published: Result, rates: Rates) -> dict[str, str]:
    run, padded_seconds = result.run, rates.seconds(result.run.padded_work)
    counted = run.counted_flops
    return {
        "seconds": f"{result.seconds:.2f}",
        "times as fast": f"{published.seconds / result.seconds:.2f}",
        "tokens a second": f"{run.tokens / result.seconds:.0f}",
        "TFLOP": f"{run.work.total / 1e12:.3f}",
        "seconds at the matrix rate": f"{result.matrix_seconds:.2f}",
        "measured over that": f"{result.seconds / result.matrix_seconds:.2f}",
        "the same with padding": f"{result.seconds / padded_seconds:.2f}",
        "share of the matrix rate": f"{result.matrix_seconds / result.seconds:.0%}",
        "PyTorch's count over ours with padding": f"{counted / run.padded_work.total:.3f}" if counted else "-",
        "peak memory, GiB": f"{run.memory / GIB:.2f}",
        "of the published": f"{run.memory / published.run.memory:.2f}",
        "without the loaded model, GiB": f"{(run.memory - run.memory_before) / GIB:.2f}",
        "held by the allocator, GiB": f"{run.memory_reserved / GIB:.2f}" if run.memory_reserved else "-",
        "gradient: cosine": f"{result.whole.cosine:.5f}",
        "gradient: norm ratio": f"{result.whole.norm_ratio:.4f}",
        "∇L_sd: cosine": f"{result.self_destruction.cosine:.5f}",
        "∇L_sd: norm ratio": f"{result.self_destruction.norm_ratio:.4f}",
    }


if __name__ == "__main__":
    main()
