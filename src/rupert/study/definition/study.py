"""A study as a value: defenses x attacks x seeds on one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rupert.attacks import ATTACKS, Attacker
from rupert.defenses import DEFENSES
from rupert.errors import FolderError, UsageError
from rupert.evaluation.fine_tuning_score import TASKS, FineTuningScore
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.settings import as_mapping, convert, parse
from rupert.training.objective import Objective

Attacked = Literal["drop", "delta", "keep"]
MODEL = ("model", "revision", "dtype", "chat_template")  # settings that define numbers; older studies lack the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One experiment.

    Attributes:
        name: of the file that it was read from.
        model: what is defended and attacked.
        seeds: everything is done once for each.
        defenses: label -> settings; None for the undefended model.
        attacks: label -> settings.
        evaluation: what is measured on every model.
        scores: label -> an honest task that every model which was not attacked is fine-tuned for and scored on.
        after: defense -> the defense whose hardened model it hardens further; the others begin with `model`.
        pairs_of: the defense whose pairs' log-probability is measured on every model; empty for none.
        attacked: what becomes of attacked weights once they are measured: deleted, kept as their difference from the
            hardened ones, or kept whole. No number depends on it.
        notes: what a reader has to know to read the numbers rightly.
    """

    name: str
    model: ModelSettings
    seeds: tuple[int, ...]
    defenses: Mapping[str, Objective | None]
    attacks: Mapping[str, Attacker]
    evaluation: Evaluation
    scores: Mapping[str, FineTuningScore] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    pairs_of: str = ""
    attacked: Attacked = "drop"
    notes: tuple[str, ...] = ()


def with_seed(study: Study, seed: int) -> Study:
    """The study's settings for one of its seeds."""
    return replace(
        study,
        seeds=(seed,),
        defenses={label: defense and replace(defense, seed=seed) for label, defense in study.defenses.items()},
        attacks={label: replace(attack, seed=seed) for label, attack in study.attacks.items()},
        scores={label: replace(task, seed=seed) for label, task in study.scores.items()},
    )


def describe(study: Study) -> dict[str, Any]:
    """The study in JSON values: all that defines its numbers, and nothing of where it runs; see `restore`."""
    return {
        "stage": "study",
        "study": study.name,
        "model": study.model.model,
        "revision": study.model.revision,
        "dtype": study.model.dtype,
        "chat_template": study.model.chat_template,
        "seeds": list(study.seeds),
        "defenses": _described(study.defenses, DEFENSES),
        "attacks": _described(study.attacks, ATTACKS),
        "evaluation": as_mapping(study.evaluation),
        "scores": _described(study.scores, TASKS),
        "after": dict(study.after),
        "pairs_of": study.pairs_of,
        "attacked": study.attacked,
        "notes": list(study.notes),
    }


def _described(methods: Mapping[str, Any], family: Mapping[str, type]) -> dict[str, Any]:
    """Label -> the method's name and all its settings but the seed, which is the study's."""
    names = {cls: name for name, cls in family.items()}
    return {label: _settings(method, names[type(method)]) if method else None for label, method in methods.items()}


def _settings(method: Any, name: str) -> dict[str, Any]:
    return {"method": name, **{key: value for key, value in as_mapping(method).items() if key != "seed"}}


def restore(described: Mapping[str, Any]) -> Study:
    """The inverse of `describe`; the model's device is the default one.

    Raises:
        FolderError: it is damaged, names what this rupert does not have, or a model that is not there.
    """
    try:
        return Study(
            name=str(described["study"]),
            model=parse(ModelSettings, {name: described[name] for name in MODEL if name in described}),
            seeds=convert(tuple[int, ...], described["seeds"], "seeds"),
            defenses=_restored(described["defenses"], DEFENSES),
            attacks=_restored(described["attacks"], ATTACKS),
            evaluation=parse(Evaluation, described["evaluation"]),
            scores=_restored(described["scores"], TASKS),
            after={label: str(earlier) for label, earlier in described.get("after", {}).items()},
            pairs_of=described["pairs_of"],
            attacked=convert(Attacked, described["attacked"], "attacked"),
            notes=convert(tuple[str, ...], described["notes"], "notes"),
        )
    except (AttributeError, KeyError, TypeError, UsageError) as error:
        told = ", and ".join(str(error).splitlines())
        raise FolderError(f"cannot be read ({told}); repeat its `rupert run` command, which writes it anew") from None


def _restored(described: Mapping[str, Any], family: Mapping[str, type]) -> dict[str, Any]:
    return {label: settings and _method(settings, family) for label, settings in described.items()}


def _method(settings: Mapping[str, Any], family: Mapping[str, type]) -> Any:
    return parse(family[settings["method"]], {name: value for name, value in settings.items() if name != "method"})
