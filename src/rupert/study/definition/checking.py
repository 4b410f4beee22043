"""Finds out what would stop a study, before anything is loaded: its methods say so themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rupert.models import loading
from rupert.study.definition.problems import Problems, at
from rupert.study.definition.study import Study


class Checked(Protocol):
    """A method, as far as it is needed here."""

    def check(self) -> None:
        """Find out, without reading them, whether its data exist."""


def check(study: Study) -> None:
    """Find out, without network and without loading a model, whether all methods of a study have what they need.

    What only the network knows is not found: whether a dataset of the Hub is there, whether an endpoint answers.

    Raises:
        UsageError: what is missing, all at once, one a line.
    """
    problems = Problems()
    measured = study.evaluation.for_model(is_potionworld=loading.is_potionworld(study.model))
    methods: dict[str, Mapping[str, Checked | None]] = {
        "defenses": study.defenses,
        "attacks": study.attacks,
        "scores": study.scores,
    }
    for section, labels in methods.items():
        for label, method in labels.items():
            if method:
                with problems.noted(), at(f"{study.name}: {section}.{label}"):
                    method.check()
    with problems.noted(), at(f"{study.name}: evaluation"):
        measured.check()
    if measured.reference:
        with problems.noted():
            loading.check(measured.reference, f"{study.name}: evaluation.reference")
    problems.tell()
