"""Claims and verdicts: targets are read strictly, mean cells that their studies have, and are judged as they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from rupert.defenses import DEFENSES
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.records import ResultRow
from rupert.study.definition.checking import check
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import RECIPES, find_recipe
from rupert.study.definition.study import Study
from rupert.study.evidence import targets as reading
from rupert.study.evidence.targets import TARGETS, Target, study_of, targets
from rupert.study.evidence.verification import Ours, Verified, verify
from rupert.study.running.run import METRICS, SCORE

ON_POTIONWORLD = [name for name in DEFENSES if (RECIPES / f"{name}-potionworld.yaml").exists()]


def row(value: float, defense: str = "sdd", attack: str = "none", **changes: object) -> ResultRow:
    made = ResultRow(
        study="s",
        model="potionworld",
        defense=defense,
        attack=attack,
        seed=0,
        metric="harm",
        value=value,
        low=value - 0.03,
        high=value + 0.04,
        n=66,
    )
    return dataclasses.replace(made, **changes)


def held(
    claims: Sequence[Target], rows: Sequence[ResultRow], study: str = "s", model: str = "potionworld"
) -> list[Verified]:
    return verify(claims, rows, study=study, model=model)


def has_cells(study: Study, target: Target) -> bool:
    metrics = {*METRICS, *(f"{SCORE}{label}" for label in study.scores)}
    defenses = {target.defense, target.minus_defense or target.defense}
    attacks = {target.attack, target.minus_attack or target.attack}
    return target.metric in metrics and defenses <= {*study.defenses} and attacks <= {"none", *study.attacks}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_claim_says_what_it_is_of(name: str) -> None:
    for target in targets(name):
        assert target.claim
        assert bool(target.source) == bool(target.recipe) == (target.model != "potionworld")


@pytest.mark.parametrize("name", DEFENSES)
def test_a_papers_numbers_are_of_cells_of_its_recipes(name: str) -> None:
    for target in targets(name):
        if target.recipe:
            study = read_study(find_recipe(target.recipe))
            assert study.model.model == target.model
            assert has_cells(study, target), target


@pytest.mark.parametrize("name", ON_POTIONWORLD)
def test_a_defense_is_verified_with_it_alone_beside_the_undefended_model(name: str) -> None:
    study = study_of(name)
    check(study)
    assert study.name == f"verify-{name}"
    assert list(study.defenses) == ["none", name]
    assert isinstance(study.defenses[name], DEFENSES[name])
    expected = [target for target in targets(name) if not target.recipe]
    assert expected
    assert [target for target in expected if not has_cells(study, target)] == []


def test_words_override_the_study() -> None:
    study = study_of("seam", ["seeds=[3]", "defenses.seam.max_steps=7", "attacks.benign=drop"])
    assert study.seeds == (3,)
    assert study.defenses["seam"].max_steps == 7  # type: ignore[union-attr]
    assert "benign" not in study.attacks


def test_what_cannot_be_verified_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"^defense: 'sed' is unknown; did you mean"):
        targets("sed")
    monkeypatch.setattr(reading, "RECIPES", tmp_path)
    with pytest.raises(
        UsageError, match=r"^defense: 'sdd' has no recipe 'sdd-potionworld' .* name a study by --results$"
    ):
        study_of("sdd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("papers: []", r"^sdd.yaml: section: 'papers' is unknown; did you mean 'paper'\?$"),
        ("paper:\n  - {clam: x}", r"^sdd.yaml: paper, number 1: setting: 'clam' is unknown; did you mean 'claim'\?$"),
        (
            "paper:\n  - {tolerance: -1}",
            r"^sdd.yaml: paper, number 1: tolerance: -1.0 is not valid; must be 0 or above$",
        ),
        ("paper:\n  - {is_to_be: atmost}", r"is_to_be: 'atmost' is unknown; did you mean 'at_most'\?$"),
    ],
)
def test_targets_are_read_strictly(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TARGETS", tmp_path)
    (tmp_path / "sdd.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        targets("sdd")


def test_a_tolerance_below_zero_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^tolerance: "):
        Target(tolerance=-0.1)


@pytest.mark.parametrize(
    ("is_to_be", "ours", "holds"),
    [
        ("within", 0.3, True),
        ("within", 0.7, True),
        ("within", 0.29, False),
        ("within", 0.71, False),
        ("at_most", 0.0, True),
        ("at_most", 0.7, True),
        ("at_most", 0.71, False),
        ("at_least", 1.0, True),
        ("at_least", 0.3, True),
        ("at_least", 0.29, False),
    ],
)
def test_a_claim_holds_up_to_its_tolerance(is_to_be: str, ours: float, holds: bool) -> None:
    assert Target(is_to_be=is_to_be, value=0.5, tolerance=0.2).holds(ours) is holds  # type: ignore[arg-type]


def test_a_cell_is_the_mean_over_seeds() -> None:
    claim = Target(metric="harm", defense="sdd", value=0.2, tolerance=0.05)
    [found] = held([claim], [row(0.1), row(0.4, seed=1), row(0.9, "none"), row(0.8, metric="ability")])
    assert found.ours == Ours(0.25, pytest.approx(0.07), pytest.approx(0.44), 2)
    assert found.outcome == "pass"


def test_a_difference_is_taken_within_each_seed_that_has_both() -> None:
    claim = Target(metric="harm", defense="sdd", attack="a", minus_defense="none", is_to_be="at_most", value=-0.5)
    rows = [
        row(0.3, attack="a"),
        row(1.0, "none", "a"),
        row(0.5, attack="a", seed=1),
        row(0.8, "none", "a", seed=1),
        row(0.0, attack="a", seed=2),
    ]
    [found] = held([claim], rows)
    assert found.ours is not None
    assert (found.ours.value, found.ours.seeds) == (pytest.approx(-0.5), 2)
    # The seeds' own: -0.7 - sqrt(0.03² + 0.04²) and -0.3 + sqrt(0.04² + 0.03²).
    assert (found.ours.low, found.ours.high) == (pytest.approx(-0.75), pytest.approx(-0.25))
    assert found.outcome == "pass"


def test_a_difference_to_before_the_attack_is_of_the_same_defense() -> None:
    claim = Target(metric="harm", defense="sdd", attack="a", minus_attack="none", value=0.4)
    [found] = held([claim], [row(0.1), row(0.5, attack="a"), row(0.9, "none", "a"), row(0.2, "none")])
    assert found.ours is not None
    assert found.ours.value == pytest.approx(0.4)


def test_a_number_without_an_interval_leaves_none() -> None:
    claim = Target(metric="harm", defense="sdd", minus_defense="none")
    plain, [less] = Target(metric="harm", defense="sdd"), [row(0.1, "none")]
    found = held([plain, claim], [row(0.1, low=None, high=None), less])
    assert [one.ours for one in found] == [Ours(0.1, None, None, 1), Ours(0.0, None, None, 1)]


@pytest.mark.parametrize("value", [float("nan"), None])
def test_what_was_not_measured_is_said(value: float | None) -> None:
    claim = Target(metric="harm", defense="sdd", attack="a")
    rows = [row(0.0)] if value is None else [row(value, attack="a")]
    [found] = held([claim], rows)
    assert (found.ours, found.outcome) == (None, "not measured")
    assert found.reason == "no harm of sdd under a"


def test_a_papers_number_needs_its_recipe_and_its_model() -> None:
    claim = Target(metric="harm", defense="sdd", recipe="table", model="big/model", value=0.2)
    ran = [("table", "big/model"), ("s", "big/model"), ("table", "potionworld")]
    outcomes = [held([claim], [row(0.2)], *where)[0] for where in ran]
    assert [one.outcome for one in outcomes] == ["pass", "not run here", "not run here"]
    assert outcomes[1].reason == "needs big/model and the Hub: rupert run table"
    [here] = held([Target(metric="harm", defense="sdd")], [row(0.2)], *ran[0])
    assert (here.outcome, here.reason) == ("not run here", "needs potionworld")


def test_every_file_of_targets_is_of_a_defense() -> None:
    assert {path.stem for path in TARGETS.glob("*.yaml")} <= {"every", *DEFENSES}
