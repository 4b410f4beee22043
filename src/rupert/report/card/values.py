"""What single records say, as values of a card's JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rupert.evidence import Origin
from rupert.records import Metric
from rupert.report.card.public import public

Values = dict[str, Any]


def finite(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by name; a value that is not a number was not measured."""
    return {metric.name: metric for metric in metrics if math.isfinite(metric.value)}


def number(metric: Metric) -> Values:
    """A measured number; what is not finite is none."""
    known = {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}
    return {name: None if value is None or not math.isfinite(value) else value for name, value in known.items()}


def settings_of(settings: Mapping[str, Any]) -> Values:
    """All but the seed, which every result says for itself."""
    known: Values = public({name: value for name, value in settings.items() if name not in ("seed", "evaluation")})
    return known


def data_of(origin: Origin, seed: int) -> Values:
    """The data of a stage: what they are for, their name as the settings have it, and their fingerprint."""
    settings, known = origin.record.settings, origin.record.data
    return {"seed": seed, "used": [used(use, settings, fingerprint) for use, fingerprint in known.items()]}


def used(use: str, settings: Mapping[str, Any], fingerprint: str) -> Values:
    """Data that were used: what for, what they are called, and their fingerprint."""
    name = settings.get(use, "")
    named = ", ".join(map(str, map(public, name))) if isinstance(name, list | tuple) else str(public(name or ""))
    return {"use": public(use), "name": named, "fingerprint": fingerprint}


def judges_of(origin: Origin) -> Mapping[str, Any]:
    """The judges of an evaluation, the first of which gives harm, each with its settings."""
    judges = origin.record.settings.get("judges", {})
    return judges if isinstance(judges, Mapping) else dict.fromkeys(judges)


def way_of(origin: Origin) -> Values:
    """How a model was asked: data, tasks, template, sampling."""
    settings, data = origin.record.settings, origin.record.data
    return {
        "requests": used("requests", settings, data.get("requests", "")),
        "tasks": [{"name": public(task), "fingerprint": data.get(task, "")} for task in settings.get("tasks", ())],
        "limit": settings.get("limit"),
        "num_requests": settings.get("num_requests"),
        "max_new_tokens": settings.get("max_new_tokens"),
        "temperature": settings.get("temperature", 0.0),
        "request_template": public(settings.get("request_template", "")),
        "system_prompt": public(settings.get("system_prompt", "")),
    }


def stage_of(origin: Origin) -> Values:
    """A stage, by its hashes."""
    return {
        "kind": origin.kind,
        "label": public(origin.label),
        "identity": origin.identity,
        "weights_in": origin.record.model_hash,
        "weights_out": origin.record.output_hash,
        "is_current": origin.is_current,
    }
