"""A disk without room, or without permission: one line says what to do, and with room it goes on to the same end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.records import read_record

SIZE = "100m"
A_LITTLE, A_MODEL = 1 << 20, 5 << 20  # bytes: too few for weights; too few for an optimizer's state
TRAINED = ["attack/sdd-", "evaluate/sdd-fine_tune"]


@pytest.fixture
def small(bench: Any) -> Iterator[Any]:
    """A bench on a small disk of its own, where one can be mounted, and otherwise one with a quota."""
    place = bench.root / "small"
    place.mkdir()
    mounted = mount(place, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    try:
        yield replace(bench, root=place)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def mount(place: Path, *options: str) -> bool:
    """Whether it could be done."""
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode == 0
    return False


FULL = [
    (["defend/sdd-"], "open .study.json"),
    (["defend/sdd-"], "open working/.*pairs.jsonl"),
    (["defend/sdd-"], "mkdir .*checkpoint-1$", A_LITTLE),
    (["defend/sdd-"], "mkdir .*checkpoint-1$", A_MODEL),
    (["defend/sdd-"], "open .*checkpoint-2/trainer_state.json"),
    (["defend/sdd-"], "open working/defend-[^/]*/chat_template"),
    (TRAINED, "open working/attack-[^/]*/tokenizer_config.json"),
    (TRAINED, "open working/attack-[^/]*/config.json", A_LITTLE),
    (TRAINED, "open working/attack-[^/]*/.result.json"),
    (["evaluate/none-none"], "open .*/answers.jsonl"),
    (["evaluate/none-none"], "open .*/.result.json"),
    (["score/none-"], "open .*/.fine_tuning.json"),
    ([], "open .results.csv"),
    ([], "open .report.html"),
]


@pytest.mark.parametrize("point", FULL)
def test_a_full_disk_is_told_and_with_room_it_goes_on(point: Any, small: Any) -> None:
    filler = small.root / "filler" if os.path.ismount(small.root) else None
    _fill_and_go_on(small, *point, filler=filler)


@pytest.mark.parametrize("point", [FULL[3], FULL[7], FULL[8], FULL[12]])
def test_a_file_that_may_not_grow_leaves_nothing_half_done(point: Any, bench: Any) -> None:
    _fill_and_go_on(bench, *point)


def _fill_and_go_on(bench: Any, without: list[str], when: str, room: int = 0, filler: Path | None = None) -> None:
    bench.restore(*without)
    fault = {"store": str(bench.store), "what": when, "filler": str(filler or ""), "room": room}
    outside = replace(bench, root=bench.root.parent) if filler else bench
    ended = outside.run_in(bench.store, fill_disk_at_file=fault)
    assert ended.code != 0, ended.said
    if filler:
        assert filler.stat().st_size > 0
        assert ended.code == 1
        [line] = ended.told
        assert ("no space left" in line and "repeat the command" in line) or "are needed" in line
        filler.unlink()
    ended = outside.run_in(bench.store)
    assert (ended.code, ended.told) == (0, []), ended.said
    bench.require_same()


def test_a_folder_without_permission_is_told_and_still_read(bench: Any) -> None:
    bench.restore(*TRAINED)
    before = bench.content()
    for path in [bench.store, *bench.store.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    _require_refusal(bench)
    assert bench.content() == before
    for path in [bench.store, *bench.store.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert bench.run().code == 0
    bench.require_same()


def test_a_disk_that_may_only_be_read_is_told_and_still_read(small: Any) -> None:
    small.restore(*TRAINED)
    outside = replace(small, root=small.root.parent)
    is_mounted = os.path.ismount(small.root) and mount(small.root, "-o", "remount,ro")
    if not is_mounted:
        small.store.chmod(0o555)
    ended = outside.run_in(small.store, lose_rights={})
    assert ended.code == 2, ended.said
    [line] = ended.told
    assert line.startswith("rupert: no permission for ")
    assert line.endswith("name another place or change its permissions")
    assert read_record(small.stage("defend/sdd-")).method == "sdd"
    if is_mounted:
        assert mount(small.root, "-o", "remount,rw")
    small.store.chmod(0o755)
    assert outside.run_in(small.store).code == 0
    small.require_same()


def _require_refusal(bench: Any) -> None:
    ended = bench.run(lose_rights={})
    assert ended.code == 2, ended.said
    [line] = ended.told
    assert line.startswith("rupert: no permission for ")
    assert str(bench.store) in line
    assert line.endswith("name another place or change its permissions")
    assert read_record(bench.stage("defend/sdd-")).method == "sdd"
