"""`rupert validate`: read a study, find every mistake in it, and say what it is; nothing is loaded or downloaded."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable

from rupert.cli.arguments import Parser, add_study
from rupert.study.definition.checking import check
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study


def configure(parser: Parser) -> None:
    """The command's arguments."""
    add_study(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read and check the study, and print what it is."""
    study = read_study(find_recipe(arguments.study, "study"), arguments.overrides)
    check(study)
    for name, text in _facts(study).items():
        print(f"{name:<9} {text}")
    return 0


def _facts(study: Study) -> dict[str, str]:
    """What the study is; every defense is measured without an attack too."""
    models = len(study.defenses) * (len(study.attacks) + 1) * len(study.seeds)
    defenses, attacks = _counted(study.defenses, "defense"), _counted(study.attacks, "attack")
    found = {
        "study": study.name,
        "model": study.model.model,
        "defenses": _listed(study.defenses),
        "attacks": _listed(study.attacks),
        "scores": _listed(study.scores),
        "seeds": _listed(study.seeds),
        "models": f"{models} = {defenses} x ({attacks} + none) x {_counted(study.seeds, 'seed')}",
    }
    return {name: text for name, text in found.items() if text}


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _counted(items: Collection[object], noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
