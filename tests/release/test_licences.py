"""Every package that rupert can bring along has a licence that it may have, and the bill of materials names it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def docs() -> Iterator[None]:
    """As where `python docs/...` is run, its scripts import one another."""
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def licences(docs: None) -> ModuleType:
    import generate_licences

    return generate_licences


@pytest.fixture(scope="module")
def sbom(docs: None) -> str:
    from generate_sbom import sbom

    return str(sbom())


def test_every_licence_is_known_and_allowed_or_explained(licences: ModuleType) -> None:
    found = {name: licences.licence(name) for name in licences.needed_by()}
    refused = {name: said for name, said in found.items() if not said or not licences.is_allowed(said)}
    assert refused.keys() == licences.EXPLAINED.keys(), refused


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT AND Zlib", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only OR LGPL-2.1-only", False),
        ("", False),
    ],
)
def test_one_alternative_has_to_be_allowed_as_a_whole(licences: ModuleType, expression: str, allowed: bool) -> None:
    assert licences.is_allowed(expression) is allowed


def test_what_the_extras_bring_is_told_from_the_core(licences: ModuleType) -> None:
    found = licences.needed_by()
    assert found["torch"] == found["plotly"] == found["tqdm"] == [licences.CORE]
    assert found["ray"] == ["ray"]
    assert found["openai"] == ["judges", "alpaca"]
    assert "sentence-transformers" in found
    assert "pytest" not in found
    assert "rupert" not in found


def test_the_page_is_as_it_would_be_written(licences: ModuleType) -> None:
    assert licences.page() == licences.PAGE.read_text(encoding="utf-8"), "python docs/generate_licences.py writes it"


def test_what_is_shipped_is_named(licences: ModuleType) -> None:
    by_hand = licences.PAGE.read_text(encoding="utf-8").partition(licences.MARK)[0]
    source = licences.ROOT / "src" / "rupert"
    kinds = {".py", ".yaml", ".html", ".css", ".js", ".typed", ".pyc"}
    data = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix not in kinds}
    places = {str(path if path.parent.name in ("models", "report") else path.parent) for path in data}
    places.remove("report/card.schema.json")  # among the code
    assert places == {"data/embedded", "models/potionworld", "models/configurations", "models/sentences.safetensors"}
    assert all(f"`{place}`" in by_hand for place in places)


def test_the_bill_of_materials_is_valid(sbom: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(sbom) is None


def test_the_bill_of_materials_names_every_package_with_version_and_licence(licences: ModuleType, sbom: str) -> None:
    made: dict[str, Any] = json.loads(sbom)
    found = {component["name"]: component for component in made["components"]}
    assert found.keys() == licences.needed_by().keys()
    assert all(component["version"] in component["purl"] for component in made["components"])
    assert found["torch"]["licenses"] == [{"expression": licences.licence("torch")}]
    assert made["metadata"]["component"]["name"] == "rupert"


def test_the_same_lock_gives_the_same_bill(docs: None, sbom: str) -> None:
    from generate_sbom import sbom as again

    assert again() == sbom
