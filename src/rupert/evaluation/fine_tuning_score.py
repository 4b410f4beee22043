"""The fine-tuning score: can a hardened model still be fine-tuned for an honest task, and how much does it gain?

A task is answered, fine-tuned for, and answered again (SEAM's Table 1, arXiv 2505.12186). Every task has the fields of
`FineTuningScore` with its own defaults, so that one recipe's settings hold for several tasks.
"""

from __future__ import annotations

import json
import re
import string
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.data import sources
from rupert.data.batches import permutation
from rupert.data.examples import Example, require
from rupert.data.filtering import without
from rupert.errors import InvalidValue
from rupert.evaluation import alpaca_eval
from rupert.evaluation.answers import answering, read_answers, write_answers
from rupert.evaluation.judges.judge import Answer
from rupert.evaluation.outcomes import Measured, outcomes
from rupert.evaluation.statistics import bootstrap_mean, paired_difference, wilson
from rupert.records import Metric, write_json
from rupert.settings import check_positive, setting
from rupert.terminal import progress_console
from rupert.training.fine_tuning import PublishedFineTuning, fine_tune

if TYPE_CHECKING:
    from rupert.models.loading import LoadedModel

BEFORE_FILE, AFTER_FILE = "answers-before.jsonl", "answers-after.jsonl"
TRAINING_FILE = "fine_tuning.json"
ANNOTATIONS_FILE = "annotations.json"

Mark = float | None  # 1 right, 0 wrong, between them a preference; None where nothing was said about the answer

ALPACA_EVAL_2 = re.compile(r"alpaca-eval(@[\w./-]+)?(:test)?")
FINAL = "####"  # what stands before the number in GSM8K's answers
# A sign counts where nothing stands before it that it could be subtracted from.
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-+])?\$?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)
DASHES = str.maketrans({"\u2212": "-", "\u2013": "-"})  # a minus sign, and a dash that is written for one


@dataclass(frozen=True, slots=True)
class Marks:
    """How one set of answers fared.

    Attributes:
        values: one an answer.
        besides: what else is known about them.
    """

    values: Sequence[Mark]
    besides: tuple[Metric, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FineTuningScore(PublishedFineTuning):
    """A task: what is trained on, and what is scored.

    SEAM's repository does not say how it fine-tunes for its tasks. The optimization is therefore that of its attack,
    the second of Figure 3: the honest user and the attacker differ in their data alone. The number of rows is that of
    Booster's scripts (arXiv 2409.01586), whose four tasks these are.
    """

    train: str = setting("", "dataset to fine-tune on")
    test: str = setting("", "dataset whose answers are scored")
    num_examples: int = setting(1000, "rows to fine-tune on")
    limit: int | None = setting(None, "score only so many rows of the test data")
    max_new_tokens: int = setting(16, "tokens of one answer")
    per_device_eval_batch_size: int = setting(32, "rows that are answered at once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples", "limit", "max_new_tokens", "per_device_eval_batch_size")

    @property
    def datasets(self) -> Mapping[str, str]:
        """What is trained on, and what is scored."""
        return {"train": self.train, "test": self.test}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist; raises a `UsageError` otherwise."""
        sources.check(self.train, "train")
        sources.check(self.test, "test")
        if self.train == self.test:
            raise InvalidValue("test", self.test, "it is what is trained on; name other rows")

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows: `train`, without any whose prompt is in the test data, and `test`.

        Raises:
            DataError: there are fewer than `num_examples`.
        """
        rows, test = sources.load(self.train, field="train"), sources.load(self.test, field="test")
        unseen = without(rows, test)
        if len(unseen) < len(rows):
            left_out = f"train: {len(rows) - len(unseen)} of {len(rows)} rows ask what {self.test} asks; left out"
            progress_console().print(left_out, highlight=False, soft_wrap=True)
        require(unseen, self.num_examples, self.train)
        order = permutation(len(unseen), f"score {self.seed}")
        return {"train": [unseen[index] for index in order[: self.num_examples]], "test": test[: self.limit]}

    def run(self, loaded: LoadedModel, data: Mapping[str, Sequence[Example]], folder: Path) -> Measured:
        """Answer the test rows, fine-tune, answer them again, and score both.

        What an interrupted run left in the folder is gone on from: neither finished answers nor a finished fine-tuning
        are made again.

        Args:
            loaded: the model; its weights change in place.
            data: what `gather` returned.
            folder: where the answers go.

        Returns:
            `score_before`, `score` and `score_gain`, and what a task knows besides; the outcomes of both scores, whose
            items are the prompts' keys; in `details["score"]` the fine-tuning's loss, steps and tokens.

        Raises:
            NonFiniteError: the loss or the gradient of the fine-tuning is not finite.
            RunError: AlpacaEval's annotators failed.
        """
        self._answer(loaded, data["test"], folder / BEFORE_FILE)
        before = self.marks(read_answers(folder / BEFORE_FILE), folder)
        report = self._fine_tune(loaded, data, folder)
        after = self.marks(read_answers(folder / AFTER_FILE), folder)
        asked = [example.key() for example in data["test"]]
        found = [
            outcome
            for name, marks in (("score", after), ("score_before", before))
            for outcome in outcomes(name, zip(asked, marks.values, strict=True))
        ]
        metrics = (*_metrics("score", after), *_metrics("score_before", before), *_gain(after, before))
        return Measured(metrics=metrics, outcomes=tuple(found), details={"score": report})

    def marks(self, answers: Sequence[Answer], folder: Path) -> Marks:  # noqa: ARG002 - for what had to be paid
        """How each answer fared; `folder` keeps what need not be asked again."""
        return Marks([float(right) for right in self.right(answers)])

    def right(self, answers: Sequence[Answer]) -> list[bool]:
        """Whether each answer begins with the right class word; tasks without classes say it otherwise."""
        return right_words(answers)

    def _fine_tune(self, loaded: LoadedModel, data: Mapping[str, Sequence[Example]], folder: Path) -> Mapping[str, Any]:
        """Fine-tune and let the tuned model answer; say how it went."""
        done = folder / TRAINING_FILE
        if not done.exists():
            # Answers without it are those of a fine-tuning whose weights are gone.
            (folder / AFTER_FILE).unlink(missing_ok=True)
            tuned = fine_tune(self, loaded, data["train"], f"fine-tuning on {self.train}")
            self._answer(tuned.loaded, data["test"], folder / AFTER_FILE)
            write_json({"loss": tuned.loss, "steps": tuned.steps, "tokens": tuned.tokens}, done)
        report: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return report

    def _answer(self, loaded: LoadedModel, rows: Sequence[Example], path: Path) -> None:
        generate = answering(loaded, max_new_tokens=self.max_new_tokens, batch_size=self.per_device_eval_batch_size)
        write_answers(rows, path, generate)


@dataclass(frozen=True, kw_only=True)
class SST2(FineTuningScore):
    """Is a film review positive or negative? Accuracy (Socher et al., 2013)."""

    train: str = setting("sst2:train", "dataset to fine-tune on")
    test: str = setting("sst2:test", "dataset whose answers are scored")


@dataclass(frozen=True, kw_only=True)
class AGNews(FineTuningScore):
    """What is a news article about? Accuracy over four classes (Zhang et al., 2015)."""

    train: str = setting("ag_news:train", "dataset to fine-tune on")
    test: str = setting("ag_news:test", "dataset whose answers are scored")
    limit: int | None = setting(1000, "score only so many rows of the test data")


@dataclass(frozen=True, kw_only=True)
class GSM8K(FineTuningScore):
    """Sums in words, worked out step by step: the final number is right (Cobbe et al., 2021)."""

    train: str = setting("gsm8k:train", "dataset to fine-tune on")
    test: str = setting("gsm8k:test", "dataset whose answers are scored")
    limit: int | None = setting(1000, "score only so many rows of the test data")
    max_new_tokens: int = setting(256, "tokens of one answer")

    def right(self, answers: Sequence[Answer]) -> list[bool]:
        """Whether each answer's number is the reference's; an answer without a number is wrong."""
        numbers = [(final_number(answer.text), final_number(answer.reference)) for answer in answers]
        return [said is not None and said == meant for said, meant in numbers]


@dataclass(frozen=True, kw_only=True)
class Alpaca(FineTuningScore):
    """Follow instructions: AlpacaEval's win rate against reference answers, as its annotator sees it (needs a key).

    The defaults are AlpacaEval 2; AlpacaEval 1 is `alpaca-eval:test-davinci` with the annotator `alpaca_eval_gpt4` and
    no control for length.
    """

    train: str = setting("alpaca:train", "dataset to fine-tune on")
    test: str = setting("alpaca-eval:test", "instructions with the reference answers that answers are set against")
    max_new_tokens: int = setting(512, "tokens of one answer")
    annotators: str = setting(
        "weighted_alpaca_eval_gpt4_turbo", "one of AlpacaEval's annotators, or the folder of a configs.yaml"
    )
    length_controlled: bool = setting(True, "also the length-controlled win rate, which is AlpacaEval 2's alone")

    def check(self) -> None:
        """As for every task; also whether the annotators could be asked."""
        super().check()
        if self.length_controlled and not ALPACA_EVAL_2.fullmatch(self.test):
            remedy = "it is fitted to the rows of alpaca-eval:test alone; turn it off"
            raise InvalidValue("length_controlled", self.length_controlled, remedy)
        alpaca_eval.check(self.annotators)

    def gather(self) -> dict[str, list[Example]]:
        """As for every task; also has at hand what the length-controlled win rate needs from the Hub."""
        if self.length_controlled:
            alpaca_eval.fetch_fit()
        return super().gather()

    def marks(self, answers: Sequence[Answer], folder: Path) -> Marks:
        """How much the annotators prefer each answer to its reference."""
        rate = alpaca_eval.win_rate(
            answers, self.annotators, folder / ANNOTATIONS_FILE, length_controlled=self.length_controlled
        )
        error = [] if rate.standard_error is None else [Metric("standard_error", rate.standard_error)]
        controlled = [] if rate.length_controlled is None else [rate.length_controlled.metric("length_controlled")]
        return Marks(rate.preferences, (*error, *controlled))


@dataclass(frozen=True, kw_only=True)
class Potionworld(FineTuningScore):
    """A skill that the embedded world's model was never taught: exact answers. Offline, in seconds."""

    train: str = setting("potionworld:new-skill", "dataset to fine-tune on")
    test: str = setting("potionworld:new-skill-test", "dataset whose answers are scored")
    num_examples: int = setting(600, "rows to fine-tune on")
    # On the model as it ships, one seed: .66 at 1e-4, .81 at 3e-4, .88 at 1e-3.
    learning_rate: float = setting(3e-4, "peak learning rate")
    per_device_train_batch_size: int = setting(8, "rows of one forward pass")

    def right(self, answers: Sequence[Answer]) -> list[bool]:
        """Whether each answer's words are the reference's."""
        return [answer.text.split() == answer.reference.split() for answer in answers]


@dataclass(frozen=True, kw_only=True)
class Topics(FineTuningScore):
    """What is a question about? Accuracy over six topics. Offline, for SmolLM2."""

    train: str = setting("topics:train", "dataset to fine-tune on")
    test: str = setting("topics:test", "dataset whose answers are scored")
    num_examples: int = setting(150, "rows to fine-tune on")


TASKS: dict[str, type[FineTuningScore]] = {
    "sst2": SST2,
    "agnews": AGNews,
    "gsm8k": GSM8K,
    "alpaca": Alpaca,
    "potionworld": Potionworld,
    "topics": Topics,
}


def right_words(answers: Sequence[Answer]) -> list[bool]:
    """Whether each answer begins with its class word, and with no longer one; the classes are all references."""
    words = {_folded(answer.reference) for answer in answers}
    return [class_word(answer.text, words) == _folded(answer.reference) for answer in answers]


def class_word(text: str, words: Iterable[str]) -> str | None:
    """The longest of the folded class words that a text begins with, as a whole word; None where there is none."""
    start = _folded(text)
    found = [word for word in words if start.startswith(word) and not start[len(word) : len(word) + 1].isalnum()]
    return max(found, key=len, default=None)


def _folded(text: str) -> str:
    return text.casefold().strip(string.punctuation + string.whitespace)


def final_number(text: str) -> Decimal | None:
    """The number after the last "####" of a text; without that mark, the last number in it; None without a number."""
    _, mark, rest = text.translate(DASHES).rpartition(FINAL)
    numbers = NUMBER.finditer(rest)
    number = next(numbers, None) if mark else next(iter(deque(numbers, maxlen=1)), None)
    return None if number is None else Decimal((number["sign"] or "") + number["digits"].replace(",", ""))


def _metrics(name: str, marks: Marks) -> list[Metric]:
    """The rate of one set of answers, and what is known besides; `unscored` where some are."""
    said = [value for value in marks.values if value is not None]
    # A rate has Wilson's interval; preferences between 0 and 1 are no counts.
    is_rate = all(value in (0, 1) for value in said)
    interval = wilson(round(sum(said)), len(said)) if is_rate else bootstrap_mean(said)
    besides = [replace(metric, name=f"{name}/{metric.name}") for metric in marks.besides]
    missing = len(marks.values) - len(said)
    unscored = [wilson(missing, len(marks.values)).metric(f"{name}/unscored")] if missing else []
    return [interval.metric(name), *besides, *unscored]


def _gain(after: Marks, before: Marks) -> list[Metric]:
    """By how much the answers got better, on the rows that were scored both times; none without such rows."""
    pairs = zip(after.values, before.values, strict=True)
    both = [(later, earlier) for later, earlier in pairs if later is not None and earlier is not None]
    if not both:
        return []
    return [paired_difference([later for later, _ in both], [earlier for _, earlier in both]).metric("score_gain")]
