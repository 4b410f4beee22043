"""A study's plan: its stages with what each takes, equal ones together, and what all of them take."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rupert.models.loading import SPLIT
from rupert.models.shape import ModelShape, shape_of
from rupert.study.definition.graph import Node, graph
from rupert.study.definition.study import Study
from rupert.study.estimates.estimate import Estimate, Setup, estimates
from rupert.study.estimates.remedies import remedies

AXIS = re.compile(r"(-\d[\d.]*(e[-+]?\d+)?)+$")  # how labels end that a list of numbers has made


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Stages of one kind and method that take the same.

    Attributes:
        kind: of stage.
        label: of defense, attack or task in the study, without an axis's numbers.
        count: how many.
        estimate: what each takes.
        fits: whether it can run on the device.
        remedies: what to change where it cannot: on as many devices, and on more.
    """

    kind: str
    label: str
    count: int
    estimate: Estimate
    fits: bool
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a study takes at most.

    Attributes:
        model: its name.
        parameters: of the model.
        setup: where it would run.
        is_split: whether the layers of one process are divided over all devices.
        lines: its stages, in the order of the graph.
        seconds: of work of all stages.
        elapsed: from beginning to end, with as many stages at once as devices allow.
        kept: bytes on disk in the end.
        disk: bytes on disk at the peak.
        judge_tokens: that endpoints are asked and answer with.
        not_counted: what its sizes are not known of.
    """

    model: str
    parameters: int
    setup: Setup
    is_split: bool
    lines: tuple[Line, ...]
    seconds: float
    elapsed: float
    kept: int
    disk: int
    judge_tokens: int
    not_counted: tuple[str, ...]


def plan(study: Study, setup: Setup) -> Plan:
    """Estimate every stage of a study.

    Raises:
        UsageError: the sizes of the model are not known.
    """
    shape = shape_of(study.model.model, study.model.revision)
    nodes = graph(study).nodes
    found_of = estimates(nodes, study, shape, setup)
    groups: dict[tuple[str, str, Estimate], list[Node]] = {}
    for node, found in found_of.items():
        groups.setdefault((node.kind, _label(node), found), []).append(node)
    is_split = study.model.device == SPLIT
    at_once = 1 if setup.sharding != "none" or is_split else setup.gpus
    kept = sum(found.kept for found in found_of.values())
    working = sorted((found.working for found in found_of.values()), reverse=True)
    return Plan(
        model=study.model.model,
        parameters=shape.parameters,
        setup=setup,
        is_split=is_split,
        lines=tuple(_line(members, found, study, shape, setup) for (_, _, found), members in groups.items()),
        seconds=sum(found.seconds for found in found_of.values()),
        elapsed=_elapsed(nodes, found_of, at_once),
        kept=kept,
        disk=kept + sum(working[:at_once]),
        judge_tokens=sum(found.judge_tokens for found in found_of.values()),
        not_counted=tuple(dict.fromkeys(name for found in found_of.values() for name in found.not_counted)),
    )


def _line(members: Sequence[Node], found: Estimate, study: Study, shape: ModelShape, setup: Setup) -> Line:
    node = members[0]
    fits = found.fits(setup.hardware)
    return Line(
        kind=node.kind,
        label=_label(node),
        count=len(members),
        estimate=found,
        fits=fits,
        remedies=() if fits else remedies(node, study, shape, setup),
    )


def _label(node: Node) -> str:
    """A stage's label in the study, without the model that it works on and without the numbers of an axis."""
    if node.kind == "evaluate":
        return ""
    name = node.name.removeprefix(f"{node.model.name}-") if node.model else node.name
    return AXIS.sub("", name) or name


def _elapsed(nodes: Sequence[Node], found_of: Mapping[Node, Estimate], workers: int) -> float:
    """When the last stage is done, if each begins as soon as what it works on is done and a worker is free."""
    free = [0.0] * workers
    done: dict[Node, float] = {}
    for node in nodes:
        begin = max([heapq.heappop(free), *(done[parent] for parent in node.parents)])
        done[node] = begin + found_of[node].seconds
        heapq.heappush(free, done[node])
    return max(done.values(), default=0.0)
