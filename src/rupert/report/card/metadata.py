"""A card's facts as the metadata that Hugging Face reads: `model-index`, and what the model was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rupert.report.card.facts import WORLD
from rupert.report.card.findings import name_of
from rupert.report.exports.text import visible

TASK, LIBRARY = "text-generation", "transformers"
NO_LICENSE = "# license: the license of these weights, for you to fill in"

Values = Mapping[str, Any]


def card(facts: Values, name: str, text: str) -> str:
    """A card with its metadata before its text; Hugging Face's own library makes the one and reads it again.

    Args:
        facts: of the card.
        name: of the model.
        text: Markdown.
    """
    data = ModelCardData(
        base_model=base_model(facts),
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=["rupert", "tamper-resistance", *([facts["defense"]["method"]] if facts["defense"]["method"] else [])],
        model_name=visible(name),
        eval_results=list(results(facts)) or None,
    )
    written = f"---\n{NO_LICENSE}\n{data.to_yaml()}\n---\n\n{text}"
    ModelCard(written)  # raises where it cannot be read
    return written


def base_model(facts: Values) -> str | None:
    """The model that was defended, as the Hub knows it; none for a folder on somebody's machine."""
    model = facts["model"]
    if model["on_hub"]:
        return str(model["on_hub"]["name"])
    return WORLD if model["name"] == WORLD else None


def results(facts: Values) -> Iterator[EvalResult]:
    """Harm and ability of the defended model, before any attack and after each, one metric a seed."""
    seed = facts["released"]["seed"] if facts["released"] else None
    for attack, result in _measured(facts):
        if seed is not None and result["seed"] != seed:
            continue  # the numbers are those of the weights that come with them
        for metric in ("harm", "ability"):
            if metric in (result["defended"] or {}):
                yield _result(facts, metric, attack, result)


def _measured(facts: Values) -> Iterator[tuple[str, Values]]:
    yield from (("none", result) for result in facts["before"])
    yield from ((attack["label"], result) for attack in facts["attacks"] for result in attack["results"])


def _result(facts: Values, metric: str, attack: str, result: Values) -> EvalResult:
    way = facts["requests"][0] if facts["requests"] else None
    tasks = ", ".join(task["name"] for task in way["tasks"]) if way else ""
    data = (way["requests"]["name"] if way else "") if metric == "harm" else tasks
    number = result["defended"][metric]
    return EvalResult(
        task_type=TASK,
        task_name="Text Generation",
        dataset_type=data or "unknown",
        dataset_name=data or "unknown",
        metric_type=metric,
        metric_name=f"{metric}, {name_of(attack)}, seed {result['seed']}",
        metric_value=number["value"],
        metric_args={name: number[name] for name in ("low", "high", "n")},
    )
