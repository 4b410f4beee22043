"""Tasks in YAML, and a tiny model that they ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Choices of different lengths in characters, so that `acc` and `acc_norm` differ.
FIRST = [
    {"question": "what is the a", "choices": ["b", "c d", "e f g", "h"], "answer": 0},
    {"question": "what is", "choices": ["one two", "three four", "d", "e"], "answer": 3},
    {"question": "the a of the b of the c", "choices": ["a", "b", "c", "d"], "answer": 2},
    {"question": "one", "choices": ["two", "three", "four a b c d", "h"], "answer": 2},
    {"question": "in the", "choices": ["g", "h", "f e", "d c b"], "answer": 1},
]


SECOND = [
    {"question": "is that", "choices": ["a", "help", "cannot", "with"], "answer": 0},
    {"question": "I cannot", "choices": ["help", "h", "g", "f"], "answer": 1},
    {"question": "that is", "choices": ["two", "three", "four", "one"], "answer": 2},
]


FUNCTIONS = """
import math

def share(document, results):
    probabilities = [math.exp(score) for score, _ in results]
    return {"acc": probabilities[document["answer"]] / sum(probabilities)}

def share_of_most(document, results):
    return {"acc": math.nan if document["question"] == "what is" else share(document, results)["acc"]}

def nothing(document, results):
    return {"acc": math.nan}
"""


def choice_task(name: str, data: Path, *metrics: str, **more: Any) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
        "metadata": {"version": 2.5},
    } | more


def said_task(name: str, data: Path, tokens: int) -> dict[str, Any]:
    task = choice_task(name, data, "exact_match", output_type="generate_until", doc_to_target="answer")
    del task["doc_to_choice"]
    return task | {"generation_kwargs": {"until": ["."], "max_gen_toks": tokens, "do_sample": False}}


def group(name: str, *, by_size: bool) -> dict[str, Any]:
    aggregated = [{"metric": "acc", "weight_by_size": by_size}]
    return {
        "group": name,
        "task": ["local_first", "local_second"],
        "aggregate_metric_list": aggregated,
        "metadata": {"version": 7},
    }
