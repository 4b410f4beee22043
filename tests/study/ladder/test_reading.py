"""Ladders are read strictly: what a file says, and every mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rupert.attacks import ATTACKS, FineTune
from rupert.errors import UsageError
from rupert.study.definition.recipes import find_recipe
from rupert.study.ladder import Ladder, read_ladder_file
from rupert.study.ladder.rungs import Choice, Range

RECIPES = ("ladder-potionworld", "ladder-paper")


def test_a_file_says_rungs_and_what_is_searched(ladder: Ladder) -> None:
    assert [rung.name for rung in ladder.rungs] == ["L0", "L1", "L2"]
    (tuned,) = ladder.rungs[1].entries
    assert tuned.search == {"learning_rate": Range(1e-5, 1e-2, log=True), "num_examples": Choice((16, 32))}
    attack = tuned.attack({"num_examples": 32}, seed=3)
    assert isinstance(attack, FineTune)
    assert (attack.learning_rate, attack.num_examples, attack.seed, attack.max_length) == (1e-4, 32, 3, 64)
    assert (ladder.name, ladder.eval_steps, ladder.held_out_seeds) == ("small", 1.0, 1)
    assert (ladder.thresholds.harm_threshold, ladder.thresholds.ability_share) == (0.5, 0.8)
    assert ladder.evaluation.limit == 8


def test_a_recipe_is_what_settings_start_from(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: potionworld:attacker\nlearning_rate: 1e-3\nnum_examples: 8\n")
    (tmp_path / "l.yaml").write_text("rungs: {L0: {a: {method: fine_tune, recipe: own.yaml, num_examples: 4}}}")
    attack: Any = read_ladder_file(tmp_path / "l.yaml").rungs[0].entries[0].attack({})
    assert (attack.data, attack.learning_rate, attack.num_examples) == ("potionworld:attacker", 1e-3, 4)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_ladder_has_five_rungs_and_each_attack_exists(name: str) -> None:
    found = read_ladder_file(find_recipe(name))
    assert [rung.name for rung in found.rungs] == ["L0", "L1", "L2", "L3", "L4"]
    entries = [entry for rung in found.rungs for entry in rung.entries]
    assert {entry.method for entry in entries} == set(ATTACKS)
    assert {entry.method for entry in found.rungs[0].entries} == {"fine_tune"}
    assert not any(entry.search for entry in found.rungs[0].entries)
    assert {defense for entry in entries for defense in entry.against} == {"seam", "sdd", "repnoise", "tar"}
    assert [entry.label for entry in entries if entry.needs_undefended] == ["interpolation"]
    for entry in entries:
        for attack in entry.with_undefended("potionworld").extremes():
            attack.check()


def test_the_embedded_worlds_ladder_has_the_rows_that_it_asks_for() -> None:
    for rung in read_ladder_file(find_recipe("ladder-potionworld")).rungs:
        for entry in rung.entries:
            assert all(entry.with_undefended("potionworld").largest().gather().values())


def mistaken(tmp_path: Path, text: str) -> str:
    """What is said of a ladder whose L0 has one attack `a` with these settings, or of a whole one."""
    path = tmp_path / "l.yaml"
    whole = text if text.startswith(("rungs", "eval", "harm", "held", "steps")) else f"rungs: {{L0: {{a: {{{text}}}}}}}"
    path.write_text(whole if "rungs" in whole else f"rungs: {{L0: {{fine_tune: }}}}\n{whole}")
    assert yaml.safe_load(path.read_text())
    with pytest.raises(UsageError) as raised:
        read_ladder_file(path)
    return str(raised.value)


SEARCH = "method: fine_tune, search: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rungs: {}", "l.yaml: rungs is empty; a ladder needs at least one"),
        ("rungs: 3", "l.yaml: rungs: 3 is not valid; write one `name: value` a line under it"),
        ("rungs: {L0: {a.b: {method: fine_tune}}}", "l.yaml: rungs.L0: 'a.b' is not valid; it names folders;"),
        (
            "rungs: {L0: {a: {method: fine_tune}}, L1: {a: {method: fine_tune}}}",
            "l.yaml: rungs.L1: 'a' is not valid; the ladder has it twice; rename one",
        ),
        ("steps: 3", "l.yaml: key: 'steps' is unknown; did you mean 'eval_steps'?"),
        ("eval_steps: 1.5", "l.yaml: eval_steps: 1.5 is not valid; give a share of all steps below 1"),
        ("evaluation: {half: selection}", "l.yaml: evaluation.half: 'selection' is not valid; a ladder chooses on one"),
        ("harm_threshold: 0", "l.yaml: harm_threshold: 0.0 is not valid; must be above 0 and at most 1"),
        ("held_out_seeds: 0", "l.yaml: held_out_seeds: 0 is not valid; must be above 0"),
        ("method: fine_tun", "l.yaml: rungs.L0.a.method: 'fine_tun' is unknown; did you mean 'fine_tune'?"),
        ("method: fine_tune, learning_rat: 1", "l.yaml: rungs.L0: a: setting: 'learning_rat' is unknown; did you mean"),
        ("method: fine_tune, seed: 1", "l.yaml: rungs.L0.a: 'seed' is not valid; a ladder sets it for every attack"),
        ("method: fine_tune, against: [sem]", "l.yaml: rungs.L0.a.against: 'sem' is unknown; did you mean 'seam'?"),
        (SEARCH + "{rate: [1]}", "l.yaml: rungs.L0.a.search: 'rate' is unknown; did you mean"),
        (SEARCH + "{optim: [adam]}", "l.yaml: rungs.L0.a.search.optim: 'adam' is unknown; did you mean 'adamw_torch'?"),
        (
            SEARCH + "{optim: {low: 1, high: 2}}",
            "search.optim: {'low': 1, 'high': 2} is not valid; only numbers have a",
        ),
        (SEARCH + "{num_examples: []}", "search.num_examples: [] is not valid; list at least one value, and each once"),
        (SEARCH + "{num_examples: [4, 4]}", "search.num_examples: [4, 4] is not valid; list at least one value, and"),
        (SEARCH + "{num_examples: 4}", "search.num_examples: 4 is not valid; give {low: ..., high: ..., log: true}"),
        (
            SEARCH + "{num_examples: {low: 1, high: 2, lg: 3}}",
            "search.num_examples: 'lg' is unknown; did you mean 'log'",
        ),
        (SEARCH + "{learning_rate: {low: 2, high: 1}}", "is not valid; low must be below high"),
        (SEARCH + "{weight_decay: {low: 0, high: 1, log: true}}", "low must be below high and above 0"),
        (SEARCH + "{num_examples: [0, 1]}", "l.yaml: rungs.L0: a: num_examples: 0 is not valid; must be above 0"),
        (
            SEARCH + "{learning_rate: {low: 1, high: 2}}, learning_rate: 3",
            "l.yaml: rungs.L0: a: learning_rate: 3.0 is not valid; what is tried first has to be among what is",
        ),
    ],
)
def test_each_mistake_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    said = mistaken(tmp_path, text)
    assert message in said
    assert "\n" not in said


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    said = mistaken(tmp_path, "rungs: {L0: {a: {method: b}, c: {method: fine_tune, lr: 1}}}\nsteps: 1\neval_steps: -1")
    assert len(said.splitlines()) == 4
