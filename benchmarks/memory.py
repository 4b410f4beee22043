"""Peak memory of stages: what `rupert plan` predicts, and what is measured, each in a fresh process."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass

from measuring import in_a_fresh_process
from memory_cases import ALLOCATION, Case, measure
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table

from rupert.attacks import FineTune
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.models.shape import shape_of
from rupert.study.definition.graph import graph
from rupert.study.definition.study import Study
from rupert.study.estimates import Estimate, Setup, device, estimate
from rupert.study.estimates.memory import Memory

TOLERANCE = 0.25
MIB = 2**20
FEW = {"unlearning_layers": 2}  # of SEAM's heads, which take time and no memory that lasts
ONE = {"unlearning_layers": 1}
DIFFERENCES = {**FEW, "gradient": "hessian_free"}
SOME = {"limit": 8, "max_new_tokens": 8}
CASES = (
    Case(name="attack, AdamW", kind="attack", rows=2, length=64),
    Case(name="attack, AdamW", kind="attack", rows=4, length=128),
    Case(name="attack, LoRA", kind="attack", rows=2, length=64, settings={"lora": True}),
    Case(name="attack, LoRA", kind="attack", rows=4, length=128, settings={"lora": True}),
    Case(name="SDD", kind="sdd", rows=2, length=64, settings={"pairs": "pairs"}),
    Case(name="SDD", kind="sdd", rows=4, length=128, settings={"pairs": "pairs"}),
    Case(name="SEAM, exact", kind="seam", rows=1, length=64, settings=FEW),
    Case(name="SEAM, exact", kind="seam", rows=2, length=64, settings=FEW),
    Case(name="SEAM, hessian_free", kind="seam", rows=1, length=64, settings=DIFFERENCES),
    Case(name="SEAM, hessian_free", kind="seam", rows=2, length=96, settings=DIFFERENCES),
    Case(name="attack, bfloat16 weights", kind="attack", rows=2, length=64, dtype="bfloat16"),
    Case(name="SEAM, exact, bfloat16 weights", kind="seam", rows=1, length=64, settings=ONE, dtype="bfloat16"),
    Case(name="evaluation", kind="evaluate", rows=8, length=128, settings=SOME),
    Case(name="evaluation", kind="evaluate", rows=16, length=256, settings=SOME),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case: peaks in bytes, and how long it took to measure."""

    case: Case
    predicted: Memory
    measured: int
    seconds: float

    @property
    def ratio(self) -> float:
        """What was predicted over what was measured."""
        return self.predicted.total / self.measured


def main() -> None:
    """Run the cases, print the table, and exit with 1 where a prediction is out by more than it may be."""
    parser = options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--smallest", action="store_true", help="of the cases of one name only the first")
    begun = begin("memory", parser)
    arguments = begun.arguments
    os.environ |= ALLOCATION  # read by the C library when a process begins
    cases = [case for case in CASES if case.name.startswith(arguments.only)]
    if not cases:
        parser.error(
            f"--only: no case begins with {arguments.only!r}; there are {', '.join(sorted({c.name for c in CASES}))}"
        )
    if arguments.smallest:
        cases = list({case.name: case for case in reversed(cases)}.values())[::-1]
    results = []
    for case in cases:
        results.append(_result(case, arguments.model, arguments.device))
        print(f"{case.name} {case.rows} x {case.length}: {results[-1].ratio:.2f}", file=sys.stderr)
    Console().print(_table(results, arguments.model, arguments.device))
    rows = [{**asdict(result), "ratio": result.ratio} for result in results]
    worst = max(abs(result.ratio - 1) for result in results)
    what = f"predicted peaks of {len(results)} stages: largest error"
    raise SystemExit(begun.end(rows, [Figure(what=what, value=100 * worst, unit="%", at_most=100 * TOLERANCE)]))


def _result(case: Case, model: str, where: str) -> Result:
    started = time.perf_counter()
    measured = in_a_fresh_process(measure, case, model, where)
    predicted = predict(case, model).memory
    return Result(case=case, predicted=predicted, measured=measured, seconds=time.perf_counter() - started)


def predict(case: Case, model: str) -> Estimate:
    """What `rupert plan` says of the stage, on this machine."""
    method = case.method()
    study = Study(
        name="memory",
        model=ModelSettings(model=model, dtype=case.dtype),
        seeds=(0,),
        defenses={"none": None} if case.kind in ("attack", "evaluate") else {"defense": method},
        attacks={"attack": method} if isinstance(method, FineTune) else {},
        evaluation=method if isinstance(method, Evaluation) else Evaluation(),
    )
    kind = case.kind if case.kind in ("attack", "evaluate") else "defend"
    node = next(node for node in graph(study).nodes if node.kind == kind)
    return estimate(node, study, shape_of(model), Setup(hardware=device("")))


def _table(results: list[Result], model: str, where: str) -> Table:
    table = Table(title=f"peak memory in MiB: {model}, {where}")
    for name in ("case", "rows", "tokens", "predicted", "measured", "ratio", "seconds"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for result in results:
        table.add_row(
            result.case.name,
            str(result.case.rows),
            str(result.case.length),
            f"{result.predicted.total / MIB:,.0f}",
            f"{result.measured / MIB:,.0f}",
            f"{result.ratio:.2f}",
            f"{result.seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
