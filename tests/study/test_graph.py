"""The graph of a study: what is shared, in which order, and under which names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rupert.errors import UsageError
from rupert.study.definition.graph import Graph, graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study, describe, restore


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(find_recipe("demo"), ["seeds=[0,1]", "scores={potionworld: {}}"])


def labels(found: Graph, kind: str) -> list[str]:
    return [node.label for node in found.nodes if node.kind == kind]


def test_every_stage_comes_after_those_that_it_works_on(study: Study) -> None:
    nodes = graph(study).nodes
    for number, node in enumerate(nodes):
        assert all(parent in nodes[:number] for parent in node.parents)


def test_the_undefended_model_is_kept_once_for_all_seeds(study: Study) -> None:
    found = graph(study)
    assert labels(found, "defend") == ["none", "sdd-seed0", "seam-seed0", "sdd-seed1", "seam-seed1"]
    assert len(labels(found, "attack")) == 2 * 3 * 6
    assert labels(found, "score") == [
        f"{name}-potionworld-seed{seed}" for seed in (0, 1) for name in ("none", "sdd", "seam")
    ]
    assert len({model.made for model in found.models if (model.defense, model.attack) == ("none", "none")}) == 1


def test_its_evaluation_is_shared_too_unless_the_pairs_of_each_seed_are_measured(study: Study) -> None:
    without_pairs = [label for label in labels(graph(replace(study, pairs_of="")), "evaluate") if label == "none-none"]
    with_pairs = [label for label in labels(graph(study), "evaluate") if label.startswith("none-none")]
    assert without_pairs == ["none-none"]
    assert with_pairs == ["none-none-seed0", "none-none-seed1"]


def test_equal_attacks_under_two_labels_are_one_stage(study: Study) -> None:
    twice = replace(study, attacks={**study.attacks, "again": study.attacks["fine_tune-1e-3"]})
    assert len(graph(twice).nodes) == len(graph(study).nodes)
    models = {(model.seed, model.defense, model.attack): model for model in graph(twice).models}
    assert models[0, "sdd", "again"].evaluation is models[0, "sdd", "fine_tune-1e-3"].evaluation
    assert len(models) == 2 * 3 * 8


def test_what_changes_a_stage_changes_those_that_build_on_it_and_no_others(study: Study) -> None:
    changed = replace(study, defenses={**study.defenses, "seam": replace(study.defenses["seam"], beta=0.25)})
    before, after = ({node.label: node.signature for node in graph(one).nodes} for one in (study, changed))
    assert {label for label in before if before[label] != after[label]} == {
        label for label in before if label.startswith("seam")
    }


def test_a_study_of_a_thousand_cells_is_a_graph_of_its_stages(study: Study) -> None:
    attack = study.attacks["fine_tune-1e-3"]
    many = {f"a{number}": replace(attack, learning_rate=1e-6 * number) for number in range(1, 168)}
    found = graph(replace(study, attacks=many, scores={}))
    assert len(found.models) == 2 * 3 * 168
    assert len(found.nodes) == 5 + 2 * 3 + 2 * (2 * 3 * 167)


def test_a_defense_goes_on_from_the_model_that_another_one_hardened() -> None:
    chained = read_study(find_recipe("demo"), ["defenses.sdd.after=seam"])
    assert chained.after == {"sdd": "seam"}
    found = graph(chained)
    hardened = {node.name: node for node in found.nodes if node.kind == "defend"}
    assert hardened["sdd"].model is hardened["seam"]
    assert hardened["seam"].model is None
    assert labels(found, "defend") == ["none", "seam-seed0", "sdd-seed0"]
    assert [model.defense for model in found.models][::7] == ["none", "sdd", "seam"]  # the grid stays as it was
    alone = {node.name: node for node in graph(read_study(find_recipe("demo"))).nodes}
    assert alone["sdd"].signature != hardened["sdd"].signature
    assert alone["seam"].signature == hardened["seam"].signature
    assert restore(describe(chained)).after == chained.after


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defenses.sdd.after=sem"], "override: defenses.sdd.after: 'sem' is unknown; did you mean 'seam'?"),
        (["defenses.sdd.after=none"], "override: defenses.sdd.after: 'none' is unknown; valid: seam"),
        (
            ["defenses.sdd.after=seam", "defenses.seam.after=sdd"],
            "override: defenses.sdd.after: 'seam' is not valid; a circle: sdd -> seam -> sdd",
        ),
        (["attacks.benign.after=fine_tune"], "override: attacks.benign.after: 'after' is unknown"),
    ],
)
def test_a_chain_that_cannot_be_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_study(find_recipe("demo"), words)
    assert str(caught.value).startswith(message)
