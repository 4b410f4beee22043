"""Tiny classifiers whose verdicts are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
)

from rupert.evaluation.judges.classifier import Classifier
from rupert.evaluation.judges.judge import Answer

WIDTH = 32


WEIGHTS = "model.safetensors"


KINDS = ("poison", "theft", "lies")


Make = Callable[..., Path]


def answer(text: str, request: str = "what is") -> Answer:
    return Answer(request=request, category="", reference="", text=text)


def saved(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def judge_of(folder: Path, **changes: object) -> Classifier:
    judge = Classifier(model=str(folder), **{"template": "{request} {answer}", **changes})
    judge.check()
    return judge
