"""Wheel and sdist, built from the tree without network: what is in them, what they say, that one makes the other."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import rupert

ROOT = Path(__file__).parents[2]
INFO = f"rupert-{rupert.__version__}.dist-info"
NOT_PACKED = ("__pycache__", ".hypothesis", ".pytest_cache", ".venv", "dist", "site", "rupert-demo", ".git")


def build(tree: Path, folder: Path, *targets: str) -> None:
    words = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *words]
    done = subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "sdist", "wheel")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> ZipFile:
    return ZipFile(built / f"rupert-{rupert.__version__}-py3-none-any.whl")


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built / f"rupert-{rupert.__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"rupert-{rupert.__version__}"


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"{INFO}/METADATA"))


def test_the_wheel_is_the_source_and_nothing_else(wheel: ZipFile) -> None:
    source = ROOT / "src"
    ours = {path.relative_to(source) for path in (source / "rupert").rglob("*") if path.is_file()}
    expected = {path.as_posix() for path in ours if "__pycache__" not in path.parts}
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert set(wheel.namelist()) == expected | about | {f"{INFO}/licenses/{name}" for name in ("LICENSE", "NOTICE")}


@pytest.mark.parametrize(
    "path",
    [
        "data/embedded/pairs.jsonl",
        "models/potionworld/model.safetensors",
        "models/sentences.safetensors",
        "recipes/demo.yaml",
        "report/card.schema.json",
        "report/templates/page.html",
        "training/accelerate/fsdp2.yaml",
        "py.typed",
    ],
)
def test_what_is_no_code_is_in_the_wheel_as_it_is(wheel: ZipFile, path: str) -> None:
    assert wheel.read(f"rupert/{path}") == (ROOT / "src" / "rupert" / path).read_bytes()


def test_the_metadata_are_those_of_the_project(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (metadata["Name"], metadata["Version"]) == ("rupert", rupert.__version__)
    assert project["version"] == rupert.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    core = {one.name for one in needed if one.marker is None}
    assert core == {Requirement(line).name for line in project["dependencies"]}


def test_the_readme_is_the_description_and_can_be_rendered(metadata: Message) -> None:
    from markdown_it import MarkdownIt

    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    assert text.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<h1>rupert</h1>" in html
    assert "<table>" in html


def test_the_command_is_installed(wheel: ZipFile) -> None:
    assert "rupert = rupert.cli.main:main" in wheel.read(f"{INFO}/entry_points.txt").decode()


def test_the_sdist_holds_nothing_that_was_left_behind(unpacked: Path) -> None:
    paths = [path.relative_to(unpacked) for path in unpacked.rglob("*")]
    assert [path for path in paths if set(path.parts) & set(NOT_PACKED) or path.suffix == ".pyc"] == []
    assert {path.parts[0] for path in paths} <= {
        *("src", "tests", "docs", "benchmarks", "examples", "pyproject.toml", "uv.lock", "Makefile", "mkdocs.yml"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "NOTICE", ".gitignore", "PKG-INFO"),
    }
    assert (unpacked / "tests" / "release" / Path(__file__).name).is_file()


def test_the_sdist_builds_the_same_wheel(built: Path, unpacked: Path, tmp_path: Path) -> None:
    build(unpacked, tmp_path, "wheel")
    name = f"rupert-{rupert.__version__}-py3-none-any.whl"
    assert (tmp_path / name).read_bytes() == (built / name).read_bytes()
