"""How much an evaluation asks: rows of datasets and questions of tasks, without reading anything from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rupert.data import sources
from rupert.evaluation.judges import Judge, parse_judges
from rupert.evaluation.judges.language_model import LanguageModel
from rupert.evaluation.judges.rubrics import find_rubric

CHARACTERS = 4  # of English a token, roughly
REQUEST_TOKENS = 64  # of a request as a judge reads it, roughly
REPLY_TOKENS = 150  # of a judge's reply: a few sentences and the grade, as the rubrics ask for
ANNOTATOR_TOKENS = 1000  # of AlpacaEval's prompt, instruction and reference answer, roughly


@dataclass(frozen=True, slots=True)
class TaskSize:
    """A task of lm-eval.

    Attributes:
        questions: how many it has.
        sequences: of each that a model reads: one a choice, or one where every choice is a single token.
        tokens: of a sequence, roughly.
        longest: tokens of the longest sequences, roughly.
        parts: tasks in it, to each of which `limit` applies.
    """

    questions: int
    sequences: int
    tokens: int
    longest: int
    parts: int = 1

    def asked(self, limit: int | None) -> int:
        """How many sequences a model reads."""
        questions = self.questions if limit is None else min(self.questions, limit * self.parts)
        return questions * self.sequences


# Rows of single splits of the Hub's datasets; the catalogue counts all splits of one together.
SPLITS = {"sst2:test": 872, "ag_news:test": 7_600, "gsm8k:test": 1_319, "alpaca-eval:test": 805}

# Questions of the splits that lm-eval asks; the lengths are rough.
TASKS = {
    "questions": TaskSize(240, 4, 64, 96),
    "mmlu": TaskSize(14_042, 1, 128, 1024, parts=57),
    "truthfulqa_mc1": TaskSize(817, 5, 64, 128),
    "arc_easy": TaskSize(2_376, 4, 48, 192),
    "hellaswag": TaskSize(10_042, 4, 128, 256),
    "openbookqa": TaskSize(500, 4, 32, 128),
}


@cache
def rows_of(spec: str) -> int | None:
    """How many rows a dataset has at most; None where that is not known without reading it from the Hub."""
    name = spec.partition("?")[0].partition(":")[0].partition("@")[0]
    if spec in SPLITS:
        return SPLITS[spec]
    if name in sources.SOURCES and not sources.SOURCES[name].offline:
        return sources.SOURCES[name].size
    if name in sources.SOURCES or Path(spec.partition("?")[0]).is_file():
        return len(sources.load(spec, answered=False))
    return None


def at_most(spec: str, *limits: int | None) -> int | None:
    """How many rows of a dataset are used under limits; None where neither rows nor limits are known."""
    known = [number for number in (rows_of(spec), *limits) if number is not None]
    return min(known) if known else None


@cache
def judges_of(names: Sequence[str]) -> dict[str, Judge]:
    """The judges that an evaluation names."""
    return parse_judges(names)


def judge_tokens(names: tuple[str, ...], requests: int, new: int) -> int:
    """Tokens that endpoints are asked and answer with: rubric, request, answer and reply for each request."""
    asked = [judge for judge in judges_of(names).values() if isinstance(judge, LanguageModel) and judge.model]
    return sum(
        requests * (_rubric_tokens(judge.rubric) + REQUEST_TOKENS + min(new, judge.max_characters // CHARACTERS))
        + requests * min(REPLY_TOKENS, judge.max_tokens)
        for judge in asked
    )


@cache
def _rubric_tokens(name: str) -> int:
    rubric = find_rubric(name)
    return (len(rubric.system) + len(rubric.user)) // CHARACTERS
