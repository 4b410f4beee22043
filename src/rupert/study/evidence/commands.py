"""The commands that do a study's stages again, one by one, without the study's file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES
from rupert.evaluation.fine_tuning_score import TASKS
from rupert.models.loading import ModelSettings
from rupert.plugins import name_of
from rupert.settings import fields_of
from rupert.study.definition.graph import Node
from rupert.study.stage.lineage import PAIRS_FILE

AGAIN = "again"  # the folder that the commands write into: nothing of the study's own is touched
VERBS = {"defend": "defend", "attack": "attack", "evaluate": "eval", "score": "score"}


def command(node: Node, model: ModelSettings) -> str:
    """What a reader types for one stage, after the commands of the stages that it works on.

    Args:
        node: the stage.
        model: the study's own.

    Returns:
        the command; empty where a model is only kept as it is. Settings that are at their defaults are left out.
    """
    if node.settings is None:
        return ""
    name = name_of(type(node.settings), DEFENSES, ATTACKS, TASKS)
    words = ["rupert", VERBS[node.kind], *([name] if name else []), *_model(node, model), *_flags(node.settings)]
    if node.pairs:
        words += ["--paired", f"{_folder(node.pairs)}/{PAIRS_FILE}"]
    return shlex.join([*words, "--output-dir", _folder(node)])


def _folder(node: Node) -> str:
    return f"{AGAIN}/{node.kind}-{node.label}"


def _model(node: Node, model: ModelSettings) -> list[str]:
    """What goes in: the folder of another stage, or the study's own model, also where it was only kept."""
    dtype = ["--dtype", model.dtype] if model.dtype != ModelSettings.dtype else []
    if node.model and node.model.settings is not None:
        return ["--model", _folder(node.model), *dtype]
    return ["--model", model.model, *(["--revision", model.revision] if model.revision else []), *dtype]


def _flags(settings: Any) -> Iterator[str]:
    for field in fields_of(type(settings)):
        value, flag = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if value in (field.default, ()):
            continue
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, *_words(value))


def _words(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return ["none" if value is None else str(value)]
