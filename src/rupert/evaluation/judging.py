"""An evaluation's folder and its judges: each judge's verdicts in a file of its own, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rupert.data.examples import Example
from rupert.errors import DataError, FolderError, UsageError
from rupert.evaluation import agreement, harmfulness
from rupert.evaluation.answers import read_answers
from rupert.evaluation.coherence.calibration import read_calibration
from rupert.evaluation.coherence.kinds import Kind, classify
from rupert.evaluation.coherence.kinds import metrics as share_of_kinds
from rupert.evaluation.coherence.signals import read_signals
from rupert.evaluation.judges import RefusalWords
from rupert.evaluation.judges.judge import Answer, Judge, Verdict
from rupert.evaluation.outcomes import Measured, Outcome, outcomes
from rupert.records import Record, read_record

ANSWERS_FILE = "answers.jsonl"
VERDICTS_FOLDER = "verdicts"
SIGNALS_FILE = "signals.jsonl"
CALIBRATION_FILE = "calibration.json"

OF_JUDGES = frozenset({"harm", "harm_score", "harm_coherent", "refusal", "unscored", "answers", "kappa"})


@dataclass(frozen=True, slots=True)
class Judged:
    """The answers of a folder and what was said of them.

    Attributes:
        answers: in the order of the requests.
        verdicts: by judge, the one that gives `harm` first.
        kinds: of each answer; empty where no reference model said what is coherent.
    """

    answers: Sequence[Answer]
    verdicts: Mapping[str, Sequence[Verdict]]
    kinds: Sequence[Kind]

    def measured(self) -> Measured:
        """What is known of the answers: rates of the first judge by their plain names, of each other under its own.

        The outcomes are harm and refusal of each answer, by which two models are compared on the same requests.
        """
        first, *others = self.verdicts
        asked = [Example(answer.request, "").key() for answer in self.answers]
        metrics = [
            *harmfulness.aggregate(self.verdicts[first]),
            *reversed(share_of_kinds(self.kinds)),
            *(metric for judge in others for metric in harmfulness.aggregate(self.verdicts[judge], f"/{judge}")),
            *(agreement.panel(self.verdicts).metrics() if others else []),
        ]
        return Measured(
            # The panel counts the unscored of each judge, the first one's rate says so too.
            metrics=tuple({metric.name: metric for metric in metrics}.values()),
            outcomes=tuple(
                outcome
                for judge in self.verdicts
                for outcome in _outcomes(asked, self.verdicts[judge], "" if judge == first else f"/{judge}")
            ),
        )

    def tokens(self) -> dict[str, int]:
        """What each judge cost an endpoint, of those that cost anything; replies from the cache are free."""
        spent = {judge: sum(verdict.tokens for verdict in said) for judge, said in self.verdicts.items()}
        return {judge: tokens for judge, tokens in spent.items() if tokens}


def judge(folder: Path, judges: Mapping[str, Judge]) -> None:
    """Let each judge say what it thinks of a folder's answers; earlier verdicts of the same judge are replaced."""
    (folder / VERDICTS_FOLDER).mkdir(exist_ok=True)
    for name, one in judges.items():
        harmfulness.write_verdicts(folder / ANSWERS_FILE, one, _verdicts_file(folder, name))


def read_evaluation(folder: Path) -> Record:
    """The record of a finished evaluation.

    Raises:
        FolderError: the folder holds none, or another stage's.
    """
    record = read_record(folder)
    if record.stage != "evaluate":
        raise FolderError(f"{str(folder)!r} holds the stage {record.stage!r}; name what `rupert eval` wrote")
    return record


def damage(folder: Path) -> str:
    """What is wrong with the answers and verdicts of a finished evaluation; empty where nothing is."""
    try:
        read_judged(folder)
    except UsageError as error:
        return str(error)
    return ""


def read_judged(folder: Path, first: str = "") -> Judged:
    """Everything that a folder holds of its answers.

    Args:
        folder: of an evaluation.
        first: the judge that gives `harm`, and by whose verdicts answers are classified; the first by name where empty.

    Raises:
        FolderError: nothing was judged there.
        DataError: a file is damaged.
    """
    answers = read_answers(folder / ANSWERS_FILE)
    names = sorted(path.stem for path in (folder / VERDICTS_FOLDER).glob("*.jsonl"))
    if not names:
        raise FolderError(f"{folder}: holds no verdicts; run `rupert eval` first")
    names.sort(key=lambda name: name != first)
    verdicts = {name: harmfulness.read_verdicts(_verdicts_file(folder, name), answers) for name in names}
    return Judged(answers, verdicts, _kinds(folder, answers, verdicts[names[0]]))


def is_of_judges(name: str) -> bool:
    """Whether a metric comes from verdicts, so that judging again replaces it."""
    return name.partition("/")[0] in OF_JUDGES


def with_refusals(answers: Sequence[Answer], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, with `refusal` by the phrases of refusal where a judge says nothing of it."""
    by_words = RefusalWords()(answers)
    return [
        verdict if verdict.refusal is not None else replace(verdict, refusal=words.refusal)
        for verdict, words in zip(verdicts, by_words, strict=True)
    ]


def _kinds(folder: Path, answers: Sequence[Answer], verdicts: Sequence[Verdict]) -> list[Kind]:
    if not (folder / SIGNALS_FILE).exists():
        return []
    signals = read_signals(folder / SIGNALS_FILE)
    if len(signals) != len(answers):
        raise DataError(f"{folder / SIGNALS_FILE}: is of {len(signals)} answers, not {len(answers)}; evaluate again")
    thresholds = read_calibration(folder / CALIBRATION_FILE).thresholds
    return classify(answers, with_refusals(answers, verdicts), signals, thresholds)


def _outcomes(asked: Sequence[str], verdicts: Sequence[Verdict], suffix: str) -> list[Outcome]:
    """Harm and refusal of each answer, where the judge speaks of them."""
    said = {
        "harm": [verdict.harmful for verdict in verdicts],
        "refusal": [verdict.refusal for verdict in verdicts],
    }
    return [
        outcome
        for name, values in said.items()
        if any(value is not None for value in values)
        for outcome in outcomes(
            f"{name}{suffix}",
            [(key, None if value is None else float(value)) for key, value in zip(asked, values, strict=True)],
        )
    ]


def _verdicts_file(folder: Path, name: str) -> Path:
    return folder / VERDICTS_FOLDER / f"{name}.jsonl"
