"""Every defense has a page that says what it has to, and whose generated part is current."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rupert.defenses import DEFENSES
from rupert.settings import fields_of

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_methods", DOCS / "generate_methods.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_page_a_defense_and_no_other(generator: ModuleType) -> None:
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {"README", *DEFENSES}


def test_generated_parts_are_current(generator: ModuleType) -> None:
    stale = [path.name for path, text in generator.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "python docs/generate_methods.py writes them"


@pytest.mark.parametrize("name", DEFENSES)
def test_the_part_by_hand_is_filled_in(name: str, generator: ModuleType) -> None:
    by_hand = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8").partition(generator.MARK)[0]
    parts = re.split(r"^(## .*)$", by_hand, flags=re.MULTILINE)
    written = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    assert tuple(written)[:3] == generator.HEADINGS
    assert all(text and text != "..." for text in written.values())
    sentences = re.findall(r"[.!?:](?=\s|$)", written[generator.HEADINGS[0]])
    assert 2 <= len(sentences) <= 5


@pytest.mark.parametrize("name", DEFENSES)
def test_a_page_has_every_setting_of_its_own(name: str) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    own = vars(DEFENSES[name]).get("__annotations__", {})
    settings = [field.name for field in fields_of(DEFENSES[name]) if field.name in own]
    assert [field for field in settings if f"| `{field}` |" not in page] == []
