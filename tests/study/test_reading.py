"""Studies from YAML: axes, what extends what, words of the command line, and every mistake at once in one line each."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe, recipes
from rupert.study.definition.study import Study, describe, with_seed

MINIMAL = """
    model: potionworld
    seeds: [3, 4]
    defenses:
      none:
      sdd: {recipe: sdd-potionworld, max_steps: 7}
    attacks:
      fine_tune: {data: "potionworld:attacker", learning_rate: [1e-5, 2e-4], num_examples: [8, 16]}
      honest: {method: fine_tune, data: "potionworld:benign"}
    pairs_of: sdd
"""


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return write(tmp_path, MINIMAL)


def mistakes(path: Path, *overrides: str) -> list[str]:
    """What a study is refused for."""
    with pytest.raises(UsageError) as caught:
        read_study(path, overrides)
    return str(caught.value).splitlines()


def test_a_study_is_its_grid(minimal: Path) -> None:
    study = read_study(minimal)
    assert study.name == "study"
    assert study.seeds == (3, 4)
    assert list(study.defenses) == ["none", "sdd"]
    assert study.defenses["none"] is None
    assert list(study.attacks) == [
        "fine_tune-1e-5-8",
        "fine_tune-1e-5-16",
        "fine_tune-2e-4-8",
        "fine_tune-2e-4-16",
        "honest",
    ]
    assert study.attacks["fine_tune-2e-4-8"].learning_rate == 2e-4
    assert study.attacks["honest"].data == "potionworld:benign"
    assert study.attacked == "drop"


def test_a_label_says_a_listed_value_as_a_folder_can_be_called(tmp_path: Path) -> None:
    given = "fine_tune: {data: [potionworld:attacker, some/where.jsonl], lora: [true, false], num_examples: 8}"
    text = MINIMAL.replace(
        'fine_tune: {data: "potionworld:attacker", learning_rate: [1e-5, 2e-4], num_examples: [8, 16]}', given
    )
    assert list(read_study(write(tmp_path, text)).attacks)[:4] == [
        "fine_tune-potionworld:attacker-true",
        "fine_tune-potionworld:attacker-false",
        "fine_tune-some-where.jsonl-true",
        "fine_tune-some-where.jsonl-false",
    ]


def test_a_recipe_is_where_settings_start_from(minimal: Path) -> None:
    sdd = read_study(minimal).defenses["sdd"]
    assert sdd is not None
    assert sdd.max_steps == 7
    assert sdd.benign_share == 0.5  # from the recipe
    assert sdd.responses == ("potionworld:benign",)  # a list that is one setting is no axis


def test_axes_have_the_order_in_which_the_study_lists_them(tmp_path: Path) -> None:
    text = MINIMAL.replace("max_steps: 7", "max_steps: [7, 8], num_pairs: [20, 30]").replace("pairs_of: sdd", "")
    assert list(read_study(write(tmp_path, text)).defenses)[1:] == ["sdd-7-20", "sdd-7-30", "sdd-8-20", "sdd-8-30"]


def test_a_recipe_s_path_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path, "{pairs: 'stand-ins:defender', max_steps: 3}", "inner/own.yaml")
    write(tmp_path, MINIMAL.replace("sdd-potionworld, max_steps: 7", "own.yaml"), "inner/parent.yaml")
    sdd = read_study(write(tmp_path, "extends: inner/parent.yaml")).defenses["sdd"]
    assert sdd is not None
    assert sdd.max_steps == 3


def test_a_seed_reaches_every_method(minimal: Path) -> None:
    study = with_seed(read_study(minimal), 4)
    assert study.seeds == (4,)
    assert study.defenses["sdd"] is not None
    assert study.defenses["sdd"].seed == 4
    assert {attack.seed for attack in study.attacks.values()} == {4}


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("seeds:", "seed:", UnknownName, "study.yaml: key: 'seed' is unknown; did you mean 'seeds'?"),
        ("model: potionworld", "model: potionwordl", UnknownName, "did you mean 'potionworld'?"),
        ("model: potionworld", "model: [a]", InvalidValue, "study.yaml: model.model: ['a'] is not valid; give text"),
        ("model: potionworld", "model: {dtyp: bfloat16}", UsageError, "study.yaml: model.dtyp: 'dtyp' is unknown"),
        (
            "  sdd: {",
            "  sddd: {",
            UnknownName,
            "study.yaml: defenses.sddd.method: 'sddd' is unknown; did you mean 'sdd'?",
        ),
        (
            "max_steps",
            "max_step",
            UnknownName,
            "study.yaml: defenses.sdd.max_step: 'max_step' is unknown; did you mean 'max_steps'?",
        ),
        ("sdd-potionworld", "sdd-potionwold", UnknownName, "defenses.sdd.recipe: 'sdd-potionwold' is unknown"),
        ("sdd-potionworld", "x" * 300, UnknownName, "xxx' is unknown; valid: "),
        ("sdd-potionworld", "../recipes/demo", UnknownName, "defenses.sdd.recipe: '../recipes/demo' is unknown"),
        ("sdd-potionworld", "[a, b]", InvalidValue, "defenses.sdd.recipe: ['a', 'b'] is not valid; name one recipe"),
        (
            "[1e-5, 2e-4]",
            "[fast]",
            InvalidValue,
            "attacks.fine_tune.learning_rate: 'fast' is not valid; give a finite number",
        ),
        ("[1e-5, 2e-4]", "[]", InvalidValue, "attacks.fine_tune.learning_rate: [] is not valid; list at least one"),
        ("[1e-5, 2e-4]", "[0]", InvalidValue, "study.yaml: attacks.fine_tune: learning_rate: 0.0 is not valid"),
        ("[1e-5, 2e-4]", "{a: 1}", InvalidValue, "learning_rate: {'a': 1} is not valid; give a finite number"),
        ("[8, 16]", "[8, 8]", InvalidValue, "attacks.fine_tune.num_examples: [8, 8] is not valid; list at least one"),
        ("honest", "fine_tune-1e-5-8", InvalidValue, "'fine_tune-1e-5-8' is not valid; the grid has this label twice"),
        ("honest", "h" * 101, InvalidValue, "is not valid; a label has at most 100 characters"),
        ("honest", "to/where", InvalidValue, "study.yaml: attacks: 'to/where' is not valid; it names folders; write"),
        ("honest", "..", InvalidValue, "study.yaml: attacks: '..' is not valid; it names folders; write"),
        ("honest", "a.b", InvalidValue, "study.yaml: attacks: 'a.b' is not valid; it names folders; write"),
        ("honest", "none", InvalidValue, "study.yaml: attacks: 'none' is not valid; that stands for"),
        ("honest", "10", InvalidValue, "study.yaml: attacks: 10 is not valid; a label is text; put it in quotes"),
        ("honest: {method: fine_tune,", "honest: {method: [a],", UnknownName, "attacks.honest.method: \"['a']\" is"),
        ("honest: {method", "honest: 3 #", InvalidValue, "attacks.honest: 3 is not valid; write its settings under it"),
        ("num_examples: [8", "seed: 3, num_examples: [8", InvalidValue, "fine_tune.seed: 3 is not valid; a study sets"),
        ("none:", "none: {max_steps: 3}", InvalidValue, "study.yaml: defenses.none: {'max_steps': 3} is not valid; it"),
        ("[3, 4]", "[3.5]", InvalidValue, "study.yaml: seeds: 3.5 is not valid; give a whole number"),
        ("[3, 4]", "[3, 3]", InvalidValue, "study.yaml: seeds: [3, 3] is not valid; give at least one, and each once"),
        ("[3, 4]", "[]", InvalidValue, "study.yaml: seeds: [] is not valid; give at least one"),
        ("[3, 4]", "[-1]", InvalidValue, "study.yaml: seeds: -1 is not valid; must be 0 or above"),
        ("[3, 4]", "{a: 1}", InvalidValue, "study.yaml: seeds: {'a': 1} is not valid; give a list"),
        ("pairs_of: sdd", "pairs_of: seam", UnknownName, "study.yaml: pairs_of: 'seam' is unknown"),
        ("pairs_of: sdd", "pairs_of: none", InvalidValue, "study.yaml: pairs_of: 'none' is not valid; it is hardened"),
        (
            "pairs_of: sdd",
            "attacked: keeps",
            UnknownName,
            "study.yaml: attacked: 'keeps' is unknown; did you mean 'keep",
        ),
        ("pairs_of: sdd", "notes: one", InvalidValue, "study.yaml: notes: 'one' is not valid; give a list"),
        ("pairs_of: sdd", "scores: [sst2]", InvalidValue, "study.yaml: scores: ['sst2'] is not valid; write one"),
        ("pairs_of: sdd", "evaluation: {judges: [oracl]}", UnknownName, "study.yaml: evaluation: judges: 'oracl' is"),
        ("pairs_of: sdd", "extends: [demo]", InvalidValue, "study.yaml: extends: ['demo'] is not valid; name one"),
        ("pairs_of: sdd", "extends: dem", UnknownName, "study.yaml: extends: 'dem' is unknown; did you mean 'demo'?"),
        ("pairs_of: sdd", "extends: its.yaml", UsageError, "its.yaml' does not exist; name a YAML file"),
        ("pairs_of: sdd", "extends: study.yaml", InvalidValue, "a circle: study.yaml -> study.yaml"),
        ("model: potionworld", "", UsageError, "study.yaml: model is missing"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    tmp_path: Path, old: str, new: str, error: type[UsageError], message: str
) -> None:
    assert old in MINIMAL
    with pytest.raises(error) as caught:
        read_study(write(tmp_path, MINIMAL.replace(old, new, 1)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("defenses: []", "study.yaml: defenses: [] is not valid; write one"), ("defenses:", "defenses is missing")],
)
def test_a_study_without_defenses_is_told_so(tmp_path: Path, text: str, message: str) -> None:
    rest = "\nmodel: potionworld\nattacks: {fine_tune: {data: 'potionworld:attacker'}}\n"
    assert mistakes(write(tmp_path, text + rest))[0].startswith(
        message.replace("defenses is", "study.yaml: defenses is")
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """
        model: {model: potionwordl}
        seeds: [1, 1]
        defences: {}
        defenses:
          seam: {recipe: seam-potionworld, max_step: 3, beta: lots}
          sdd: {max_steps: -1}
        attacks:
          fine_tune: {learning_rate: [fast, 1e-4, slow], num_examples: 0}
          fintune: {}
        evaluation: {limit: 0}
        scores: {sst3: {}}
        notes: 3
    """
    assert mistakes(write(tmp_path, text), "seeds", "evaluation.batch_size=many", "attack.x=3") == [
        "override: 'seeds' is not valid; write KEY=VALUE, such as seeds=[0,1] or attacks.LABEL.learning_rate=1e-4",
        "override: key: 'attack' is unknown; did you mean 'attacks'?",
        "study.yaml: key: 'defences' is unknown; did you mean 'defenses'?",
        "study.yaml: model: --model: 'potionwordl' is unknown; did you mean 'potionworld'?",
        "study.yaml: seeds: [1, 1] is not valid; give at least one, and each once",
        "study.yaml: defenses.seam.max_step: 'max_step' is unknown; did you mean 'max_steps'?",
        "study.yaml: defenses.seam.beta: 'lots' is not valid; give a finite number",
        "study.yaml: defenses.sdd: max_steps: -1 is not valid; must be above 0",
        "study.yaml: attacks.fine_tune.learning_rate: 'fast' is not valid; give a finite number",
        "study.yaml: attacks.fine_tune: num_examples: 0 is not valid; must be above 0",
        "study.yaml: attacks.fine_tune.learning_rate: 'slow' is not valid; give a finite number",
        "study.yaml: attacks.fintune.method: 'fintune' is unknown; did you mean 'fine_tune'?",
        "override: evaluation.batch_size: 'many' is not valid; give a whole number",
        "study.yaml: scores.sst3.method: 'sst3' is unknown; did you mean 'sst2'?",
        "study.yaml: notes: 3 is not valid; give a list",
    ]


def test_a_study_extends_another_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "    notes: [small]\n", "parent.yaml")
    child = """
        extends: parent.yaml
        model: {dtype: bfloat16}
        seeds: [0]
        defenses: {seam: {recipe: seam-potionworld}, sdd: {max_steps: 9}}
        attacks: {honest: drop, fine_tune: {num_examples: 4}}
        notes: [cheap]
    """
    study = read_study(write(tmp_path, child, "child.yaml"))
    assert study.name == "child"
    assert (study.model.model, study.model.dtype) == ("potionworld", "bfloat16")
    assert study.seeds == (0,)
    assert list(study.defenses) == ["none", "sdd", "seam"]
    assert study.defenses["sdd"] is not None
    assert (study.defenses["sdd"].max_steps, study.defenses["sdd"].benign_share) == (9, 0.5)
    assert list(study.attacks) == ["fine_tune-1e-5", "fine_tune-2e-4"]
    assert {attack.num_examples for attack in study.attacks.values()} == {4}
    assert study.pairs_of == "sdd"
    assert study.notes == ("small", "cheap")


def test_extending_goes_on_and_recipes_are_named_without_a_path(tmp_path: Path) -> None:
    write(tmp_path, "{extends: demo, seeds: [7]}", "middle.yaml")
    study = read_study(write(tmp_path, "{extends: middle.yaml, defenses: {none: drop, seam: drop}}"))
    demo = read_study(find_recipe("demo"))
    assert study == replace(demo, name="study", seeds=(7,), defenses={"sdd": demo.defenses["sdd"]})


def test_a_mistake_names_the_file_that_it_stands_in(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL.replace("[1e-5, 2e-4]", "fast").replace("max_steps: 7", "max_steps: few"), "parent.yaml")
    write(tmp_path, "max_length: long", "own.yaml")
    child = "{extends: parent.yaml, defenses: {sdd: {recipe: own.yaml, max_steps: some}, seam: dropp, sd: drop}}"
    assert mistakes(write(tmp_path, child, "child.yaml")) == [
        "child.yaml: defenses: drop: 'sd' is unknown; did you mean 'sdd'?",
        "own.yaml: max_length: 'long' is not valid; give a whole number",
        "child.yaml: defenses.sdd.max_steps: 'some' is not valid; give a whole number",
        "child.yaml: defenses.seam: 'dropp' is not valid; write its settings under it, or nothing",
        "parent.yaml: attacks.fine_tune.learning_rate: 'fast' is not valid; give a finite number",
    ]


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a.yaml")
    write(tmp_path, "extends: a.yaml", "b.yaml")
    assert mistakes(tmp_path / "a.yaml") == [
        "b.yaml: extends: 'a.yaml' is not valid; a circle: a.yaml -> b.yaml -> a.yaml"
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seeds=[0,1]"], {"seeds": (0, 1)}),
        (["seeds=[0]", "seeds=[5]"], {"seeds": (5,)}),
        (["model.dtype=bfloat16"], {"model.dtype": "bfloat16"}),
        (["evaluation.limit=20"], {"evaluation.limit": 20}),
        (["evaluation={limit: 3, batch_size: 2}"], {"evaluation.limit": 3, "evaluation.batch_size": 2}),
        (["defenses.sdd.max_steps=5"], {"defenses.sdd.max_steps": 5, "defenses.sdd.benign_share": 0.5}),
        (["attacked=keep", "pairs_of="], {"attacked": "keep", "pairs_of": ""}),
    ],
)
def test_the_command_line_wins(minimal: Path, words: list[str], expected: dict[str, object]) -> None:
    study = read_study(minimal, words)
    assert {place: value_at(study, place) for place in expected} == expected


def value_at(study: Study, place: str) -> object:
    value: object = study
    for key in place.split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value


def test_the_command_line_lists_axes_and_drops_labels(minimal: Path) -> None:
    words = ["attacks.fine_tune.learning_rate=[1e-4,3e-4]", "attacks.fine_tune.num_examples=8", "attacks.honest=drop"]
    study = read_study(minimal, words)
    assert {label: attack.learning_rate for label, attack in study.attacks.items()} == {
        "fine_tune-1e-4": 1e-4,
        "fine_tune-3e-4": 3e-4,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds", "override: 'seeds' is not valid; write KEY=VALUE, such as"),
        ("=3", "override: '=3' is not valid; write KEY=VALUE"),
        ("defenses..max_steps=3", "override: 'defenses..max_steps=3' is not valid; write KEY=VALUE"),
        ("seed=[3]", "override: key: 'seed' is unknown; did you mean 'seeds'?"),
        ("extends=demo", "override: key: 'extends' is unknown"),
        ("attacks.fine_tun.learning_rate=1", "override: attacks: 'fine_tun' is unknown; did you mean 'fine_tune'?"),
        ("attacks.fine_tune-1e-5-8.max_steps=3", "override: attacks: 'fine_tune-1e-5-8' is unknown; did you mean"),
        ("scores.sst2.limit=3", "override: 'scores.sst2.limit=3' is not valid; the study has no scores; write"),
        ("attacks.fine_tune.learning_rat=1", "attacks.fine_tune.learning_rat: 'learning_rat' is unknown; did you mean"),
        ("evaluation.limit.x=3", "override: evaluation.limit: {'x': 3} is not valid; give a whole number or none"),
        ("seeds=[0", "override: seeds: '[0' is not valid; write it as in YAML"),
        ("evaluation={limit: 1, limit: 2}", "override: evaluation: '{limit: 1, limit: 2}' is not valid; write it as"),
    ],
)
def test_a_wrong_word_is_one_line_with_its_remedy(minimal: Path, word: str, message: str) -> None:
    (line,) = mistakes(minimal, word)
    assert message in line


def test_a_description_tells_everything_that_defines_the_numbers(minimal: Path) -> None:
    text = json.loads(json.dumps(describe(read_study(minimal, ["scores={potionworld: {}}"]))))
    assert text["model"] == "potionworld"
    assert text["seeds"] == [3, 4]
    assert text["defenses"]["none"] is None
    assert (text["defenses"]["sdd"]["method"], text["defenses"]["sdd"]["max_steps"]) == ("sdd", 7)
    assert text["attacks"]["honest"]["method"] == "fine_tune"
    assert text["scores"]["potionworld"]["train"] == "potionworld:new-skill"
    assert text["evaluation"]["requests"] == ""  # which the model chooses
    assert text["pairs_of"] == "sdd"


def test_recipes_are_found_by_name_and_files_by_path(tmp_path: Path) -> None:
    assert find_recipe("demo").name == "demo.yaml"
    assert find_recipe(str(tmp_path / "own.yaml")) == tmp_path / "own.yaml"
    with pytest.raises(UnknownName, match=r"--config: 'dem' is unknown; did you mean 'demo'\?"):
        find_recipe("dem", "--config")
    assert all(recipe["about"] for recipe in recipes())
