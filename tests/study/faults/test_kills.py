"""`kill -9` at each boundary of a stage and inside it: what is resumed ends as what was never disturbed, bit for bit.

A run is a fork that kills itself, either before it changes a certain file of the store, or when it calls a certain
function. Each stage begins from a store in which only this stage is missing, or what depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

AT_ONCE = 2


def before(what: str, number: int = 1) -> dict[str, Any]:
    """Killed before a change of a file."""
    return {"die_at_file": {"what": what, "number": number}}


def at(of: str, number: int = 1) -> dict[str, Any]:
    """Killed at a call."""
    return {"die_at_call": {"of": of, "number": number}}


TRAINING = "rupert.training.trainer:HardeningTrainer.training_step"
FINE_TUNING = "trl:SFTTrainer.training_step"
JUDGING = "rupert.evaluation.judges.oracle:Oracle.__call__"
ANSWER = "rupert.evaluation.answers:line"
WEIGHING = "rupert.evaluation.coherence.reference:measure"
SCORING = "rupert.evaluation.fine_tuning_score:read_answers"

HARDENING = (
    before("rename .study.json"),
    before("mkdir working/defend"),
    before("rename .*request.json"),
    before("open .*pairs.jsonl"),
    before("mkdir .*checkpoint-1$"),
    before("open .*checkpoint-2/trainer_state.json"),
    before("remove .*checkpoint-1/trainer_state.json"),
    at(TRAINING, 3),
    before("open .*/defend-[^/]*/chat_template"),
    before("open .*/defend-[^/]*/.result.json"),
    before("rename .*result.json"),
    before("remove .*checkpoint-3/trainer_state.json"),
    before("rename working/defend-[^/]* ->"),
)
KEEPING = (before("open .*/config.json"), before("rename .*result.json"), before("rename working/defend-[^/]* ->"))
ATTACKING = (
    before("mkdir working/attack"),
    before("rename .*request.json"),
    at(FINE_TUNING, 1),
    at(FINE_TUNING, 2),
    before("open .*/attack-[^/]*/config.json"),
    before("rename working/attack-[^/]*/.result.json"),
    before("rename working/attack-[^/]* ->"),
    before("mkdir working/evaluate"),
    before("remove attack/.*model.safetensors"),
)
EVALUATING = (
    before("mkdir working/restore"),
    at(FINE_TUNING, 2),
    before("rename working/restore.*model.safetensors"),
    before("rmdir working/restore"),
    before("rename working/evaluate.*request.json"),
    at(ANSWER, 5),
    before("rename .*answers.jsonl", 2),
    before("mkdir .*verdicts"),
    at(JUDGING),
    before("rename .*oracle.jsonl"),
    at(WEIGHING),
    before("rename working/evaluate.*result.json"),
    before("rename working/evaluate-[^/]* ->"),
    before("remove attack/.*model.safetensors"),
)
FINE_TUNING_SCORE = (
    before("mkdir working/score"),
    at(ANSWER, 3),
    at(SCORING),
    at(FINE_TUNING),
    at(ANSWER, 7),
    before("rename .*fine_tuning.json"),
    at(SCORING, 2),
    before("rename .*result.json"),
    before("rename working/score-[^/]* ->"),
)
ENDING = (before("rename .*results.csv"), before("open .report.html"))

STAGES: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
    "hardening": (["defend/sdd-"], HARDENING),
    "keeping": (["defend/none-"], KEEPING),
    "attacking": (["attack/sdd-", "evaluate/sdd-fine_tune"], ATTACKING),
    "evaluating": (["evaluate/sdd-fine_tune"], EVALUATING),
    "scoring": (["score/sdd-"], FINE_TUNING_SCORE),
    "ending": ([], ENDING),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_was_killed_anywhere_is_resumed_to_the_same_end(stage: str, bench: Any) -> None:
    without, points = STAGES[stage]
    with ThreadPoolExecutor(AT_ONCE) as both:
        problems = both.map(lambda number: _problem(bench, number, without, points[number]), range(len(points)))
        assert [problem for problem in problems if problem] == []


def _problem(bench: Any, number: int, without: Sequence[str], point: Mapping[str, Any]) -> str:
    """Kill, resume, compare; what was wrong, if anything."""
    own = replace(bench, root=Path(bench.root / str(number)))
    own.root.mkdir()
    own.restore(*without)
    killed = own.run(**_in_store(point, own.store))
    resumed = own.run()
    try:
        assert killed.code == -9, killed.said
        assert resumed.code == 0, resumed.said
        assert resumed.told == []
        own.require_same()
        assert not (own.store / "damaged").exists()
    except AssertionError as error:
        return f"{point}: {error}"
    return ""


def _in_store(point: Mapping[str, Any], store: Path) -> dict[str, Any]:
    return {name: {"store": str(store), **how} if name == "die_at_file" else how for name, how in point.items()}


def test_a_study_that_is_killed_again_and_again_comes_to_the_same_end(bench: Any) -> None:
    """Each time after some more changes of files than the time before, wherever that is."""
    ends = []
    for number in range(3, 200, 12):
        ended = bench.run(die_at_file={"store": str(bench.store), "number": number})
        ends.append(ended.code)
        if ended.code != -9:
            break
    assert ends == [-9] * (len(ends) - 1) + [0], ended.said
    assert len(ends) > 4
    bench.require_same()
