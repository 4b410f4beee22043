"""Every recipe that ships is read, and means what it says; nothing is left that no test knows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from rupert.defenses import DEFENSES, SDD, SEAM
from rupert.defenses.sdd import REJECTION
from rupert.evaluation.gradients.geometry import GeometrySettings
from rupert.settings import parse, read_yaml
from rupert.study.definition.checking import check
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import RECIPES, find_recipe, recipes

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
STUDIES = [name for name in NAMES if {"defenses", "extends"} & set(read_yaml(find_recipe(name)))]
GEOMETRY = [name for name in NAMES if "components" in read_yaml(find_recipe(name))]
VARIATIONS = ["sensitivity"]
LADDERS = [name for name in NAMES if "rungs" in read_yaml(find_recipe(name))]
DEFENSE_SETTINGS = [name for name in NAMES if name not in (*STUDIES, *GEOMETRY, *VARIATIONS, *LADDERS)]
CHAT, BASE = "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf"
DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
# The grid that each table and figure is, for the papers' models and in the embedded world.
GRIDS = {
    "defenses-potionworld": ("potionworld", 10, 6),
    "sdd-table-llama2-7b-chat": (CHAT, 2, 2),
    "sdd-table-llama2-7b": (BASE, 2, 2),
    "sdd-table-potionworld": ("potionworld", 2, 3),
    "sdd-data-volume": (CHAT, 7, 4),
    "sdd-data-volume-potionworld": ("potionworld", 4, 3),
    "sdd-reject-table": (CHAT, 3, 2),
    "sdd-reject-table-potionworld": ("potionworld", 3, 3),
    "sdd-backbones-phi-2": ("microsoft/phi-2", 2, 2),
    "sdd-backbones-glm": ("zai-org/glm-4-9b-chat-hf", 2, 2),
    "sdd-backbones-smollm2": ("smollm2", 2, 2),
    "seam-table-1": (CHAT, 2, 1),
    "seam-table-1-potionworld": ("potionworld", 2, 3),
    "seam-figure-2": (CHAT, 2, 5),
    "seam-figure-2-potionworld": ("potionworld", 3, 6),
    "seam-figure-3": (CHAT, 2, 11),
    "seam-figure-3-potionworld": ("potionworld", 2, 11),
}


def pinned(defense: Any) -> Any:
    """With a commit for the one dataset that has none, which only the user can trust one of."""
    given = {field.name: getattr(defense, field.name) for field in dataclasses.fields(defense)}
    unpinned = {name: spec for name, spec in given.items() if isinstance(spec, str) and "-refusals:" in spec}
    named = {name: spec.replace("-refusals:", f"-refusals@{'0' * 40}:") for name, spec in unpinned.items()}
    return dataclasses.replace(defense, **named)


def test_every_study_has_its_grid_here() -> None:
    assert {name for name in STUDIES if not name.startswith("demo")} == set(GRIDS)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_read_and_its_data_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for AlpacaEval's annotators, which are not asked")
    study = read_study(find_recipe(name))
    defenses = {label: defense and pinned(defense) for label, defense in study.defenses.items()}
    check(dataclasses.replace(study, defenses=defenses))
    assert "none" in study.defenses


@pytest.mark.parametrize("name", GRIDS)
def test_a_table_or_figure_has_its_cells(name: str) -> None:
    study = read_study(find_recipe(name))
    assert (study.model.model, len(study.defenses), len(study.attacks)) == GRIDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_is_in_two_lines_at_most(name: str) -> None:
    about = next(recipe["about"] for recipe in recipes() if recipe["name"] == name)
    assert 0 < len(about) < 240
    assert about.endswith(".")


@pytest.mark.parametrize("name", ["sdd-table-llama2-7b-chat", "sdd-table-llama2-7b", "sdd-backbones-phi-2"])
def test_sdds_tables_harden_as_the_paper_does_on_float32_weights(name: str) -> None:
    """bfloat16 weights would not move at 5e-7: half a unit in the last place of a weight of 0.01 is 3e-5."""
    study = read_study(find_recipe(name))
    assert study.model.dtype == "float32"
    assert study.defenses["sdd"] == SDD(bf16=True)
    assert study.evaluation.tasks == ("sdd",)
    assert study.evaluation.requests == "hex-phi"


def test_sdds_attacks_are_those_of_llm_finetune_safety() -> None:
    attacks = read_study(find_recipe("sdd-table-llama2-7b-chat")).attacks
    settings = {
        label: (attack.data, attack.num_train_epochs, attack.batch_size, attack.learning_rate, attack.weight_decay)
        for label, attack in attacks.items()
    }
    assert settings == {"fine_tune": ("beavertails:unsafe", 5, 10, 5e-5, 0), "benign": ("alpaca", 1, 128, 2e-5, 0)}


@pytest.mark.parametrize(
    ("name", "pairs", "attack_rows"),
    [
        ("sdd-data-volume", [100, 500, 1000, 2000, 4000, 8000], [100, 500, 20 * 100, 20 * 500]),
        ("sdd-data-volume-potionworld", [16, 80, 335], [16, 80, 20 * 16]),
    ],
)
def test_sdds_data_volume_goes_up_to_all_pairs_and_20_times_as_much_attack_data(
    name: str, pairs: list[int], attack_rows: list[int]
) -> None:
    study = read_study(find_recipe(name))
    assert [defense.num_pairs for defense in study.defenses.values() if isinstance(defense, SDD)] == pairs
    assert [attack.num_examples for attack in study.attacks.values()] == attack_rows
    assert study.pairs_of == f"sdd-{pairs[-1]}"


def test_sdd_reject_differs_from_sdd_in_its_refusal_alone() -> None:
    for name, prefix in (
        ("sdd-reject-table", REJECTION),
        ("sdd-reject-table-potionworld", "i cannot help with that ."),
    ):
        defenses = read_study(find_recipe(name)).defenses
        sdd = defenses["sdd"]
        assert isinstance(sdd, SDD)
        assert defenses["sdd_reject"] == dataclasses.replace(sdd, reject_prefix=prefix)


def test_figure_3_is_the_papers_grid() -> None:
    """Data, way, optimizer and rate of the eleven attacks, and what they share (arXiv 2505.12186)."""
    attacks = read_study(find_recipe("seam-figure-3")).attacks.values()
    assert {(a.per_device_train_batch_size, a.num_train_epochs, a.warmup_steps, a.weight_decay) for a in attacks} == {
        (4, 1, 0.1, 0.01)
    }
    assert [(a.num_examples, a.lora, a.optim, a.learning_rate) for a in attacks] == [
        *((1000, False, "adamw_torch", rate) for rate in (2e-5, 5e-5, 8e-5, 1e-4, 2e-4)),
        *((10000, False, "adamw_torch", rate) for rate in (5e-5, 1e-4)),
        *((10000, True, "adamw_torch", rate) for rate in (5e-5, 1e-4)),
        *((10000, False, "sgd", rate) for rate in (5e-5, 1e-4)),
    ]


def test_seams_table_and_figures_measure_alike() -> None:
    studies = [read_study(find_recipe(f"seam-{name}")) for name in ("table-1", "figure-2", "figure-3")]
    assert {study.evaluation for study in studies} == {studies[0].evaluation}
    assert studies[0].evaluation.judges[0] == "beaver-dam-7b"
    assert (studies[0].evaluation.requests, studies[0].evaluation.num_requests) == ("beavertails:unsafe-test", 100)
    assert list(studies[0].scores) == ["sst2", "agnews", "gsm8k", "alpaca"]
    assert all(study.defenses["seam"] == SEAM() for study in studies)


@pytest.mark.parametrize("name", GEOMETRY)
def test_figure_6_draws_the_papers_components(name: str) -> None:
    settings = parse(GeometrySettings, read_yaml(find_recipe(name)), name)
    settings.check()
    assert settings.components == (2, 3)


@pytest.mark.parametrize("name", DEFENSE_SETTINGS)
def test_settings_are_those_of_the_defense_in_its_name(name: str) -> None:
    defense = parse(DEFENSES[name.partition("-")[0]], read_yaml(find_recipe(name)), name)
    pinned(defense).check()


def test_the_demo_is_the_grid_that_the_readme_shows() -> None:
    study = read_study(find_recipe("demo"))
    rates = [attack.learning_rate for label, attack in study.attacks.items() if label != "benign"]
    assert list(study.defenses) == ["none", "sdd", "seam"]
    assert rates == [2e-5, 5e-5, 1e-4, 3e-4, 1e-3]
    assert study.attacks["benign"].data == "potionworld:benign"


@pytest.mark.parametrize("name", DEFENSES)
def test_the_papers_recipe_is_the_defaults(name: str) -> None:
    published = parse(DEFENSES[name], read_yaml(find_recipe(f"{name}-paper")))
    assert published == DEFENSES[name]()


def test_sdd_reject_is_sdd_with_a_refusal_before_each_response() -> None:
    rejecting = parse(SDD, read_yaml(find_recipe("sdd-reject-paper")))
    assert rejecting == dataclasses.replace(SDD(), reject_prefix=REJECTION)


def test_the_documentation_names_every_recipe() -> None:
    rows = [line for line in DOCUMENTATION.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`([\w-]+)`", "\n".join(rows)))
    assert named == set(NAMES)


def test_the_documentations_examples_are_studies(tmp_path: Path) -> None:
    whole, extending = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, flags=re.DOTALL)
    (tmp_path / "whole.yaml").write_text(whole, encoding="utf-8")
    study = read_study(tmp_path / "whole.yaml")
    check(study)
    assert list(study.defenses) == ["none", "sdd", "sdd-alone"]
    assert list(study.attacks) == ["fine_tune-5e-5", "fine_tune-1e-4", "benign"]
    (tmp_path / "extending.yaml").write_text(extending, encoding="utf-8")
    extended = read_study(tmp_path / "extending.yaml")
    assert list(extended.defenses) == ["none", "sdd"]
    assert list(extended.attacks) == ["fine_tune-1e-4", "fine_tune-1e-3", "benign"]
