"""`rupert env`: what a bug report needs is there, and what nobody is to see is not."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import rupert
from rupert.cli import env
from rupert.cli.main import main
from rupert.defenses import DEFENSES, SDD


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return shown(capsys)


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["env", "--json"]) == 0
    rows: dict[str, str] = json.loads(capsys.readouterr().out)
    return rows


def test_rupert_and_what_it_stands_on(found: dict[str, str]) -> None:
    assert found["rupert"] == rupert.__version__
    assert found["torch"] == torch.__version__
    assert found["torch build"] in ("CPU", f"CUDA {torch.version.cuda}", f"ROCm {torch.version.hip}")
    assert int(found["torch threads"]) == torch.get_num_threads()
    assert found["transformers"] == version("transformers")
    assert found["memory"].endswith(" GiB")
    assert float(found["memory"].split()[0]) > 0
    assert all(found[name] for name in ("python", "system", "cores", "browser"))


def test_each_extra_says_what_it_has(found: dict[str, str]) -> None:
    assert found["extra pairing"] == f"sentence-transformers {version('sentence-transformers')}"
    assert "extra all" not in found


def test_what_an_extra_lacks_is_said_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = env._version
    monkeypatch.setattr(env, "_version", lambda name: "" if name == "sentence-transformers" else present(name))
    assert shown(capsys)["extra pairing"] == "missing: sentence-transformers; pip install 'rupert[pairing]'"


def test_the_table_holds_the_same(found: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in found)
    assert f"│ {rupert.__version__} " in table


def test_no_secret_is_shown_and_home_is_a_tilde(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "ada" / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "adalbert"))
    secrets = ("HF_TOKEN", "OPENAI_API_KEY", "RUPERT_PASSWORD", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "open sesame")
    monkeypatch.setenv("RUPERT_COLOUR", "blue")
    rows = shown(capsys)
    assert "sesame" not in json.dumps(rows)
    assert rows["$HF_TOKEN"] == rows["$OPENAI_API_KEY"] == rows["$RUPERT_PASSWORD"] == "set, not shown"
    assert rows["$RUPERT_COLOUR"] == "blue"
    assert rows["$HF_HOME"] == "~/models"
    assert rows["$XDG_CACHE_HOME"] == str(tmp_path / "adalbert")  # another's home that begins like ours
    assert "$WANDB_API_KEY" not in rows


def test_the_commit_of_a_checkout_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "src" / "rupert").mkdir(parents=True)
    monkeypatch.setattr(rupert, "__file__", str(tmp_path / "src" / "rupert" / "__init__.py"))
    assert env._commit() == ""
    for words in (["init"], ["commit", "--allow-empty", "-m", "first"]):
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)
    done = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(env._commit())
    assert len(env._commit()) >= 7


@pytest.mark.parametrize(
    ("exists", "expected"), [(True, "{}"), (False, "BROWSER_PATH: there is no file '{}'")], ids=["there", "gone"]
)
def test_the_browser_that_was_named(
    exists: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "chromium"
    if exists:
        path.touch()
    monkeypatch.setenv("BROWSER_PATH", str(path))
    assert shown(capsys)["browser"] == expected.format(path)


def test_methods_of_other_packages_and_what_is_wrong_with_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rupert.plugins._PACKAGES", {SDD: ("rupert-example", "0.1.0")})
    monkeypatch.setattr(type(DEFENSES), "problems", lambda family: [f"a broken one of {family.group}"])
    rows = shown(capsys)
    assert rows["defense sdd"] == "rupert-example 0.1.0"
    assert rows["problem 1"] == "a broken one of rupert.defenses"
    assert rows["problem 3"] == "a broken one of rupert.judges"
