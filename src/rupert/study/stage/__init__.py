"""The stages of a study, one folder each: harden a model, attack it, attack it to measure what comes out, measure it,
fine-tune it for an honest task.

A stage checks what it is given before it loads a model, claims its folder by everything that defines its answer, and
writes its record last. The same call again returns the record.
"""

from rupert.study.stage.attacking import ADAPTER, Attack, attack
from rupert.study.stage.attempting import Attempt, attempt, points
from rupert.study.stage.evaluating import Evaluate, evaluate, judge
from rupert.study.stage.hardening import SAVE_STEPS, UNDEFENDED, Harden, Keep, defend, keep
from rupert.study.stage.scoring import Score, score
from rupert.study.stage.work import Request, Training, Work, do

__all__ = [
    "ADAPTER",
    "SAVE_STEPS",
    "UNDEFENDED",
    "Attack",
    "Attempt",
    "Evaluate",
    "Harden",
    "Keep",
    "Request",
    "Score",
    "Training",
    "Work",
    "attack",
    "attempt",
    "defend",
    "do",
    "evaluate",
    "judge",
    "keep",
    "points",
    "score",
]
