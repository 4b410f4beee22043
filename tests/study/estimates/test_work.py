"""Seconds: operations by hand, over a made-up rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rupert.attacks import FineTune
from rupert.defenses import SDD, SEAM
from rupert.models.shape import shape_of
from rupert.study.estimates.hardware import Hardware
from rupert.study.estimates.work import GPU_EFFICIENCY, LAYER_SECONDS, Speed
from rupert.training.objective import Cost

SHAPE = shape_of("meta-llama/Llama-2-7b-hf")
WEIGHTS = SHAPE.parameters - 32_000 * 4096 - (2 * 32 + 1) * 4096  # without embedding and norms
DEVICE = Hardware(name="made up", memory=10**12, single=10**12, half=10**13, bandwidth=10**12)
SPEED = Speed(shape=SHAPE, hardware=DEVICE, dtype="bfloat16")


def operations(length: int) -> float:
    """Of one token forward."""
    return 2 * WEIGHTS + 4 * length * 4096 * 32


def test_a_step_of_fine_tuning_is_three_times_a_forward_pass() -> None:
    settings = FineTune(per_device_train_batch_size=4, max_length=256, num_train_epochs=2)
    expected = 500 * 4 * 256 * 3 * operations(256) / (GPU_EFFICIENCY * 10**13)
    assert SPEED.fine_tuning(settings, 1000) == pytest.approx(expected)


def test_max_steps_goes_before_epochs_and_processes_share_the_rows() -> None:
    settings = FineTune(per_device_train_batch_size=4)
    whole = SPEED.fine_tuning(settings, 1000)
    assert SPEED.fine_tuning(replace(settings, max_steps=25), 1000) == pytest.approx(whole / 10)
    assert SPEED.fine_tuning(settings, 1000, processes=5) == pytest.approx(whole / 5)


def test_frozen_weights_have_no_gradient_and_checkpointing_computes_again() -> None:
    settings = FineTune()
    whole = SPEED.fine_tuning(settings, 100)
    assert SPEED.fine_tuning(replace(settings, lora=True), 100) == pytest.approx(whole * 2 / 3)
    assert SPEED.fine_tuning(replace(settings, gradient_checkpointing=True), 100) == pytest.approx(whole * 4 / 3)


def test_a_backward_pass_goes_down_to_the_first_layer_that_is_trained() -> None:
    settings = FineTune()
    whole = SPEED.fine_tuning(settings, 100)
    last = SPEED.fine_tuning(replace(settings, layers_to_transform=(-1,)), 100)
    assert last == pytest.approx(whole * (1 + 1 / 32 + 1 / 32) / 3)
    first = SPEED.fine_tuning(replace(settings, layers_to_transform=(0,)), 100)
    assert first == pytest.approx(whole * (1 + 1 + 1 / 32) / 3)
    adapter = SPEED.fine_tuning(replace(settings, layers_to_transform=(16, 20), lora=True), 100)
    assert adapter == pytest.approx(whole * (1 + 1 / 2) / 3)


def test_a_hessian_vector_product_is_six_forward_passes() -> None:
    sdd = SDD(max_length=256)
    plain, twice = (SPEED.hardening(sdd, 10, Cost(passes=8, products=products)) for products in (0, 8))
    assert twice / plain == pytest.approx((3 + 6) / 3)


def test_differences_compute_in_float32() -> None:
    exact, free = SEAM(unlearning="plain"), SEAM(unlearning="plain", gradient="hessian_free")
    seconds = [SPEED.hardening(settings, 1, settings.cost) for settings in (exact, free)]
    # 3 passes and 2 products against 5 passes, at a tenth of the rate.
    assert seconds[1] / seconds[0] == pytest.approx(10 * 5 * 3 / (3 * 3 + 2 * 6))


def test_every_hidden_state_of_the_unlearning_loss_has_its_head() -> None:
    def seconds(states: int | None) -> float:
        return SPEED.hardening(SDD(max_length=256), 1, Cost(passes=0, head_rows=1, head_states=states))

    head = 256 * 3 * 2 * SHAPE.head / (GPU_EFFICIENCY * 10**13)
    assert seconds(4) == pytest.approx(4 * head)
    assert seconds(None) == pytest.approx(32 * head)


def test_an_answers_token_takes_as_long_as_its_weights_are_read() -> None:
    one, two = (SPEED.answering(1, rows=8, prompt=10, new=new) for new in (10, 20))
    read = 2 * SHAPE.parameters / (10**12 * 0.5) + 32 * LAYER_SECONDS
    assert (two - one) / 10 == pytest.approx(read, rel=0.02)


def test_answers_at_once_take_hardly_longer_than_one() -> None:
    one, eight = (SPEED.answering(count, rows=8, prompt=10, new=50) for count in (1, 8))
    assert eight < 1.2 * one
