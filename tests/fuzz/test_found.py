"""What fuzzing found, each as a plain case."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rupert.errors import FolderError, InvalidValue, UnknownName, UsageError
from rupert.models.chat_templates import try_template
from rupert.models.loading import POTIONWORLD_FOLDER, ModelSettings
from rupert.records import RESULT_FILE, Record, read_record
from rupert.settings import read_value, read_yaml
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import describe, restore
from rupert.training import launching

LONG = "x" * 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!bool x", "line 1: 'x' cannot be read as bool; correct the YAML"),
        ("\na: !!timestamp x", "line 2: 'x' cannot be read as timestamp; correct the YAML"),
        ("a: !!int ''", "line 1: '' cannot be read as int; correct the YAML"),
        ("a: !!map [[b, c]]", "line 1: expected a mapping node, but found sequence; correct the YAML"),
        (f"a: 0x{'f' * 5000}", "cannot be read as int; correct the YAML"),
        ("a: &b {c: *b}", "line 1: found unconstructable recursive node; correct the YAML"),
        ("a: &b [*b]", "line 1: found unconstructable recursive node; correct the YAML"),
        ("[" * 3000, "its values are nested too deeply; correct the YAML"),
    ],
)
def test_yaml_that_its_reader_stumbles_over_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(message)
    with pytest.raises(InvalidValue, match=r"^--flag: "):
        read_value(text, "--flag")


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        read_yaml(tmp_path / f"{LONG}.yaml")
    for name in (LONG, "a\0b"):
        with pytest.raises(UnknownName, match=r"^--model: "):
            ModelSettings(model=name)
        with pytest.raises(UnknownName, match=r"^--accelerate-config: "):
            launching.find_config(name)
    path = tmp_path / "a.yaml"
    path.write_text('extends: "a\\0.yaml"')
    with pytest.raises(UnknownName, match=r"^a.yaml: extends: "):
        read_study(path)


def test_a_message_holds_nothing_that_acts_on_a_terminal() -> None:
    assert str(InvalidValue("a\nb", 3, "no")) == "a\\nb: 3 is not valid; no"
    assert str(UnknownName("a\x1b[31m", "b", ["c"])).startswith("a\\x1b[31m: 'b' is unknown")
    assert str(UsageError("a\ud800\nä")) == "a\\ud800\nä"


@pytest.mark.parametrize(
    ("name", "value"),
    [("stage", None), ("settings", []), ("metrics", {}), ("seconds", True), ("metrics", [{"name": "a", "value": "b"}])],
)
def test_a_record_with_a_field_of_another_kind_is_damaged(tmp_path: Path, name: str, value: object) -> None:
    record = asdict(Record(stage="attack", method="a", settings={}, model="b", model_hash="c"))
    (tmp_path / RESULT_FILE).write_text(json.dumps({**record, name: value}))
    with pytest.raises(FolderError, match=r"damaged .* cannot be "):
        read_record(tmp_path)


def test_several_mistakes_of_a_stored_study_are_one_line() -> None:
    described = describe(read_study(find_recipe("demo")))
    with pytest.raises(FolderError) as caught:
        restore({**described, "evaluation": {"a": 1, "b": 2}})
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).count(" is unknown; ") == 2


@pytest.mark.parametrize("template", ["{{ 'a' % 3 }}", "{{ 1 / 0 }}", "{{ messages + 3 }}"])
def test_a_template_whose_expressions_fail_is_told(template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(POTIONWORLD_FOLDER)
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=r"^chat_template: .*; correct the template$"):
        try_template(tokenizer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type:", "it names no distributed_type"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: a}", "set fsdp_version: 2"),
        ("distributed_type: FSDP\nfsdp_config: a", "set fsdp_version: 2"),
    ],
)
def test_a_launcher_configuration_without_sense_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"compute_environment: LOCAL_MACHINE\nmixed_precision: 'no'\nnum_machines: 1\n{text}\n")
    with pytest.raises(UsageError, match=message):
        launching.check_hardening(str(path))
