"""`rupert release` as a user types it; the Hub is a stand-in that remembers what it was asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from jsonschema import Draft202012Validator

import rupert.report
from rupert.cli.main import main
from rupert.models.loading import ModelSettings, load
from rupert.records import read_record

SCHEMA = json.loads((Path(rupert.report.__file__).parent / "card.schema.json").read_text())
STUDY = """
extends: demo
defenses: {none: drop, seam: drop, sdd: {max_steps: 1, num_pairs: 16}}
attacks: {fine_tune: {learning_rate: 1e-3, num_examples: 16, max_steps: 1}, benign: drop}
evaluation: {limit: 4, reference: none}
"""


class Hub:
    """What `HfApi` is asked, and answers as it would."""

    def __init__(self, **problems: Exception) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.uploaded: dict[str, bytes] = {}
        self.problems, self.taken = problems, set[str]()

    def _do(self, name: str, **given: Any) -> None:
        self.asked.append((name, given))
        if name in self.problems:
            raise self.problems[name]

    def whoami(self) -> dict[str, str]:
        self._do("whoami")
        return {"name": "me"}

    def repo_exists(self, repo_id: str) -> bool:
        self._do("repo_exists", repo_id=repo_id)
        return repo_id in self.taken

    def create_repo(self, repo_id: str, **given: Any) -> str:
        self._do("create_repo", repo_id=repo_id, **given)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, folder_path: Path, **given: Any) -> None:
        self._do("upload_folder", **given)
        self.uploaded = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(STUDY)
    assert main(["run", str(folder / "tiny.yaml"), "seeds=[0]", "--output-dir", str(folder / "s")]) == 0
    return folder / "s"


@pytest.fixture
def study(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "s"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


def hardened(study: Path) -> Path:
    (place,) = (study / "defend").glob("sdd-*")
    return place


def refused(command: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    capsys.readouterr()
    assert main(command) == code
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_folder_to_publish(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "m"
    state = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    assert main(["release", str(study), "--defense", "sdd", "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("license: none is named; fill it in at the top of")
    names = {path.name for path in out.iterdir()}
    model = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == {*model, "chat_template.jinja", "README.md", "tamper-resistance.json", "SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    assert len((out / "SHA256SUMS").read_text().splitlines()) == len(names) - 1
    found = json.loads((out / "tamper-resistance.json").read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(found)) == []
    assert found["released"] == {"seed": 0, "sha256": read_record(hardened(study)).output_hash}
    read = ModelCard.load(out / "README.md")
    assert (read.data.base_model, read.data.license) == ("potionworld", None)
    assert "## Tamper resistance" in read.text
    assert str(tmp_path) not in (out / "README.md").read_text() + json.dumps(found)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == state
    ours, published = (load(ModelSettings(model=str(folder))).model.state_dict() for folder in (hardened(study), out))
    assert all(torch.equal(ours[name], published[name]) for name in ours)
    assert not [path for path in out.parent.iterdir() if path != out]


def test_a_place_that_is_not_empty_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(empty)
    assert refused(["release", str(study), "--output-dir", str(full)], capsys).endswith(
        "is not empty; name a new or empty folder"
    )
    for name in ("full/mine", "link"):
        line = refused(["release", str(study), "--output-dir", str(tmp_path / name)], capsys)
        assert line.endswith("is a file or a link; name a new or empty folder")
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert main(["release", str(study), "--output-dir", str(empty)]) == 0


def test_weights_that_are_not_those_of_their_record_are_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["release", str(study), "--output-dir", str(tmp_path / "m")]
    weights = hardened(study) / "model.safetensors"
    stat, whole = weights.stat(), weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit, which the record's time does not show
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert refused(command, capsys).endswith("its files are not those of its record; repeat `rupert run`")
    weights.write_bytes(whole[:-9])
    assert "model.safetensors is damaged" in refused(command, capsys)
    weights.unlink()
    assert "model.safetensors is missing" in refused(command, capsys)
    assert not (tmp_path / "m").exists()


def test_pickles_are_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pytorch_model.bin", "optimizer.pt"):
        (hardened(study) / name).write_bytes(b"")
        line = refused(["release", str(study), "--output-dir", str(tmp_path / "m")], capsys)
        assert f"holds '{name}', which is not safetensors; only these are published" in line
        (hardened(study) / name).unlink()
    assert not (tmp_path / "m").exists()


def test_a_hardening_that_is_not_done_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(hardened(study))
    line = refused(["release", str(study), "--output-dir", str(tmp_path / "m")], capsys)
    assert "--defense: 'sdd' of seed 0 has no weights yet (defend sdd-seed0: to do); repeat `rupert run`" in line
    line = refused(["release", str(study), "--seed", "7", "--output-dir", str(tmp_path / "m")], capsys)
    assert line == "rupert: --seed: 7 is not valid; the study has 0"


def test_a_copy_that_fails_leaves_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert refused(["release", str(study), "--output-dir", str(tmp_path / "m")], capsys, code=1).startswith(
        "rupert: no space left on the disk"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_upload_is_private_unless_it_is_asked_for(
    study: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["release", str(study), "--push-to-hub", "me/drop", "--output-dir", str(tmp_path / "m")]
    assert main(command) == 0
    assert [name for name, _ in hub.asked] == ["whoami", "repo_exists", "create_repo", "upload_folder"]
    assert hub.asked[2][1] == {"repo_id": "me/drop", "private": True, "exist_ok": False}
    assert hub.asked[3][1]["repo_id"] == "me/drop"
    assert {name: hashlib.sha256(content).hexdigest() for name, content in hub.uploaded.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "m").iterdir()
    }
    assert "https://huggingface.co/me/drop" in capsys.readouterr().out
    assert ModelCard.load(tmp_path / "m" / "README.md").data.model_name == "drop"
    assert main([*command[:-1], str(tmp_path / "n"), "--public"]) == 0
    assert hub.asked[6][1]["private"] is False


def test_what_cannot_be_uploaded_is_said_before_anything_is_copied(
    study: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    command = ["release", str(study), "--output-dir", str(out), "--push-to-hub"]
    hub.problems = {"whoami": LocalTokenNotFoundError("no token")}
    assert refused([*command, "me/drop"], capsys) == (
        "rupert: --push-to-hub: nobody is logged in here; type `hf auth login`, or set HF_TOKEN"
    )
    hub.problems = {"whoami": ConnectionError("no route\nmore")}
    assert refused([*command, "me/drop"], capsys).startswith("rupert: --push-to-hub: no route; check login and network")
    hub.problems, hub.taken = {}, {"me/drop"}
    assert "'me/drop' is on the Hub already; name a new one" in refused([*command, "me/drop"], capsys)
    for name in ("drop", "me/a/b", "me/..", "me/ä", "https://huggingface.co/me/drop"):
        assert f"--push-to-hub: {name!r} is not valid; write OWNER/NAME" in refused([*command, name], capsys)
    line = refused(["release", str(study), "--output-dir", str(out), "--public"], capsys)
    assert line.startswith("rupert: --public goes with --push-to-hub")
    assert not out.exists()
    assert "create_repo" not in [name for name, _ in hub.asked]


def test_an_upload_that_fails_leaves_the_folder(
    study: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.problems = {"create_repo": HTTPError("Forbidden: no write token")}
    command = ["release", str(study), "--push-to-hub", "me/drop", "--output-dir", str(tmp_path / "m")]
    line = refused(command, capsys, code=1)
    assert line.startswith("rupert: --push-to-hub: Forbidden: no write token; ")
    assert line.endswith(f"is whole: upload it with `hf upload me/drop {tmp_path / 'm'}`")
    assert (tmp_path / "m" / "SHA256SUMS").exists()
