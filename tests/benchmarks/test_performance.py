"""docs/performance.md is what docs/results/benchmarks/ and the planner say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "docs" / "results" / "benchmarks").glob("*.json"))
FIELDS = {"name", "rows", "figures", "settings", "seconds", "threads", "date", "machine", "environment", "identity"}
FIGURE = {"what", "value", "unit", "bound", "target", "met"}


@pytest.fixture
def page(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("page")


def test_the_page_is_current(page: ModuleType) -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.text(page.PAGE, page.RESULTS), "python benchmarks/page.py writes it"


def test_results_have_the_shape(program: Callable[[str], ModuleType]) -> None:
    benchmarks = {one.name: one for one in program("catalogue").BENCHMARKS}
    assert RESULTS
    for path in RESULTS:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert set(found) >= FIELDS
        assert found["name"] == path.stem
        assert found["rows"]
        assert found["figures"]
        assert all(set(figure) == FIGURE for figure in found["figures"])
        options = benchmarks[path.stem].options(found["identity"]["size"])
        assert found["identity"]["options"] == list(options or ())


def _result(name: str, value: float, met: bool | None) -> dict[str, Any]:
    figure = {"what": f"what {name} takes", "value": value, "unit": "s", "bound": "at most", "target": 2, "met": met}
    machine = {"processor": "A Processor", "cores": 2, "memory_gb": 16, "system": "Linux"}
    versions = dict.fromkeys(("python", "rupert", "torch", "transformers", "trl", "peft", "accelerate"), "1.0")
    return {
        "name": name,
        "figures": [figure],
        "seconds": 3.2,
        "date": "2030-01-02",
        "machine": machine,
        "environment": versions,
        "identity": {"size": "quick"},
    }


def test_a_page_keeps_what_is_written_by_hand_and_shows_what_was_found(page: ModuleType, tmp_path: Path) -> None:
    own, results = tmp_path / "performance.md", tmp_path / "results"
    results.mkdir()
    own.write_text(f"# By hand\n\n{page.MARK}\n\nold", encoding="utf-8")
    for name, value, met in (("plan", 0.25, True), ("judging", 3.0, False)):
        (results / f"{name}.json").write_text(json.dumps(_result(name, value, met)), encoding="utf-8")

    text = page.text(own, results)

    assert text.startswith(f"# By hand\n\n{page.MARK}\n\n## Where it was measured")
    assert "old" not in text
    assert "| plan, judging | A Processor, 2 cores, 16 GB, Linux | python 1.0, rupert 1.0" in text
    assert "| plan | quick | 1 | 3 s | what plan takes | 0.25 s | at most 2 | met |" in text
    assert "| judging | quick | 2 | 3 s | what judging takes | 3 s | at most 2 | MISSED |" in text
    assert "Not measured: sdd_theorem," in text


def test_predictions_are_those_of_the_planner(page: ModuleType) -> None:
    lines = page._large().splitlines()
    (sdd,) = [line for line in lines if line.startswith("| 7 B | 1 | SDD")]
    # 6.7 B weights of two bytes, as many of gradient, and AdamW's two and one on the way: five times the weights.
    assert f"| {5 * 2 * 6.738:.0f} GB |" in sdd
    (seam,) = [line for line in lines if line.startswith("| 70 B | 1 | SEAM, exact, 2,000")]
    assert seam.count("too big") == len(page.HARDWARE)
    assert sum("| 8 |" in line for line in lines) == 2 * len(page.STAGES)
