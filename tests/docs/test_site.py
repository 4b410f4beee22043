"""The site is built strictly, holds what it is to hold, and loads nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from rupert.attacks import ATTACKS
from rupert.cli.main import COMMANDS
from rupert.defenses import DEFENSES
from rupert.settings import fields_of

from .blocks import ROOT

LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
# A link that only names another page, which the browser does not fetch.
NAMING = ("canonical", "next", "prev")


class Page(HTMLParser):
    """What a page loads, and which anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        if tag in LOADING and given.get("rel") not in NAMING:
            self.loads.append(given.get(LOADING[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a process of its own, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def pages_of(nav: object) -> list[str]:
    """The files that the navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav if isinstance(nav, list) else list(nav.values()) if isinstance(nav, dict) else []
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_and_on_the_site(site: Path) -> None:
    named = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= set(named)
    for name in named:
        page = Path(name)
        place = page.with_name("index.html") if page.stem == "README" else page.with_suffix(".html")
        assert (site / place).is_file(), name


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loads = {load for path in site.rglob("*.html") for load in Page(path).loads}
    assert any(load.endswith(".css") for load in loads)
    assert [load for load in loads if re.match(r"(?:[a-z]+:)?//", load)] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", styles) == []


def test_comments_for_the_tests_are_not_shown(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert [
        path for path in pages if re.search(r"(?:<!--|&lt;!--) *(?:test|given|file|not run here):", Page(path).text)
    ] == []


def test_every_command_has_its_help(site: Path) -> None:
    anchors = Page(site / "reference" / "commands.html").anchors
    assert {f"rupert-{name}" for name in COMMANDS} <= anchors
    for name, methods in (("defend", DEFENSES), ("attack", ATTACKS)):
        assert {f"rupert-{name}-{method}" for method in methods} <= Page(
            site / "reference" / f"commands-{name}.html"
        ).anchors


@pytest.mark.parametrize(
    ("page", "methods"), [("defenses", DEFENSES), ("attacks", ATTACKS)], ids=["defenses", "attacks"]
)
def test_every_method_and_each_of_its_settings_is_in_the_reference(
    site: Path, page: str, methods: dict[str, type]
) -> None:
    found = Page(site / "reference" / f"{page}.html")
    for method in methods.values():
        name = f"{method.__module__}.{method.__qualname__}"
        assert name in found.anchors
        own = [field for field in fields_of(method) if field.name in vars(method).get("__annotations__", {})]
        assert [field.name for field in own if f"{name}.{field.name}" not in found.anchors] == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("defenses", ["rupert.training.objective.Objective"]),
        ("attacks", ["rupert.attacks.attack.Attacker"]),
        ("judges", ["rupert.evaluation.judges.judge.Judge", "rupert.evaluation.judges.judge.Verdict"]),
        ("evaluation", ["rupert.evaluation.suite.Evaluation", "rupert.evaluation.verdicts.verdict"]),
        ("records", ["rupert.results", "rupert.records.Record"]),
        ("settings", ["rupert.settings.setting", "rupert.errors.UsageError"]),
        ("studies", ["rupert.study.stage.hardening.defend", "rupert.study.definition.reading.read_study"]),
        ("testing", ["rupert.testing.drawing"]),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_others_build_on_is_in_the_reference(site: Path, page: str, names: list[str]) -> None:
    assert set(names) <= Page(site / "reference" / f"{page}.html").anchors
