"""Every attack has an estimate, and what makes one dearer than plain fine-tuning is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rupert.attacks import ATTACKS, EarlyStopping, FineTune, Interpolation, Projection, PromptTune, Recovery
from rupert.models.shape import shape_of
from rupert.study.definition.graph import graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study
from rupert.study.estimates import DEVICES, Setup, estimate, plan
from rupert.study.estimates.attacks import attack_memory, attack_seconds
from rupert.study.estimates.hardware import Hardware
from rupert.study.estimates.memory import Memory, Place
from rupert.study.estimates.work import Speed

LLAMA = shape_of("meta-llama/Llama-2-7b-chat-hf")
A100 = Setup(hardware=DEVICES["A100-80GB"])
SPEED = Speed(shape=LLAMA, hardware=A100.hardware, dtype="bfloat16")
GPU = Place(is_gpu=True)
CPU = Hardware(name="a CPU", memory=10**12, single=10**12, half=10**12, bandwidth=10**11, is_gpu=False)
WHOLE = 2 * LLAMA.parameters


def study(attack: Any) -> Study:
    """Of Llama-2-7b-chat in bfloat16."""
    return replace(read_study(find_recipe("seam-figure-2"), []), defenses={"none": None}, attacks={"attack": attack})


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_has_a_plan(name: str) -> None:
    settings = ATTACKS[name](**({"towards": "potionworld"} if name == "interpolation" else {}))
    found = plan(study(settings), A100)
    [line] = [one for one in found.lines if one.kind == "attack"]
    assert line.estimate.memory.weights >= WHOLE
    assert line.estimate.seconds > 0 or name == "interpolation"


def test_an_attack_that_is_not_known_reads_some_hundred_rows() -> None:
    assert attack_seconds(object(), SPEED) == pytest.approx(SPEED.reading(500, 64))
    assert attack_memory(object(), SPEED, GPU).copies == WHOLE


def test_a_second_training_takes_its_own_time() -> None:
    one = attack_seconds(Recovery(recovery_num_examples=100), SPEED)
    two = attack_seconds(Recovery(recovery_num_examples=300), SPEED)
    alone = attack_seconds(FineTune(), SPEED)
    assert two - one == pytest.approx(alone / 5)
    assert one == pytest.approx(alone * 1.1)


def test_a_projection_passes_twice_and_holds_one_more_gradient() -> None:
    assert attack_seconds(Projection(), SPEED) == pytest.approx(2 * attack_seconds(FineTune(), SPEED))
    assert attack_memory(Projection(max_length=64), SPEED, GPU).copies == WHOLE


def test_looks_at_benign_rows_are_counted_and_so_are_the_weights_to_go_back_to() -> None:
    settings = EarlyStopping(watch_steps=10, num_benign_examples=8)  # 250 steps: 25 looks, the first and the last
    looks = attack_seconds(settings, SPEED) - attack_seconds(FineTune(), SPEED)
    assert looks == pytest.approx(27 * SPEED.reading(8, 512))
    assert attack_memory(settings, SPEED, GPU).copies == WHOLE


def test_an_interpolation_without_data_trains_nothing() -> None:
    still = Interpolation(towards="potionworld")
    assert attack_seconds(still, SPEED) == 0
    assert attack_memory(still, SPEED, GPU) == Memory(weights=WHOLE)
    assert attack_memory(still, SPEED, Place(is_gpu=False)) == Memory(weights=WHOLE, copies=WHOLE)
    trained = replace(still, data="potionworld:attacker")
    assert attack_seconds(trained, SPEED) == attack_seconds(FineTune(), SPEED)


def test_a_soft_prompt_has_hardly_any_states() -> None:
    memory = attack_memory(PromptTune(max_length=256), SPEED, GPU)
    assert memory.optimizer + memory.gradients < 0.01 * WHOLE


@pytest.mark.parametrize(
    ("settings", "setup", "refused"),
    [
        ({"layers_to_transform": (-1, 32)}, A100, "layers_to_transform: the model has no layer 32, but 32 layers"),
        (
            {"lora": True, "load_in_4bit": True},
            Setup(hardware=CPU),
            "load_in_4bit needs a GPU, and weights that are not sharded",
        ),
        (
            {"lora": True, "load_in_4bit": True},
            replace(A100, gpus=2, sharding="fsdp2"),
            "load_in_4bit needs a GPU, and weights that are not sharded",
        ),
        ({"lora": True, "load_in_4bit": True, "layers_to_transform": (-32,)}, A100, ""),
    ],
)
def test_what_cannot_run_is_refused_as_a_run_would(settings: dict[str, Any], setup: Setup, refused: str) -> None:
    one = study(FineTune(**settings))
    [node] = [node for node in graph(one).nodes if node.kind == "attack"]
    assert estimate(node, one, LLAMA, setup).refused == refused
