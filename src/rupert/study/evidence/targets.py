"""What a paper claims of a defense, and what is expected of it on Potionworld: data, read strictly.

`rupert/targets/<defense>.yaml` holds a method's own targets, `every.yaml` what is expected of each. They are lists of
`Target` in two sections: `paper`, which needs the paper's model, and `potionworld`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rupert.defenses import DEFENSES
from rupert.errors import UnknownName, UsageError
from rupert.settings import check_choices, check_not_negative, parse, read_yaml, setting
from rupert.study.definition.graph import UNATTACKED
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import RECIPES, find_recipe
from rupert.study.definition.study import Study
from rupert.study.stage import UNDEFENDED

TARGETS = Path(__file__).parents[2] / "targets"
EVERY = "every"  # the file of what is expected of each defense
SECTIONS = ("paper", "potionworld")
EXTENDED = "demo"  # the study on Potionworld that a defense is verified with, without the other defenses
RATES = "[2e-5,1e-4,1e-3]"  # of its attacks


@dataclass(frozen=True, kw_only=True)
class Target:
    """One claim: a cell of a study, or the difference of two, and how it is to lie."""

    claim: str = setting("", "what is claimed, in a few words")
    source: str = setting("", "table or figure of a paper; empty: an expectation of ours, the direction of its claim")
    recipe: str = setting("", "the study whose cell it is; empty: any of this model that has the labels")
    model: str = setting("potionworld", "the model that it is about")
    metric: str = setting("", "as `results.csv` calls it")
    defense: str = setting("", "label of the defense; empty: the one that is verified")
    attack: str = setting(UNATTACKED, "label of the attack")
    minus_defense: str = setting("", "take off this defense's cell; empty: the same's, where minus_attack is given")
    minus_attack: str = setting(
        "", "take off the cell under this attack; empty: the same, where minus_defense is given"
    )
    is_to_be: Literal["within", "at_most", "at_least"] = setting("within", "how ours has to lie to the value")
    value: float = setting(0.0, "what is published or expected; a rate from 0 to 1")
    tolerance: float = setting(0.0, "how far ours may lie on the wrong side of it")

    def __post_init__(self) -> None:
        check_not_negative(self, "tolerance")
        check_choices(self)

    def holds(self, ours: float) -> bool:
        """Whether a number bears it out."""
        excess = round(ours - self.value, 12)  # 0.3 - 0.1 is not above 0.2
        is_low_enough = excess <= self.tolerance or self.is_to_be == "at_least"
        return is_low_enough and (excess >= -self.tolerance or self.is_to_be == "at_most")


def targets(defense: str) -> list[Target]:
    """What is claimed of a defense: by its paper first, then on Potionworld.

    Raises:
        UnknownName: there is no such defense.
        UsageError: a file of targets is wrong.
    """
    if defense not in DEFENSES:
        raise UnknownName("defense", defense, DEFENSES)
    files = [path for name in (EVERY, defense) if (path := TARGETS / f"{name}.yaml").exists()]
    found = [target for section in SECTIONS for path in files for target in _read(path, section)]
    return [replace(target, defense=target.defense or defense) for target in found]


def _read(path: Path, section: str) -> list[Target]:
    given = read_yaml(path)
    for name in given:
        if name not in SECTIONS:
            raise UnknownName(f"{path.name}: section", str(name), SECTIONS)
    listed = enumerate(given.get(section) or [], 1)
    return [parse(Target, one, f"{path.name}: {section}, number {number}") for number, one in listed]


def study_of(defense: str, overrides: Sequence[str] = ()) -> Study:
    """The study on Potionworld that a defense is verified with: the demo's, with it beside the undefended model.

    Args:
        defense: its name.
        overrides: words of the command line, which win.

    Raises:
        UsageError: there is no recipe `<defense>-potionworld`, or an override is wrong.
    """
    path, recipe = find_recipe(EXTENDED), f"{defense}-potionworld"
    if not (RECIPES / f"{recipe}.yaml").exists():
        raise UsageError(
            f"defense: {defense!r} has no recipe {recipe!r} to be verified with; name a study by --results"
        )
    given = read_yaml(path)
    others = [label for label in given["defenses"] if label not in (UNDEFENDED, defense)]
    words = [
        f"defenses={{{defense}: {{method: {defense}, recipe: {recipe}}}}}",
        *(f"defenses.{label}=drop" for label in others),
        *(["pairs_of="] if given["pairs_of"] in others else []),
        f"attacks.fine_tune.learning_rate={RATES}",
    ]
    return replace(read_study(path, [*words, *overrides]), name=f"verify-{defense}")
