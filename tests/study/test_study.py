"""A study as a value: what describes it tells all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import FolderError
from rupert.settings import read_yaml
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import RECIPES, find_recipe
from rupert.study.definition.study import describe, restore
from rupert.study.store import STUDY_FILE, Store

STUDIES = sorted(path.stem for path in RECIPES.glob("*.yaml") if {"defenses", "extends"} & set(read_yaml(path)))

Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_restored_from_its_description(name: str) -> None:
    study = read_study(find_recipe(name))
    assert restore(json.loads(json.dumps(describe(study)))) == study


def test_overrides_and_seeds_are_restored() -> None:
    study = read_study(
        find_recipe("demo"), ["seeds=[3,1]", "attacked=delta", "model={model: potionworld, dtype: bfloat16}"]
    )
    assert restore(json.loads(json.dumps(describe(study)))) == study


def test_a_store_tells_the_study_that_was_last_run_in_it(tmp_path: Path) -> None:
    first, last = read_study(find_recipe("demo")), read_study(find_recipe("demo"), ["evaluation.limit=5"])
    store = Store(tmp_path / "s")
    store.open(describe(first))
    store.open(describe(last))
    assert store.study() == last != first


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda described: described.pop("seeds"), "'seeds'"),
        (lambda described: described["defenses"]["sdd"].pop("method"), "'method'"),
        (lambda described: described["defenses"]["sdd"].update(method="sd"), "'sd'"),
        (lambda described: described["evaluation"].update(limits=3), "did you mean 'limit'?"),
        (lambda described: described.update(attacks=[]), "list"),
        (lambda described: described.update(model="gone"), "--model: 'gone' is unknown"),
    ],
)
def test_a_damaged_description_is_told_with_its_remedy(tmp_path: Path, damage: Damage, reason: str) -> None:
    described = describe(read_study(find_recipe("demo")))
    damage(described)
    Store(tmp_path).open(described)
    with pytest.raises(FolderError, match="repeat its `rupert run` command, which writes it anew") as told:
        Store(tmp_path).study()
    assert reason in str(told.value)
    assert str(told.value).startswith(str(tmp_path / STUDY_FILE))


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "\x00"])
def test_what_is_no_description_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / STUDY_FILE).write_text(text)
    with pytest.raises(FolderError, match="repeat its `rupert run` command"):
        Store(tmp_path).study()


def test_a_folder_without_a_study_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FolderError, match="holds no study; name the folder of `rupert run`"):
            Store(folder).study()
