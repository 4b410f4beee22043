"""Studies, overrides, ladders, variations and settings from any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rupert.attacks import FineTune
from rupert.defenses import SDD
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.settings import as_mapping, fields_of, parse, read_value, read_yaml
from rupert.study.definition.layers import KEYS
from rupert.study.definition.reading import read_study
from rupert.study.definition.study import Study, describe, restore
from rupert.study.ladder.reading import read_ladder_file
from rupert.study.standalone.variations import Case, read_variations

from .inputs import cases, changed_bytes, changed_values, json_values, odd_text, told

STUDY = """\
extends: sub.yaml
model: potionworld
seeds: [3, 4]
defenses:
  none:
  sdd:
    pairs: stand-ins:defender
    max_steps: 7
  more:
    method: vaccine
    after: sdd
attacks:
  fine_tune:
    data: potionworld:attacker
    learning_rate: [1e-5, 2e-4]
    lora: true
    layers_to_transform: [0]
evaluation:
  limit: 3
  judges: [oracle]
scores: {}
pairs_of: sdd
attacked: delta
notes: [one]
"""
LADDER = """\
rungs:
  L0:
    fine_tune:
      data: potionworld:attacker
      num_examples: 20
      learning_rate: 1e-4
      search:
        learning_rate: {low: 1e-5, high: 1e-3, log: true}
        num_examples: [10, 20]
  L1:
    own:
      method: fine_tune
      data: potionworld:attacker
      against: [seam]
evaluation:
  limit: 4
eval_steps: 0.5
harm_threshold: 0.5
held_out_seeds: 1
"""
VARIATIONS = """\
one: {attack: {learning_rate: {times: 2}}}
two:
  model:
    chat_template: plain
three:
  attack:
    seed: {plus: 1}
  evaluation:
    limit: 3
"""
ATTACK = FineTune(data="potionworld:attacker")
BASE = Case(attack=ATTACK, model=ModelSettings(model="potionworld"), evaluation=Evaluation())
CLASSES = (SDD, FineTune, Evaluation, ModelSettings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cases of a test."""
    made = tmp_path_factory.mktemp("yaml")
    (made / "sub.yaml").write_text("notes: [zero]")
    return made


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def read_back(study: Study | str) -> None:
    """A study that was read comes back from its own file."""
    assert isinstance(study, str) or describe(restore(describe(study))) == describe(study)


@cases(980)
@given(changed=st.one_of(changed_values(STUDY), changed_bytes(STUDY.encode())))
def test_any_study_is_read_or_told(folder: Path, changed: bytes | str) -> None:
    path = write(folder, "study.yaml", changed)
    read_back(told(lambda: read_study(path), ("study.yaml", ".yaml: ", ".yml: ")))


paths = st.lists(
    st.one_of(st.sampled_from([*KEYS, "sdd", "fine_tune", "more", "learning_rate", "limit"]), odd_text), max_size=4
)
words = st.one_of(st.builds(lambda keys, value: f"{'.'.join(keys)}={value}", paths, odd_text), odd_text)


@cases(560)
@given(overrides=st.lists(words, min_size=1, max_size=3))
def test_any_override_is_read_or_told(folder: Path, overrides: list[str]) -> None:
    path = write(folder, "study.yaml", STUDY)
    read_back(told(lambda: read_study(path, overrides), ("override", "study.yaml", ".yaml: ")))


@cases(700)
@given(changed=st.one_of(changed_values(LADDER), changed_bytes(LADDER.encode())))
def test_any_ladder_is_read_or_told(folder: Path, changed: bytes | str) -> None:
    path = write(folder, "ladder.yaml", changed)
    told(lambda: read_ladder_file(path), ("ladder.yaml", ".yaml: ", "learning_rate"))


def varied(path: Path) -> list[Case]:
    return [variation.around(BASE) for variation in read_variations(path).values()]


@cases(700)
@given(changed=st.one_of(changed_values(VARIATIONS), changed_bytes(VARIATIONS.encode())))
def test_any_variations_are_read_or_told(folder: Path, changed: bytes | str) -> None:
    path = write(folder, "variations.yaml", changed)
    told(lambda: varied(path), ("variations.yaml",))


@cases(420)
@given(text=st.one_of(odd_text, st.lists(odd_text, max_size=6).map("\n".join), st.binary(max_size=40)))
def test_any_yaml_is_a_mapping_or_told(folder: Path, text: str | bytes) -> None:
    path = write(folder, "any.yaml", text)
    found = told(lambda: read_yaml(path), ("any.yaml",))
    assert isinstance(found, dict | str)
    if isinstance(text, str):
        told(lambda: read_value(text, "--flag"), ("--flag",))


def values_of(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([field.name for field in fields_of(cls)])
    small = (
        st.integers(-2, 300) | st.floats(0, 2) | st.booleans() | st.none() | st.sampled_from(["none", "1e-4", "oracle"])
    )
    values = st.one_of(small, json_values, st.lists(st.integers(0, 3), max_size=3), odd_text)
    return st.dictionaries(st.one_of(names, names, names, odd_text), values, max_size=4)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@cases(420)
@given(data=st.data())
def test_any_settings_are_read_or_told_and_come_back(cls: type, data: st.DataObject) -> None:
    given = data.draw(values_of(cls))
    found = told(lambda: parse(cls, given, "FILE"), ("FILE",))
    if not isinstance(found, str):
        assert parse(cls, as_mapping(found)) == found


@pytest.fixture(scope="module")
def described(folder: Path) -> dict[str, Any]:
    """A study as its store has it."""
    return describe(read_study(write(folder, "study.yaml", STUDY)))


@cases(350)
@given(data=st.data())
def test_any_stored_study_is_restored_or_told(described: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(list(described)))
    inner = described[place]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        changed = {**inner, data.draw(st.sampled_from(list(inner))): data.draw(json_values)}
    else:
        changed = data.draw(json_values)
    told(lambda: restore({**described, place: changed}), ("repeat its `rupert run`",))
