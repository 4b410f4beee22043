"""`rupert attack NAME --eval-steps`: a table of points, the file behind it, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.evaluation.trajectory import read_points

ATTACK = ["attack", "fine_tune", "--model", "potionworld", "--data", "potionworld:attacker", "--num-examples", "16"]
ATTACK += ["--per-device-train-batch-size", "8", "--max-steps", "2", "--max-length", "64"]


def test_points_are_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "measured.yaml"
    config.write_text("{limit: 4, max_new_tokens: 8, half: selection}")
    command = [*ATTACK, "--output-dir", str(tmp_path / "a"), "--eval-steps", "1", "--eval-config", str(config)]
    assert main([*command, "--eval-limit", "3"]) == 0
    shown = capsys.readouterr().out.splitlines()
    points = read_points(tmp_path / "a" / "trajectory.jsonl")
    assert [(point.step, point.rows, point.harm.n) for point in points] == [(1, 8, 3), (2, 16, 3)]
    assert "model.safetensors" in [path.name for path in (tmp_path / "a").iterdir()]
    header = next(number for number, row in enumerate(shown) if row.startswith("step "))
    assert [row.split()[:3] for row in shown[header + 2 : header + 4]] == [
        [str(point.step), str(point.rows), f"{point.tokens:,}"] for point in points
    ]
    assert max(map(len, shown[header : header + 4])) <= 80


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--eval-steps", "-1"],
            "eval_steps: -1.0 is not valid; give a share of all steps below 1, a whole ",
        ),
        (
            ["--eval-steps", "2.5"],
            "eval_steps: 2.5 is not valid; give a share of all steps below 1, a whole ",
        ),
        (["--eval-steps", "x"], "--eval-steps: 'x' is not valid; give a finite number"),
        (["--eval-limit", "3"], "--eval-limit: needs --eval-steps, such as 0.2"),
        (["--eval-config", "demo"], "--eval-config: needs --eval-steps, such as 0.2"),
        (["--eval-steps", "1", "--eval-limit", "0"], "limit: 0 is not valid; must be above 0"),
        (["--eval-steps", "1", "--eval-limit", "many"], "--eval-limit: 'many' is not valid; give a whole number"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ATTACK, "--output-dir", str(tmp_path / "a"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rupert: {message}")
    assert not (tmp_path / "a").exists()
