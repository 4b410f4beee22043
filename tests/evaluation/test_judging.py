"""A folder of answers with its judges: verdicts in files of their own, what they say together, and what is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rupert.errors import DataError, FolderError
from rupert.evaluation.answers import read_answers
from rupert.evaluation.coherence.calibration import Calibration, write_calibration
from rupert.evaluation.coherence.kinds import Thresholds
from rupert.evaluation.coherence.signals import Signals, write_signals
from rupert.evaluation.judges import Answer, Oracle, RefusalWords, Verdict
from rupert.evaluation.judging import Judged, damage, is_of_judges, judge, read_judged, with_refusals
from rupert.evaluation.outcomes import Outcome
from rupert.evaluation.rows import write_rows
from rupert.evaluation.statistics import wilson

TEXTS = ("a b", "i cannot help with that .", "c d", "x x x x")


class Unsure:
    """Says nothing of the first answer, and of no answer whether it declines."""

    def check(self) -> None: ...

    def __call__(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict(None, None, problem="no reply"), *(Verdict(False, None) for _ in answers[1:])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked = {"of": len(TEXTS), "category": "k", "reference": "a b"}
    rows = [{"number": n, **asked, "request": f"r{n}", "text": text} for n, text in enumerate(TEXTS)]
    write_rows(rows, tmp_path / "answers.jsonl")
    return tmp_path


def weigh(folder: Path) -> None:
    signals = [Signals(0.0, -1.0), Signals(0.0, -1.0), Signals(0.0, -1.0), Signals(0.9, -1.0)]
    write_signals(signals, folder / "signals.jsonl")
    thresholds = Thresholds(repetition=0.5, log_probability=-5)
    write_calibration(Calibration(identity="i", thresholds=thresholds, contexts=()), folder / "calibration.json")


def test_the_first_judge_gives_harm_and_each_other_has_its_name(folder: Path) -> None:
    judge(folder, {"refusal_words": RefusalWords(), "oracle": Oracle()})
    measured = read_judged(folder, "oracle").measured()
    values = {metric.name: metric for metric in measured.metrics}
    assert values["harm"] == wilson(1, 4).metric("harm")
    assert values["refusal"] == wilson(1, 4).metric("refusal")
    assert values["harm/refusal_words"] == wilson(3, 4).metric("harm/refusal_words")
    assert "kappa/oracle/refusal_words" in values
    assert not any(name.startswith("answers/") for name in values)
    assert all(is_of_judges(name) for name in values)
    assert not is_of_judges("ability/questions")
    assert not is_of_judges("over_refusal")


def test_outcomes_name_the_request_and_leave_the_unscored_open(folder: Path) -> None:
    judge(folder, {"unsure": Unsure()})
    outcomes = read_judged(folder).measured().outcomes
    assert {outcome.metric for outcome in outcomes} == {"harm"}  # it says nothing of refusals
    assert [outcome.value for outcome in outcomes] == [None, 0.0, 0.0, 0.0]
    assert len({outcome.item for outcome in outcomes}) == 4
    assert isinstance(outcomes[0], Outcome)


def test_answers_are_classified_where_a_reference_weighed_them(folder: Path) -> None:
    judge(folder, {"oracle": Oracle()})
    weigh(folder)
    judged = read_judged(folder, "oracle")
    assert judged.kinds == ["harmful", "refusal", "irrelevant", "degenerate"]
    values = {metric.name: metric for metric in judged.measured().metrics}
    assert values["harm_coherent"] == wilson(1, 3).metric("harm_coherent")
    assert values["answers/degenerate"] == wilson(1, 4).metric("answers/degenerate")


def test_a_judge_that_says_nothing_of_refusals_is_helped_by_the_phrases(folder: Path) -> None:
    judge(folder, {"unsure": Unsure()})
    weigh(folder)
    judged = read_judged(folder)
    assert judged.kinds == ["unscored", "refusal", "irrelevant", "degenerate"]
    helped = with_refusals(judged.answers, judged.verdicts["unsure"])
    assert [verdict.refusal for verdict in helped] == [False, True, False, False]
    assert helped[0].problem == "no reply"


def test_what_judges_cost_is_added_up(folder: Path) -> None:
    paid = [Verdict(False, None, tokens=tokens) for tokens in (400, 0, 20, 3)]
    answers = read_answers(folder / "answers.jsonl")
    assert Judged(answers, {"a": paid, "free": [Verdict(False, None)] * 4}, []).tokens() == {"a": 423}


def test_judging_again_replaces_a_judges_verdicts(folder: Path) -> None:
    judge(folder, {"a": Unsure()})
    judge(folder, {"a": Oracle()})
    assert read_judged(folder).verdicts == {"a": Oracle()(read_judged(folder).answers)}


def test_what_is_missing_or_damaged_is_found(folder: Path) -> None:
    assert "holds no verdicts" in damage(folder)
    with pytest.raises(FolderError, match="holds no verdicts; run `rupert eval` first"):
        read_judged(folder)
    judge(folder, {"oracle": Oracle()})
    assert not damage(folder)
    answers = folder / "answers.jsonl"
    content = answers.read_bytes()
    answers.write_bytes(content[:-20])
    assert "answers" in damage(folder)
    answers.write_bytes(content.replace(b"c d", b"c e"))
    with pytest.raises(DataError, match="its verdicts are of other answers"):
        read_judged(folder)
