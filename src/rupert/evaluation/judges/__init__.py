"""Judges: one file each, this list of them, and how they are named; other packages add theirs, see `rupert.plugins`."""

from __future__ import annotations

from collections.abc import Sequence

from rupert.evaluation.judges import specs
from rupert.evaluation.judges.classifier import Classifier
from rupert.evaluation.judges.judge import Answer, Judge, Verdict
from rupert.evaluation.judges.language_model import LanguageModel
from rupert.evaluation.judges.next_token import NextToken
from rupert.evaluation.judges.oracle import Oracle
from rupert.evaluation.judges.presets import PRESETS
from rupert.evaluation.judges.refusal_words import RefusalWords
from rupert.plugins import Family

_OWN: dict[str, type[Judge]] = {
    "oracle": Oracle,
    "refusal_words": RefusalWords,
    "classifier": Classifier,
    "next_token": NextToken,
    "language_model": LanguageModel,
}
JUDGES: Family[Judge] = Family("rupert.judges", _OWN, Judge, taken=PRESETS)

__all__ = ["JUDGES", "PRESETS", "Answer", "Judge", "Oracle", "RefusalWords", "Verdict", "parse_judges"]


def parse_judges(names: Sequence[str], field: str = "judges") -> dict[str, Judge]:
    """The judges that texts such as `oracle` or `language_model?model=NAME` mean, by what their files are called.

    Raises:
        UsageError: no such judge or setting, a value outside its domain, or one judge twice.
    """
    specs.check_labels(names, field)
    return {specs.label(name): specs.parse_judge(name, JUDGES, PRESETS, field) for name in names}
