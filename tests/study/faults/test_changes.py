"""Another study in the same folder: what it shares with the one before is not done again, and what is there stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

TRAININGS = ["rupert.study.stage.hardening:harden", "rupert.attacks.fine_tune:fine_tune"]
MEASURED = "evaluation: {limit: 6, batch_size: 2}"
MEASURED_OTHERWISE = "evaluation: {limit: 4, batch_size: 2}"
EVALUATIONS = ("evaluate sdd-fine_tune", "evaluate sdd-none")
UNDEFENDED = "defenses: {sdd: drop, seam: drop}\npairs_of: ''\n"


def stamps(store: Path) -> dict[str, tuple[int, str]]:
    """When each stage was done, and what came out."""
    return {
        path.parent.name: (path.stat().st_mtime_ns, path.read_text())
        for kind in ("defend", "attack", "evaluate", "score")
        for path in (store / kind).glob("*/result.json")
    }


@pytest.mark.parametrize(
    ("old", "new", "done"),
    [
        (
            "attacks:\n",
            "attacks:\n  more: {method: fine_tune, data: potionworld:attacker, num_examples: 8, learning_rate: 1e-3}\n",
            ["attack none-more", "attack sdd-more", "evaluate none-more", "evaluate sdd-more"],
        ),
        (
            "sdd: {",
            "sdd: {learning_rate: 5e-4, ",
            # None of the undefended model: the pairs that it is measured on are the same.
            [
                "attack sdd-fine_tune",
                "defend sdd",
                "evaluate sdd-fine_tune",
                "evaluate sdd-none",
                "score sdd-potionworld",
            ],
        ),
        ("num_examples: 4,", "num_examples: 6,", ["score none-potionworld", "score sdd-potionworld"]),
    ],
)
def test_only_what_changed_is_done(old: str, new: str, done: list[str], bench: Any) -> None:
    bench.restore()
    before = stamps(bench.store)
    assert old in bench.study
    ended = bench.run(study=bench.study.replace(old, new))
    assert ended.code == 0, ended.said
    assert ended.told == []
    assert sorted(bench.started()) == [f"{stage}-seed0" for stage in done]
    assert before.items() <= stamps(bench.store).items()
    bench.starts.write_text("")
    ended = bench.run()  # the first study again: nothing of it has gone
    assert (ended.code, bench.started()) == (0, [])


def test_an_evaluation_that_is_added_finds_attacked_weights_as_they_were(bench: Any) -> None:
    """By repetition of the attack where nothing was kept of them; otherwise nothing is trained."""
    plain = [_added(bench, attacked, lora="") for attacked in ("drop", "delta", "keep")]
    assert plain[0] == plain[1] == plain[2]
    adapted = [_added(bench, attacked, lora="lora: true, lora_r: 2, ") for attacked in ("delta", "keep")]
    assert adapted[0] == adapted[1] != plain[0]


def _added(bench: Any, attacked: str, lora: str) -> dict[str, Any]:
    """Run a study, then the same with another evaluation; what that found of the attacked model."""
    own = replace(bench, root=bench.root / f"{attacked}{bool(lora)}")
    own.root.mkdir()
    own.restore("attack/none-", "evaluate/none-fine_tune")
    study = own.study.partition("defenses:")[0] + UNDEFENDED + "attacks:" + own.study.partition("attacks:")[2]
    study = study.partition("scores:\n")[0].replace("fine_tune: {", "fine_tune: {" + lora) + f"attacked: {attacked}\n"
    first = own.run(study=study)
    assert first.code == 0, first.said
    folder = own.stage("attack/none-")
    kept = {name for name in ("model.safetensors", "weights.delta", "adapter") if (folder / name).exists()}
    assert (
        kept
        == {"drop": set(), "delta": {"adapter" if lora else "weights.delta"}, "keep": {"model.safetensors"}}[attacked]
    )
    own.starts.write_text("")
    faults = {} if attacked == "drop" else {"refuse_call": {"of": TRAININGS}}
    added = own.run(study=study.replace(MEASURED, MEASURED_OTHERWISE), **faults)
    assert added.code == 0, added.said
    assert sorted(own.started()) == ["evaluate none-fine_tune-seed0", "evaluate none-none"]
    assert kept == {name for name in ("model.safetensors", "weights.delta", "adapter") if (folder / name).exists()}
    assert list((own.store / "working").iterdir()) == []
    newest = max(own.store.glob("evaluate/none-fine_tune*"), key=lambda path: (path / "result.json").stat().st_mtime_ns)
    return {path.split("/", 2)[2]: found for path, found in own.content().items() if f"/{newest.name}/" in path}


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_difference_that_was_cut_short_is_set_aside_and_the_attack_done_again(keep: float, bench: Any) -> None:
    bench.restore("attack/none-", "evaluate/none-fine_tune")
    study = bench.study + "attacked: delta\n"
    assert bench.run(study=study).code == 0
    path = bench.stage("attack/none-") / "weights.delta"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    bench.starts.write_text("")
    ended = bench.run(study=study)
    assert ended.code == 0, ended.said
    [line] = ended.told
    assert line.startswith("weights.delta is damaged; attack none-fine_tune-seed0 is done again, the old folder is ")
    assert bench.started() == ["attack none-fine_tune-seed0"]
    assert path.read_bytes() == whole
    path.unlink()
    bench.require_same()


def test_a_difference_with_other_bits_is_told_with_what_to_do(bench: Any) -> None:
    bench.restore("attack/none-", "evaluate/none-fine_tune")
    study = bench.study + "attacked: delta\n"
    assert bench.run(study=study).code == 0
    path = bench.stage("attack/none-") / "weights.delta"
    spoilt = bytearray(path.read_bytes())
    spoilt[-len(spoilt) // 2] ^= 255
    path.write_bytes(spoilt)
    more = study.replace("limit: 6", "limit: 5")
    ended = bench.run(study=more)
    assert ended.code == 1
    assert any(str(path) in line and "delete it and repeat" in line for line in ended.told), ended.said
    path.unlink()  # what the message says
    ended = bench.run(study=more)
    assert (ended.code, ended.told) == (0, [])
