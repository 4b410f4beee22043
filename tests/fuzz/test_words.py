"""Judges, chat templates, launcher configurations and what an endpoint says: any text is understood or told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rupert.evaluation.judges import JUDGES, PRESETS, parse_judges
from rupert.models.chat_templates import CHAT_TEMPLATES, template_text, try_template
from rupert.models.loading import POTIONWORLD_FOLDER, ModelSettings
from rupert.settings import fields_of
from rupert.training import launching

from .inputs import cases, changed_bytes, changed_values, odd_text, told

names = st.sampled_from([*JUDGES, *PRESETS])
options = st.sampled_from(sorted({field.name for judge in JUDGES.values() for field in fields_of(judge)}))
values = st.one_of(odd_text, st.sampled_from(["a,b", "%26", "%00", "%zz", "strongreject", "x.yaml", "3", "-1", "0.5"]))
pairs = st.lists(st.builds("{}={}".format, st.one_of(options, odd_text), values), max_size=3)
judges = st.one_of(st.builds(lambda name, given: f"{name}?{'&'.join(given)}", names, pairs), odd_text)


@cases(630)
@given(specs=st.lists(judges, min_size=1, max_size=2))
def test_any_judge_is_understood_or_told(specs: list[str]) -> None:
    found = told(lambda: parse_judges(specs, "--judges"), ("--judges", *JUDGES, *PRESETS))
    if not isinstance(found, str):
        for label in found:
            assert Path(label).name == label  # a file is called by it
            assert label.isprintable()
            assert len(label) <= 40


TEMPLATE = CHAT_TEMPLATES["plain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cases of a test."""
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Potionworld's, of which the template is changed."""
    return AutoTokenizer.from_pretrained(POTIONWORLD_FOLDER)


@cases(280)
@given(changed=changed_bytes(TEMPLATE.encode()))
def test_any_chat_template_is_tried_or_told(folder: Path, tokenizer: PreTrainedTokenizerBase, changed: bytes) -> None:
    path = folder / "own.jinja"
    path.write_bytes(changed)
    text = told(lambda: template_text(str(path)), ("chat_template",))
    tokenizer.chat_template = text  # a message, too, is some text
    told(lambda: try_template(tokenizer), ("chat_template",))


@cases(140)
@given(name=odd_text)
def test_any_name_of_a_template_a_model_or_a_configuration_is_found_or_told(name: str) -> None:
    told(lambda: template_text(name), ("chat_template",))
    told(lambda: ModelSettings(model=name), ("model",))
    told(lambda: launching.find_config(name), ("--accelerate-config",))


CONFIG = launching.CONFIGS["fsdp2"].read_text(encoding="utf-8")


@cases(420)
@given(changed=st.one_of(changed_values(CONFIG), changed_bytes(CONFIG.encode())))
def test_any_launcher_configuration_is_read_or_told(folder: Path, changed: bytes | str) -> None:
    path = folder / "own.yaml"
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode("utf-8", "surrogatepass"))
    told(lambda: launching.check_hardening(str(path)), ("--accelerate-config", "hardening"))
