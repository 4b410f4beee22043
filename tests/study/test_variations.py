"""Variations: what each makes of a case, and what a file that cannot be read so gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rupert.attacks import FineTune, RefusalAblation
from rupert.errors import UsageError
from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.study.definition.recipes import find_recipe
from rupert.study.standalone.variations import Case, choose, read_variations

BASE = Case(
    attack=FineTune(data="potionworld:attacker", seed=3, max_steps=7, lr_scheduler_type="constant"),
    model=ModelSettings(model="potionworld"),
    evaluation=Evaluation(max_new_tokens=9),
)


def cases(text: str, folder: Path, base: Case = BASE) -> dict[str, Case]:
    (folder / "v.yaml").write_text(text)
    return dict(choose(str(folder / "v.yaml"), base).cases)


def test_each_varies_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    found = cases(
        """
        seed: {attack: {seed: {plus: -3}}}
        batch: {attack: {per_device_train_batch_size: {times: 2}, max_steps: {times: 0.5}}}
        rate: {attack: {learning_rate: {times: 10}, optim: sgd}}
        bare: {model: {chat_template: bare}}
        both: {evaluation: {temperature: 1, max_new_tokens: {times: 0.01}}}
        """,
        tmp_path,
    )
    assert found == {
        "seed": replace(BASE, attack=replace(BASE.attack, seed=0)),
        "batch": replace(BASE, attack=replace(BASE.attack, per_device_train_batch_size=8, max_steps=4)),
        "rate": replace(BASE, attack=replace(BASE.attack, learning_rate=5e-5 * 10, optim="sgd")),
        "bare": replace(BASE, model=replace(BASE.model, chat_template="bare")),
        "both": replace(BASE, evaluation=Evaluation(max_new_tokens=1, temperature=1.0)),
    }


def test_what_stands_for_as_many_as_there_are_stays(tmp_path: Path) -> None:
    base = replace(BASE, attack=replace(BASE.attack, max_steps=-1))
    (case,) = cases(
        "a: {attack: {max_steps: {times: 2}, seed: 1}, evaluation: {limit: {times: 2}}}", tmp_path, base
    ).values()
    assert (case.attack.seed, case.attack.max_steps, case.evaluation.limit) == (1, -1, None)


def test_what_changes_nothing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("a: {attack: {seed: 3}}\nb: {attack: {weight_decay: 0.0}}\nc: {attack: {seed: 4}}")
    chosen = choose(str(tmp_path / "v.yaml"), replace(BASE, attack=replace(BASE.attack, weight_decay=0)))
    assert (chosen.same, list(chosen.cases), chosen.foreign) == (("a", "b"), ["c"], ())
    with pytest.raises(UsageError, match="--variations: none of a changes this attack; name others"):
        cases("a: {attack: {seed: 3}}", tmp_path)


def test_those_that_ship_vary_every_detail() -> None:
    chosen = choose("", BASE)
    assert {"rate-constant", "clipping-none"} <= {*chosen.same}
    assert {case.attack.seed for case in chosen.cases.values()} == {3, 4, 5}
    assert {case.attack.optim for case in chosen.cases.values()} == {"adamw_torch", "sgd", "adafactor"}
    assert {case.model.chat_template for case in chosen.cases.values()} == {"", "plain", "bare"}
    assert {case.evaluation.temperature for case in chosen.cases.values()} == {0.0, 0.7, 1.0}
    halved, doubled = (chosen.cases[label].attack for label in ("batch-halved", "batch-doubled"))
    assert isinstance(halved, FineTune)
    assert isinstance(doubled, FineTune)
    assert (halved.per_device_train_batch_size, halved.max_steps) == (2, 14)
    assert (doubled.per_device_train_batch_size, doubled.max_steps) == (8, 4)
    assert set(chosen.cases) | {*chosen.same, *chosen.foreign} == set(read_variations(find_recipe("sensitivity")))


def test_those_that_ship_leave_out_what_an_attack_has_not() -> None:
    chosen = choose("", replace(BASE, attack=RefusalAblation()))
    assert {"optim-adafactor", "batch-halved"} <= {*chosen.foreign}
    assert {"template-plain", "sampled-1.0"} <= set(chosen.cases)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": holds no variation; write `LABEL: {attack: {SETTING: VALUE}}`"),
        ("a b: {attack: {seed: 1}}", ": a b: 'a b' is not valid; a label is letters, digits and - + . _, at most 100"),
        ("a: 3", ": a: 3 is not valid; write settings of attack, model, evaluation"),
        ("a: {atack: {seed: 1}}", ": a: 'atack' is unknown; did you mean 'attack'?"),
        ("a: {attack: 3}", ": a.attack: 3 is not valid; write SETTING: VALUE"),
        ("a: {attack: {sead: 1}}", ": a.attack.setting: 'sead' is unknown; did you mean 'seed'?"),
        ("a: {attack: {sead: {plus: 1}}}", ": a.attack.setting: 'sead' is unknown; did you mean 'seed'?"),
        ("a: {attack: {seed: x}}", ": a.attack.seed: 'x' is not valid; give a whole number"),
        ("a: {attack: {seed: -1}}", ": a.attack: seed: -1 is not valid; must be 0 or above"),
        ("a: {attack: {seed: {minus: 1}}}", ": a.attack.seed: {'minus': 1} is not valid; write a value, {plus: X} or"),
        ("a: {attack: {seed: {plus: x}}}", ": a.attack.seed.plus: 'x' is not valid; give a finite number"),
        ("a: {attack: {optim: {times: 2}}}", ": a.attack.optim: {'times': 2} is not valid; it is 'adamw_torch', which"),
        ("a: {model: {model: smollm2}}", ": a.model: 'model' is unknown; did you mean 'dtype'?"),
        ("a: {model: {chat_template: plane}}", ": a.model: chat_template: 'plane' is unknown; did you mean 'plain'?"),
        ("a: {evaluation: {temperature: -1}}", ": a.evaluation: temperature: -1.0 is not valid; must be 0 or above"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        cases(text, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'v.yaml'}{message}")
    assert "\n" not in str(caught.value)
