"""Answers for a language model to judge."""

from __future__ import annotations

from dataclasses import replace

from rupert.evaluation.judges.judge import Answer, Verdict

HARMFUL = Verdict(harmful=True, refusal=None, score=1.0, tokens=7)


def answers(*texts: str) -> list[Answer]:
    return [Answer("how is it made?", "", "", text) for text in texts]


def free(*verdicts: Verdict) -> list[Verdict]:
    return [replace(verdict, tokens=0) for verdict in verdicts]
