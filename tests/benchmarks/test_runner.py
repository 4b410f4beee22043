"""`make bench` runs what it is told, tells what missed its target and what failed, and goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NO_BENCHMARKS = {"all", "page"}  # programs that measure nothing

# Finds a number of its command line, and notes that it was run.
MADE_UP = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(FOLDER)!r})
from outcome import Figure, begin, options
parser = options("")
parser.add_argument("--value", type=float, default=1)
begun = begin("made_up", parser)
with Path(__file__).with_suffix(".runs").open("a") as runs:
    runs.write("x")
value = begun.arguments.value
sys.exit(begun.end([{{"value": value}}], [Figure(what="a number", value=value, at_most=2)]))
"""
FAILING = "raise SystemExit('it went wrong')"


@pytest.fixture
def runner(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("all")


@pytest.fixture
def made_up(tmp_path: Path, program: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """A benchmark of that name, in a folder of its own."""

    def write(name: str, source: str = MADE_UP, **settings: Any) -> Any:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        return program("catalogue").Benchmark(name=name, what=name, folder=folder, **settings)

    return write


def _runs(benchmark: Any) -> int:
    return len(benchmark.program.with_suffix(".runs").read_text(encoding="utf-8"))


def test_it_goes_on_after_a_miss_and_a_failure(
    runner: ModuleType, made_up: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, failing = made_up("missing", quick=("--value", "3")), made_up("failing", FAILING)
    fine = made_up("fine", quick=("--value", "0.5"))

    outcomes = runner.run_all([missing, failing, fine], "quick", tmp_path / "bench")
    runner.show(outcomes)

    assert [outcome.problem for outcome in outcomes] == ["", "exit code 1: it went wrong", ""]
    assert [len(outcome.missed) for outcome in outcomes] == [1, 0, 0]
    assert sorted(path.name for path in (tmp_path / "bench").glob("*.json")) == ["fine.json", "missing.json"]
    assert not list((tmp_path / "bench").glob("*.part"))
    said = capsys.readouterr().out
    assert "MISSED missing: a number 3, at most 2" in said
    assert "FAILED failing: exit code 1: it went wrong" in said
    assert runner.exit_code(outcomes) == 2
    assert runner.exit_code([outcomes[0], outcomes[2]]) == 1
    assert runner.exit_code([outcomes[2]]) == 0


def test_what_is_there_is_not_run_again(
    runner: ModuleType, made_up: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = made_up("one", quick=("--value", "1"), full=("--value", "2")), tmp_path / "bench"

    (first,) = runner.run_all([one], "quick", folder)
    (second,) = runner.run_all([one], "quick", folder)
    assert (_runs(one), second.was_there, second.found) == (1, True, first.found)

    runner.run_all([one], "quick", folder, again=True)
    assert _runs(one) == 2
    (other_size,) = runner.run_all([one], "full", folder)
    assert (_runs(one), other_size.found["rows"]) == (3, [{"value": 2.0}])

    one.program.write_text(MADE_UP + "# changed", encoding="utf-8")
    runner.run_all([one], "full", folder)
    assert _runs(one) == 4
    monkeypatch.setattr(runner, "environment", lambda: {"rupert": "another"})
    runner.run_all([one], "full", folder)
    assert _runs(one) == 5


def test_a_failure_leaves_the_earlier_result_and_no_new_one(
    runner: ModuleType, made_up: Callable[..., Any], tmp_path: Path
) -> None:
    one, folder = made_up("one"), tmp_path / "bench"
    runner.run_all([one], "quick", folder)
    before = (folder / "one.json").read_text(encoding="utf-8")
    one.program.write_text(FAILING, encoding="utf-8")
    (outcome,) = runner.run_all([one], "quick", folder)
    assert outcome.found is None
    assert (folder / "one.json").read_text(encoding="utf-8") == before


def test_a_result_has_the_shape_and_names_no_folder(
    runner: ModuleType, made_up: Callable[..., Any], tmp_path: Path
) -> None:
    one = made_up("one", threads=2)
    runner.run_all([one], "quick", tmp_path / "bench")
    text = (tmp_path / "bench" / "one.json").read_text(encoding="utf-8")
    found = json.loads(text)
    figure = {"what": "a number", "value": 1.0, "unit": "", "bound": "at most", "target": 2, "met": True}
    assert (found["name"], found["rows"], found["figures"]) == ("made_up", [{"value": 1.0}], [figure])
    assert (found["threads"], found["identity"]["size"]) == ("2", "quick")
    assert set(found["machine"]) == {"processor", "cores", "memory_gb", "system"}
    assert str(tmp_path) not in text


def test_every_benchmark_is_in_the_catalogue_and_takes_its_options(program: Callable[[str], ModuleType]) -> None:
    programs = {
        path.stem for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    benchmarks = program("catalogue").BENCHMARKS
    assert {one.name for one in benchmarks} == programs - NO_BENCHMARKS
    for one in benchmarks:
        source = one.program.read_text(encoding="utf-8")
        words = [word for word in (*(one.quick or ()), *one.full) if word.startswith("--")]
        assert [word for word in words if f'"{word}"' not in source] == [], one.name
        assert f'begin("{one.name}"' in source
    assert [one.name for one in benchmarks if one.quick is None] == ["soak"]


@pytest.mark.parametrize(
    ("bounds", "met"),
    [({}, None), ({"at_most": 2}, True), ({"at_most": 1}, False), ({"at_least": 2}, False), ({"at_least": 1.5}, True)],
)
def test_a_figure_is_held_against_its_target(
    bounds: dict[str, float], met: bool | None, program: Callable[[str], ModuleType]
) -> None:
    figure = program("outcome").Figure(what="a ratio", value=1.5, unit="times", **bounds)
    assert figure.met is met
    assert figure.as_json()["target"] == next(iter(bounds.values()), None)
    assert ("MISSED" in str(figure)) == (met is False)
