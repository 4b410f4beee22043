"""Writes docs/performance.md: what stands below `MARK` is made from docs/results/benchmarks/ and from `rupert plan`.

`python benchmarks/page.py` writes it anew, and `--check` exits with 1 where it is not what it would write.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from catalogue import BENCHMARKS, FOLDER

from rupert.study.definition.reading import read_study
from rupert.study.estimates import DEVICES, Plan, Setup, plan

DOCS = FOLDER.parent / "docs"
PAGE = DOCS / "performance.md"
RESULTS = DOCS / "results" / "benchmarks"
MARK = "<!-- Below: written by benchmarks/page.py from docs/results/benchmarks/. -->"
VERSIONS = ("python", "rupert", "torch", "transformers", "trl", "peft", "accelerate")
GB, MIB, MILLION, HOUR = 10**9, 2**20, 10**6, 3600

LARGE = FOLDER / "large_models.yaml"
BACKBONES = {"7 B": "meta-llama/Llama-2-7b-chat-hf", "70 B": "meta-llama/Llama-2-70b-chat-hf"}
HARDWARE = ("A100-80GB", "H100-80GB", "H200")
ALONE, SHARDED, SPLIT, PRECISE = "one device", "FSDP2", "layers divided", "FSDP2, float32"
WAYS: Mapping[str, tuple[Sequence[str], str]] = {  # words on the command line of `rupert plan`, and --sharding
    ALONE: ((), "none"),
    SHARDED: ((), "fsdp2"),
    SPLIT: (("model.device=auto",), "none"),
    PRECISE: (("model.dtype=float32",), "fsdp2"),
}
STAGES = {  # label in `LARGE` -> what it is called, and how several devices can share it
    "sdd": ("SDD, 500 steps of 24 rows of 512", SHARDED),
    "seam-exact": ("SEAM, exact, 2,000 steps of 8 rows of 256", SPLIT),
    "seam-hessian_free": ("SEAM, hessian_free, the same", PRECISE),
    "seam-lora": ("SEAM, exact, LoRA, the same", SPLIT),
    "attack-full": ("attack, all weights, 125 steps of 8 rows of 256", SHARDED),
    "attack-lora": ("attack, LoRA, the same", SHARDED),
}


def cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What, the number with its unit, the target, and whether it is met."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    target = "" if figure["target"] is None else f"{figure['bound']} {figure['target']:g}"
    met = {None: "", True: "met", False: "MISSED"}[figure["met"]]
    return figure["what"], f"{number(figure['value'])}{unit}", target, met


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return (
        f"{value:,.0f}"
        if abs(value) >= 100 or value == int(value)
        else f"{value:.3g}"
        if abs(value) >= 1e-3
        else "0.000"
    )


def keep(files: Iterable[Path]) -> None:
    """Put results where the page is made from, and write it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, RESULTS / file.name)
    PAGE.write_text(text(PAGE, RESULTS), encoding="utf-8")


def text(page: Path, results: Path) -> str:
    """The page as it ought to be; what stands above the mark is written by hand, and kept."""
    by_hand = page.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    ordered = {one.name: found[one.name] for one in BENCHMARKS if one.name in found}
    parts = [by_hand, MARK, _where(ordered), _all(ordered), _growth(ordered.get("scaling")), _large()]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown whose first columns are words, and the others numbers."""
    sides = ["---" if index < left else "---:" for index in range(len(headings))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, sides, *rows))


def _where(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Machines, versions and days, those of like benchmarks once."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, result in found.items():
        machine, versions = result["machine"], result["environment"]
        here = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {machine['system']}"
        made = ", ".join(f"{package} {versions[package]}" for package in VERSIONS)
        groups.setdefault((here, made, result["date"]), []).append(name)
    rows = [[", ".join(names), *group] for group, names in groups.items()]
    missing = [one.name for one in BENCHMARKS if one.name not in found]
    note = f"\n\nNot measured: {', '.join(missing)}." if missing else ""
    return f"## Where it was measured\n\n{table(('benchmarks', 'machine', 'versions', 'day'), rows, left=4)}{note}"


def _all(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for one in BENCHMARKS:
        result = found.get(one.name)
        for index, figure in enumerate(result["figures"] if result else ()):
            took = f"{result['seconds']:.0f} s" if result else ""
            opening = (
                (one.name, result["identity"]["size"], str(one.threads), took) if index == 0 and result else ("",) * 4
            )
            rows.append((*opening, *cells(figure)))
    headings = ("benchmark", "size", "threads", "took", "what", "figure", "target", "met")
    return f"## All benchmarks\n\n{table(headings, rows, left=8)}"


def _growth(scaling: Mapping[str, Any] | None) -> str:
    """The table of scaling.py."""
    if scaling is None:
        return ""
    headings = ("parameters", "step of", "tokens of a row", "tokens", "s", "predicted", "6 N over the matrix rate")
    headings += ("counted over 6 N", "attention", "head", "peak, MiB", "predicted", "threads")
    rows = [
        (
            f"{row['parameters'] / MILLION:.1f} M",
            {"attack": "an attack", "sdd": "SDD"}[row["method"]],
            str(row["length"]),
            f"{row['tokens']:,}",
            f"{row['seconds']:.3g}",
            f"{row['predicted_seconds']:.3g}",
            f"{row['share']:.0%}",
            f"{row['counted'] / row['operations']:.2f}",
            f"{row['attention']:.0%}",
            f"{row['head']:.0%}",
            f"{row['memory'] / MIB:,.0f}",
            f"{row['predicted_memory'] / MIB:,.0f}",
            str(row["threads"]),
        )
        for row in scaling["rows"]
    ]
    return f"## As model and rows grow\n\n{table(headings, rows, left=2)}"


def _large() -> str:
    """What `rupert plan benchmarks/large_models.yaml` says; nothing of it was run."""
    rows = [
        (size, str(gpus), STAGES[label][0], way, *_cells_of(label, name, gpus, way))
        for size, name in BACKBONES.items()
        for gpus in (1, 8)
        for label in STAGES
        for way in [ALONE if gpus == 1 else STAGES[label][1]]
    ]
    headings = ("model", "GPUs", "stage", "how", "memory a GPU", *HARDWARE)
    return f"## Predicted, not run: 7 B and 70 B parameters\n\n{table(headings, rows, left=4)}"


def _cells_of(label: str, model: str, gpus: int, way: str) -> list[str]:
    plans = [_planned(model, gpus, way, device) for device in HARDWARE]
    lines = [next(line for line in one.lines if line.label == label) for one in plans]
    times = [_duration(line.estimate.seconds) if line.fits else "too big" for line in lines]
    return [f"{lines[0].estimate.memory.total / GB:,.0f} GB", *times]


@cache
def _planned(model: str, gpus: int, way: str, device: str) -> Plan:
    words, sharding = WAYS[way]
    study = read_study(LARGE, [f"model.model={model}", *words])
    return plan(study, Setup(hardware=DEVICES[device], gpus=gpus, sharding=sharding))  # type: ignore[arg-type]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"


def main() -> int:
    """Write the page, or say that it is not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and exit with 1 where it would change")
    arguments = parser.parse_args()
    current = text(PAGE, RESULTS)
    is_stale = PAGE.read_text(encoding="utf-8") != current
    if is_stale:
        print(PAGE.name)
        if not arguments.check:
            PAGE.write_text(current, encoding="utf-8")
    return int(arguments.check and is_stale)


if __name__ == "__main__":
    raise SystemExit(main())
