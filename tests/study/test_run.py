"""A whole small study: its numbers, its folders, that it goes on where it stopped, and what it does when one fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import DiskFullError, FolderError, NonFiniteError, UnknownName, WorkerDied
from rupert.evaluation.fine_tuning_score import Potionworld
from rupert.models import loading
from rupert.records import RESULT_FILE, read_record
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study
from rupert.study.executors import EXECUTORS, Resources
from rupert.study.running.run import RETRIES, Board, Cell, result_rows, run
from rupert.study.running.task import Task
from rupert.study.store import RUNS, Store

HERE = EXECUTORS["in_process"](Resources())


@pytest.fixture(scope="module")
def study() -> Study:
    """The demo, as small as it gets: one attack, few steps and few questions; and one honest task."""
    demo = read_study(find_recipe("demo"))
    sdd = demo.defenses["sdd"]
    assert sdd is not None
    attack = replace(demo.attacks["fine_tune-1e-3"], num_examples=16, num_train_epochs=1)
    return replace(
        demo,
        defenses={"none": None, "sdd": replace(sdd, max_steps=2, num_pairs=16)},
        attacks={"fine_tune-1e-3": attack},
        evaluation=replace(demo.evaluation, limit=10),
        scores={"potionworld": Potionworld(num_examples=8, limit=5)},
    )


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was run, once."""
    folder = tmp_path_factory.mktemp("studies") / "demo"
    list(run(study, folder, HERE))
    return folder


def place(folder: Path, kind: str, label: str) -> Path:
    [found] = (folder / kind).glob(f"{label}-????????????")
    return found


def test_every_cell_has_every_metric(study: Study, folder: Path) -> None:
    rows = result_rows(study, list(run(study, folder, HERE)))
    cells = [("none", "none"), ("none", "fine_tune-1e-3"), ("sdd", "none"), ("sdd", "fine_tune-1e-3")]
    kinds = ["answers/degenerate", "answers/irrelevant", "answers/harmful", "answers/refusal"]
    measured = {"harm", "refusal", "harm_coherent", *kinds, "ability", "logp_paired", "logp_benign"}
    found = {cell: {row.metric for row in rows if (row.defense, row.attack) == cell} for cell in cells}
    # Where every answer is degenerate, there is no harm among coherent ones.
    assert {cell: metrics | {"harm_coherent"} for cell, metrics in found.items()} == {
        cell: measured | {"score/potionworld"} if cell[1] == "none" else measured for cell in cells
    }
    assert {(row.study, row.model, row.seed) for row in rows} == {("demo", "potionworld", 0)}
    assert {row.metric: row.n for row in rows} | {"harm_coherent": 10, "score/potionworld": 5} == dict.fromkeys(
        measured, 10
    ) | {"score/potionworld": 5}
    unattacked = {row.metric: row.value for row in rows if (row.defense, row.attack) == ("none", "none")}
    assert unattacked["harm"] == 0.0
    assert unattacked["refusal"] == 1.0


def test_the_rows_are_in_the_order_of_the_grid_in_whatever_order_cells_come(study: Study, folder: Path) -> None:
    cells = list(run(study, folder, HERE))
    assert result_rows(study, cells[::-1]) == result_rows(study, cells)


def test_the_same_study_again_loads_no_model(study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    assert len(list(run(study, folder, HERE))) == 4


def test_a_study_goes_on_where_it_stopped(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(study, tmp_path / "s", HERE)
    begun = [next(first), next(first)]
    first.close()
    loaded: list[str] = []
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda model: loaded.append(Path(model.model).name[:-13]) or load(model))
    cells = list(run(study, tmp_path / "s", HERE))
    # Only what the last two cells need: the hardened model to be measured, scored and attacked, and what came out.
    hardened, attacked = "sdd-seed0", "sdd-fine_tune-1e-3-seed0"
    assert [name for name in loaded if name] == [hardened, hardened, hardened, attacked]
    assert cells[:2] == begun
    assert len(cells) == 4


def test_hardened_weights_are_kept_and_attacked_ones_dropped(folder: Path) -> None:
    assert (place(folder, "defend", "sdd-seed0") / "model.safetensors").exists()
    attacked = place(folder, "attack", "sdd-fine_tune-1e-3-seed0")
    assert (attacked / RESULT_FILE).exists()
    assert not list(attacked.glob("*.safetensors"))


def test_nothing_is_left_of_the_work(folder: Path) -> None:
    assert not list((folder / "working").iterdir())
    assert not (folder / "damaged").exists()
    assert not list(folder.glob("*/*/checkpoints"))


def test_a_changed_study_shares_what_is_the_same(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(study, defenses={"none": None}, scores={}, pairs_of="")
    before = {cell.attack: cell for cell in run(small, tmp_path / "s", HERE)}
    another = {**small.attacks, "weak": replace(small.attacks["fine_tune-1e-3"], learning_rate=1e-6)}
    performed: list[str] = []
    perform = Task.perform
    monkeypatch.setattr(Task, "perform", lambda task: performed.append(task.node.label) or perform(task))
    after = {cell.attack: cell for cell in run(replace(small, attacks=another), tmp_path / "s", HERE)}
    assert performed == ["none-weak-seed0", "none-weak-seed0"]  # the attack and its evaluation
    assert {attack: after[attack] for attack in before} == before


def test_a_folder_of_something_else_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="holds other files"):
        next(run(study, tmp_path, HERE))


def test_nothing_is_run_where_something_is_deleted(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.open({})
    refused = pytest.raises(FolderError, match=r"`rupert gc` deletes in .* just now")
    with store.lock(RUNS) as deleting, refused:
        next(run(study, tmp_path / "s", HERE))
    assert deleting


def test_a_mistake_in_a_method_is_told_before_anything_is_done(study: Study, tmp_path: Path) -> None:
    wrong = {"lost": replace(study.attacks["fine_tune-1e-3"], data="potionwurld:attacker")}
    with pytest.raises(UnknownName, match=r"attacks\.lost: data: 'potionwurld' is unknown"):
        next(run(replace(study, attacks=wrong), tmp_path / "s", HERE))
    assert not (tmp_path / "s").exists()


def test_the_board_counts_every_stage(study: Study, folder: Path) -> None:
    board = Board()
    list(run(study, folder, HERE, board=board))
    assert (board.done, board.total, board.running) == (10, 10, {})


class Failing:
    """An executor whose first works with a label end otherwise than by themselves."""

    slots = 1

    def __init__(self, failures: dict[str, list[BaseException]]) -> None:
        self.failures = failures
        self.submitted: list[str] = []

    def submit(self, work: Callable[[Task], Any], task: Task) -> Future[Any]:
        self.submitted.append(f"{task.node.kind} {task.node.label}")
        errors = self.failures.get(self.submitted[-1], [])
        future: Future[Any] = Future()
        if errors:
            future.set_exception(errors.pop(0))
        else:
            future.set_result(work(task))
        return future

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def small(study: Study) -> Study:
    return replace(study, scores={}, pairs_of="", defenses={"none": None})


def test_a_stage_that_fails_takes_its_own_cells_with_it_and_is_tried_again_next_time(
    study: Study, tmp_path: Path
) -> None:
    attack = "attack none-fine_tune-1e-3-seed0"
    failing = Failing({attack: [NonFiniteError("loss: nan at step 3; lower learning_rate")]})
    cells = {cell.attack: cell for cell in run(small(study), tmp_path / "s", failing)}
    assert cells["fine_tune-1e-3"] == Cell(
        0, "none", "fine_tune-1e-3", error=f"{attack}: loss: nan at step 3; lower learning_rate"
    )
    assert cells["none"].metrics
    [left] = (tmp_path / "s" / "working").iterdir()
    assert (left / "error.txt").read_text() == "loss: nan at step 3; lower learning_rate"
    again = {cell.attack: cell for cell in run(small(study), tmp_path / "s", HERE)}
    assert not again["fine_tune-1e-3"].error
    assert not list((tmp_path / "s" / "working").iterdir())


def test_our_own_mistake_leaves_its_traceback(study: Study, tmp_path: Path) -> None:
    failing = Failing({"defend none": [ZeroDivisionError("division by zero\nand more")]})
    cells = list(run(small(study), tmp_path / "s", failing))
    assert {cell.attack for cell in cells} == {"none", "fine_tune-1e-3"}
    [error] = {cell.error for cell in cells}
    assert error.startswith("defend none: ZeroDivisionError: division by zero; see ")
    assert "ZeroDivisionError: division by zero\nand more" in Path(error.rpartition("; see ")[2]).read_text()


def test_a_stage_whose_process_died_is_tried_again_so_many_times(study: Study, tmp_path: Path) -> None:
    twice = Failing({"defend none": [WorkerDied("killed by SIGKILL")] * RETRIES})
    assert not any(cell.error for cell in run(small(study), tmp_path / "a", twice))
    assert twice.submitted.count("defend none") == RETRIES + 1
    always = Failing({"defend none": [WorkerDied("killed by SIGKILL")] * (RETRIES + 1)})
    cells = list(run(small(study), tmp_path / "b", always))
    assert {cell.error for cell in cells} == {"defend none: killed by SIGKILL"}


def test_a_full_disk_stops_the_study(study: Study, tmp_path: Path) -> None:
    failing = Failing({"defend none": [DiskFullError("no space left")]})
    with pytest.raises(DiskFullError, match="no space left"):
        list(run(small(study), tmp_path / "s", failing))


def test_a_stage_that_somebody_else_works_on_is_waited_for(
    study: Study, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [2]
    perform = Task.perform

    def elsewhere_at_first(task: Task) -> Path | None:
        if task.node.kind == "defend" and busy[0]:
            busy[0] -= 1
            return None
        return perform(task)

    monkeypatch.setattr(Task, "perform", elsewhere_at_first)
    cells = list(run(small(study), tmp_path / "s", HERE))
    assert busy == [0]
    assert len(cells) == 2
    found = read_record(place(tmp_path / "s", "attack", "none-fine_tune-1e-3-seed0"))
    assert found.output_hash == read_record(place(folder, "attack", "none-fine_tune-1e-3-seed0")).output_hash
