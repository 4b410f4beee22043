"""Every study that ships in Potionworld's size is run: all kinds of its cells, in as few steps and rows as can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.report.tables import collect
from rupert.settings import read_yaml
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import RECIPES, find_recipe
from rupert.study.definition.study import Study
from rupert.study.executors import EXECUTORS, Resources
from rupert.study.running.run import result_rows, run

STUDIES = [
    path.stem
    for path in sorted(RECIPES.glob("*.yaml"))
    if {"defenses", "extends"} & set(read_yaml(path)) and read_study(path).model.model == "potionworld"
]


def ranks(values: Iterable[int]) -> dict[int, int]:
    """So many more than the least, by order: what differs still does."""
    return {value: rank for rank, value in enumerate(sorted(set(values)))}


def of_one_rate(attacks: Mapping[str, Any]) -> dict[str, Any]:
    """Of attacks that differ in their learning rate alone, the first."""
    alike: dict[Any, str] = {}
    for label, attack in attacks.items():
        alike.setdefault(replace(attack, learning_rate=1.0), label)
    return {label: attacks[label] for label in alike.values()}


def shrunk(study: Study) -> Study:
    study = replace(study, attacks=of_one_rate(study.attacks))
    pairs = ranks(getattr(defense, "num_pairs", 0) for defense in study.defenses.values())
    rows = ranks(attack.num_examples for attack in study.attacks.values())
    few: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}

    def hardened(defense: Any) -> Any:
        fewer = {"num_pairs": 4 + pairs[defense.num_pairs]} if hasattr(defense, "num_pairs") else {}
        return replace(defense, **few, **fewer)

    return replace(
        study,
        seeds=study.seeds[:1],
        defenses={label: defense and hardened(defense) for label, defense in study.defenses.items()},
        attacks={
            label: replace(attack, **few, num_examples=4 + rows[attack.num_examples])
            for label, attack in study.attacks.items()
        },
        evaluation=replace(study.evaluation, limit=2, max_new_tokens=4, reference=None),
        scores={label: replace(task, **few, num_examples=4, limit=2) for label, task in study.scores.items()},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of them: what two studies share is done once."""
    return tmp_path_factory.mktemp("studies") / "all"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_to_its_last_cell(name: str, folder: Path) -> None:
    whole = read_study(find_recipe(name))
    study = shrunk(whole)
    assert {type(attack) for attack in study.attacks.values()} == {type(attack) for attack in whole.attacks.values()}
    cells = list(run(study, folder, EXECUTORS["in_process"](Resources())))
    assert [cell.error for cell in cells if cell.error] == []
    rows = result_rows(study, cells)
    grid = collect(rows)
    assert set(grid.defenses) == set(study.defenses)
    assert set(grid.attacks) == {"none", *study.attacks}
    for metric in ("harm", "ability"):
        measured = {(row.defense, row.attack) for row in rows if row.metric == metric}
        assert len(measured) == len(study.defenses) * (1 + len(study.attacks))
    scores = {row.metric for row in rows if row.metric.startswith("score/")}
    assert scores == {f"score/{label}" for label in study.scores}


def test_every_table_and_figure_is_among_them() -> None:
    assert {name for name in STUDIES if name != "demo"} == {
        "defenses-potionworld",
        "sdd-data-volume-potionworld",
        "sdd-reject-table-potionworld",
        "sdd-table-potionworld",
        "seam-figure-2-potionworld",
        "seam-figure-3-potionworld",
        "seam-table-1-potionworld",
    }
