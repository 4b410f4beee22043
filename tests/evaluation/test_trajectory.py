"""A model on its way through an attack: it is measured, and trained as if it were not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from rupert.attacks import FineTune
from rupert.errors import InvalidValue, RunError
from rupert.evaluation.suite import Evaluation
from rupert.evaluation.trajectory import (
    Point,
    Stopped,
    Trajectory,
    flops_a_token,
    follow,
    read_points,
    undisturbed,
    write_points,
)
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.records import Metric
from rupert.training.adapters import adapted
from rupert.training.fine_tuning import Following, fine_tune

ATTACK = FineTune(
    data="potionworld:attacker", num_examples=20, per_device_train_batch_size=8, max_length=64, learning_rate=1e-3
)
DROPPING = replace(ATTACK, lora=True, lora_dropout=0.5)
EVALUATION = Evaluation(limit=4, max_new_tokens=8).for_model(is_potionworld=True)
FOUND = (Metric("harm", 0.5), Metric("ability", 0.9), Metric("refusal", 0.25))


def weights(attack: FineTune, way: Trajectory | None) -> list[torch.Tensor]:
    loaded = load(ModelSettings(model="potionworld"))
    attacked = attack.run(loaded, attack.gather(), Following(callbacks=(way,) if way else ()))
    return [weight.detach() for weight in attacked.loaded.model.parameters()]


def nothing_found(model: PreTrainedModel, step: int) -> Sequence[Metric]:
    return FOUND


def trained(way: Trajectory, attack: FineTune = ATTACK, times: int = 1) -> Trajectory:
    loaded = load(ModelSettings(model="potionworld"))
    with way.attacking():
        for _ in range(times):
            fine_tune(attack, loaded, attack.gather()["data"], "training", Following(callbacks=(way,)))
    return way


@pytest.mark.parametrize("attack", [ATTACK, DROPPING], ids=["every weight", "an adapter with dropout"])
def test_training_goes_on_as_if_it_were_not_measured(attack: FineTune, tmp_path: Path) -> None:
    loaded = load(ModelSettings(model="potionworld"))
    prepared, data = EVALUATION.prepare(), EVALUATION.gather()
    looking = follow(prepared, loaded, data, tmp_path, 1)

    def measure(model: PreTrainedModel, step: int) -> Sequence[Metric]:
        torch.rand(3)
        np.random.rand(3)
        random.random()
        assert not any(module.training for module in model.modules())
        return looking._measure(model, step)

    attack = replace(attack, num_train_epochs=2)
    way = Trajectory(measure, 1)
    alone, followed = weights(attack, None), weights(attack, way)
    assert [point.step for point in way.points] == [1, 2, 3, 4, 5]
    assert all(torch.equal(mine, other) for mine, other in zip(alone, followed, strict=True))
    folders = [tmp_path / "trajectory" / str(step) for step in range(1, 6)]
    assert all(sorted(path.name for path in folder.iterdir()) == ["answers.jsonl", "verdicts"] for folder in folders)


def test_a_point_says_what_an_evaluation_of_the_model_would_say(tmp_path: Path) -> None:
    """After so many steps of a training at a constant rate, against a training that ends there."""
    attack = replace(ATTACK, num_examples=64, lr_scheduler_type="constant", warmup_steps=0, num_train_epochs=2)
    evaluation = replace(EVALUATION, limit=24, max_new_tokens=24)
    prepared, data = evaluation.prepare(), evaluation.gather()
    loaded = load(ModelSettings(model="potionworld"))
    way = follow(prepared, loaded, data, tmp_path, 8)
    attack.run(loaded, attack.gather(), Following(callbacks=(way,)))
    shorter = load(ModelSettings(model="potionworld"))
    replace(attack, max_steps=8).run(shorter, attack.gather())
    measured = {metric.name: metric for metric in prepared.glance(shorter, data, tmp_path / "shorter")}
    (point,) = way.points
    assert (point.harm, point.ability, point.refusal) == tuple(
        measured[name] for name in ("harm", "ability", "refusal")
    )
    answers = [
        (folder / "answers.jsonl").read_text() for folder in (tmp_path / "trajectory" / "8", tmp_path / "shorter")
    ]
    assert answers[0] == answers[1]


def test_steps_are_counted_over_all_trainings() -> None:
    way = trained(Trajectory(nothing_found, 3), replace(ATTACK, num_train_epochs=2), times=2)
    way.end(FOUND)
    # 20 rows in batches of 8, 8 and 4: 6 steps a training. What the first ends with is measured when the second begins.
    assert [point.step for point in way.points] == [3, 6, 9, 12]
    assert [point.rows for point in way.points] == [20, 40, 60, 80]
    tokens = [point.tokens for point in way.points]
    assert [count - tokens[0] for count in tokens] == [0, tokens[0], 2 * tokens[0], 3 * tokens[0]]
    seconds = [point.seconds for point in way.points]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    ("eval_steps", "expected"), [(0, []), (0.3, [2, 4]), (0.2, [1, 2, 3, 4]), (2, [2, 4]), (5, []), (9, [])]
)
def test_how_often(eval_steps: float, expected: list[int]) -> None:
    way = trained(Trajectory(nothing_found, eval_steps), replace(ATTACK, max_steps=5))
    assert [point.step for point in way.points] == expected


def test_measuring_is_no_part_of_the_attacks_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def measure(model: PreTrainedModel, step: int) -> Sequence[Metric]:
        nonlocal now
        now += 1000.0
        return FOUND

    monkeypatch.setattr("rupert.evaluation.trajectory.time.perf_counter", lambda: now)
    way = Trajectory(measure, 1)
    trained(way, replace(ATTACK, max_steps=3))
    assert now == 2000.0
    assert way.end(FOUND).seconds == 0.0


def test_stop_ends_the_attack_where_it_says_so() -> None:
    asked: list[int] = []

    def stop(point: Point) -> bool:
        asked.append(point.step)
        return point.step == 2

    way = Trajectory(nothing_found, 1, stop)
    with pytest.raises(Stopped) as caught:
        trained(way, replace(ATTACK, max_steps=5))
    assert caught.value.point == way.points[-1]
    assert (asked, caught.value.point.step, caught.value.point.rows) == ([1, 2], 2, 16)


def test_modes_and_random_states_are_given_back_when_measuring_fails(tiny: Callable[..., LoadedModel]) -> None:
    model = tiny().model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def fail() -> None:
        with undisturbed(model):
            assert not any(module.training for module in model.modules())
            torch.rand(1)
            raise RunError("failed")

    with pytest.raises(RunError, match="failed"):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)


def test_operations_are_those_of_kaplan(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    words, hidden = len(loaded.tokenizer), 16
    # A layer: queries and outputs 16 x 16, keys and values 8 x 16, three of 32 x 16, two norms of 16.
    layers = 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 32 * 16 + 2 * 16)
    parameters = layers + 16 + words * hidden  # the last norm, and the head, which is the embedding here
    assert flops_a_token(loaded.model) == 6 * parameters
    with adapted(replace(DROPPING, lora_r=2, lora_target_modules=("q_proj",)), loaded.model) as wrapped:
        adapter = 2 * (2 * 16 + 2 * 16)
        assert flops_a_token(wrapped) == 4 * (parameters + adapter) + 2 * adapter
    untied = tiny().model
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    assert flops_a_token(untied) == 6 * parameters
    untied.model.layers.requires_grad_(False)
    assert flops_a_token(untied) == 4 * parameters + 2 * (parameters - layers)


def test_points_come_back_from_their_file(tmp_path: Path) -> None:
    way = trained(Trajectory(nothing_found, 1), replace(ATTACK, max_steps=2))
    points = [way.end((Metric("harm", 0.5, 0.2, 0.8, 4), Metric("ability", 1.0))), *way.points[:1]]
    write_points(points, tmp_path / "points.jsonl")
    assert read_points(tmp_path / "points.jsonl") == points
    assert points[0].refusal is None


@pytest.mark.parametrize("eval_steps", [-0.1, 1.5, float("nan"), float("inf")])
def test_other_numbers_of_steps_are_refused(eval_steps: float) -> None:
    with pytest.raises(InvalidValue) as caught:
        Trajectory(nothing_found, eval_steps)
    expected = "give a share of all steps below 1, a whole number of steps, or 0 for never"
    assert str(caught.value) == f"eval_steps: {eval_steps!r} is not valid; {expected}"


def test_without_any_verdict_there_is_no_point() -> None:
    way = Trajectory(nothing_found, 0)
    with pytest.raises(RunError, match=r"^no answer after 0 steps has a verdict on harm; name another judge$"):
        way.end((Metric("ability", 1.0),))
