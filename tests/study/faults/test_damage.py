"""What is damaged or missing in a finished study is found and told, and done again to the same end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def cut(path: Path) -> None:
    """Leave half of a file, as a disk that filled up or a copy that was interrupted does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    """Leave something else in a file."""
    path.write_text("\N{SNOWMAN} not what it was\n", encoding="utf-8")


def alter(path: Path) -> None:
    """Change a file that stays as long as it was."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_middle(path: Path) -> None:
    """Lose a line, and spoil another."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:1], lines[1][:9] + "\n", *lines[3:]]), encoding="utf-8")


SET_ASIDE = [
    ("defend/sdd-", "model.safetensors", cut, "model.safetensors is damaged"),
    ("defend/sdd-", "model.safetensors", alter, "its model was changed"),
    ("defend/sdd-", "tokenizer.json", cut, "its model was changed"),
    ("defend/sdd-", "model.safetensors", Path.unlink, "model.safetensors is missing"),
    ("defend/none-", "result.json", cut, "result.json: damaged"),
    ("attack/sdd-", "result.json", garble, "result.json: damaged"),
    ("attack/sdd-", "request.json", cut, "request.json: damaged"),
    ("score/sdd-", "request.json", garble, "request.json: damaged"),
    ("score/sdd-", "outcomes.jsonl", cut, "outcomes.jsonl: "),
]


@pytest.mark.parametrize(("stage", "file", "harm", "told"), SET_ASIDE)
def test_a_damaged_stage_is_set_aside_and_done_again(
    stage: str, file: str, harm: Callable[[Path], None], told: str, bench: Any
) -> None:
    bench.restore()
    folder = bench.stage(stage)
    harm(folder / file)
    before = contents(folder)
    ended = bench.run()
    assert ended.code == 0, ended.said
    [line] = ended.told
    assert told in line
    assert f"{folder.parent.name} {folder.name[:-13]} is done again" in line
    assert bench.started() == [f"{folder.parent.name} {folder.name[:-13]}"]
    [aside] = (bench.store / "damaged").iterdir()
    assert str(aside) in line
    assert contents(aside) == before  # nothing of it is lost
    bench.require_same()


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("answers.jsonl", cut),
        ("answers.jsonl", drop_middle),
        ("answers.jsonl", Path.unlink),
        ("verdicts/oracle.jsonl", garble),
        ("verdicts/oracle.jsonl", Path.unlink),
        ("signals.jsonl", cut),
        ("calibration.json", cut),
        ("outcomes.jsonl", cut),
        ("result.json", Path.unlink),
    ],
)
def test_a_damaged_evaluation_is_mended_from_what_is_sound(file: str, harm: Callable[[Path], None], bench: Any) -> None:
    bench.restore()
    harm(bench.stage("evaluate/none-none") / file)
    ended = bench.run()
    assert ended.code == 0, ended.said
    [line] = ended.told
    assert line.endswith("evaluate none-none-seed0 is mended")
    assert Path(file).name in line or "verdicts" in line or "record" in line
    assert bench.started() == ["evaluate none-none-seed0"]
    bench.require_same()


@pytest.mark.parametrize("harm", [cut, alter])
def test_attacked_weights_that_are_damaged_before_they_are_measured_are_made_again(
    harm: Callable[[Path], None], bench: Any
) -> None:
    bench.restore("attack/sdd-", "evaluate/sdd-fine_tune")
    assert bench.run(die_at_file={"store": str(bench.store), "what": "mkdir working/evaluate"}).code == -9
    harm(bench.stage("attack/sdd-") / "model.safetensors")
    ended = bench.run()
    assert ended.code == 0, ended.said
    assert len(ended.told) == 1
    assert bench.started()[1:] == ["attack sdd-fine_tune-seed0", "evaluate sdd-fine_tune-seed0"]
    bench.require_same()


@pytest.mark.parametrize(
    ("stage", "again"),
    [
        ("defend/none-", ["defend none"]),
        ("defend/sdd-", ["defend sdd-seed0"]),
        ("attack/sdd-", ["attack sdd-fine_tune-seed0"]),
        ("evaluate/none-none", ["evaluate none-none-seed0"]),
        ("score/none-", ["score none-potionworld-seed0"]),
    ],
)
def test_a_deleted_stage_is_done_again_and_nothing_that_was_made_from_it(
    stage: str, again: list[str], bench: Any
) -> None:
    bench.restore(stage)
    ended = bench.run()
    assert ended.code == 0, ended.said
    assert ended.told == []
    assert bench.started() == again
    bench.require_same()


def test_a_store_that_was_copied_or_has_lost_its_times_is_still_done(bench: Any) -> None:
    """Every file is newer than the next one by name, the records are among the oldest."""
    bench.restore()
    for kind in ("defend", "attack", "evaluate", "score"):
        for path in sorted((bench.store / kind).rglob("*"), reverse=True):
            if path.is_file():
                shutil.copyfile(path, path.with_name("copy"))
                path.with_name("copy").replace(path)
    ended = bench.run()
    assert (ended.code, ended.told, bench.started()) == (0, [], [])
    bench.require_same()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
