"""What is held when: worked out by hand for small shapes, and what settings change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rupert.attacks import FineTune
from rupert.defenses import SDD, SEAM
from rupert.models.shape import ModelShape, shape_of
from rupert.study.estimates.memory import (
    Memory,
    Place,
    Rows,
    TrainingMemory,
    asking,
    optimizer_numbers,
    trained_parameters,
)
from rupert.training.objective import Cost
from rupert.training.settings import TrainingSettings

LLAMA = shape_of("meta-llama/Llama-2-7b-chat-hf")
SMOLLM2 = shape_of("smollm2")
GPU, CPU = Place(is_gpu=True), Place(is_gpu=False)
MATRIX_OF_THE_HEAD = 32_000 * 4096


def fine_tuned(dtype: str = "bfloat16", place: Place = GPU, shape: ModelShape = LLAMA, **settings: Any) -> Memory:
    return TrainingMemory(FineTune(max_length=256, **settings), shape, dtype, place).fine_tuning()


def hardened(settings: Any, dtype: str = "bfloat16", place: Place = GPU, shape: ModelShape = LLAMA) -> Memory:
    return TrainingMemory(settings, shape, dtype, place).hardening(settings.cost, settings.streams)


def test_adamw_holds_weights_gradients_two_states_and_one_number_more_at_its_step() -> None:
    memory = fine_tuned(per_device_train_batch_size=1)
    each = 2 * LLAMA.parameters
    assert memory == Memory(weights=each, gradients=each, optimizer=3 * each)
    assert memory.total == 5 * each


def test_adafactor_holds_no_states_worth_counting() -> None:
    memory = fine_tuned(per_device_train_batch_size=1, optim="adafactor")
    assert memory.optimizer < 0.1 * memory.weights


def test_lion_holds_one_state_and_so_does_muon_but_for_embedding_head_and_norm() -> None:
    tables = 2 * MATRIX_OF_THE_HEAD + 4096
    matrices = 2 * 4096 * 4096 * 2 + 3 * 4096 * 11008 + 2 * 4096
    whole = FineTune(optim="muon")
    assert optimizer_numbers(FineTune(optim="lion"), LLAMA) == LLAMA.parameters
    assert optimizer_numbers(whole, LLAMA) == 32 * matrices + 2 * tables
    assert optimizer_numbers(replace(whole, lora=True), LLAMA) == trained_parameters(FineTune(lora=True), LLAMA)
    assert optimizer_numbers(replace(whole, layers_to_transform=(3, -1)), LLAMA) == 2 * matrices


def test_some_layers_are_all_that_has_gradients_and_states() -> None:
    last = {"layers_to_transform": (-1, 31, -2), "per_device_train_batch_size": 1}  # two of them
    layer = 2 * LLAMA.layer_parameters
    memory = fine_tuned(**last, optim="sgd")
    assert memory.weights == 2 * LLAMA.parameters
    assert trained_parameters(FineTune(**last), LLAMA) == layer
    adapter = FineTune(lora=True)
    assert trained_parameters(replace(adapter, layers_to_transform=(0, 1)), LLAMA) == (
        trained_parameters(adapter, LLAMA) // 16
    )
    long = {"lora": True, "per_device_train_batch_size": 32}
    last_half = fine_tuned(**long, layers_to_transform=tuple(range(16, 32)))
    assert last_half.activations == fine_tuned(**long).activations // 2


def test_dora_has_a_magnitude_for_every_output_and_keeps_what_each_map_gives() -> None:
    outputs = 32 * (4 * 4096 + 2 * 11008 + 4096)
    plain, dora = FineTune(lora=True), FineTune(lora=True, use_dora=True)
    assert trained_parameters(dora, LLAMA) - trained_parameters(plain, LLAMA) == outputs
    extra = fine_tuned(lora=True, use_dora=True).activations - fine_tuned(lora=True).activations
    assert extra == 2 * 2 * 4 * 256 * outputs  # two numbers of two bytes, for 4 rows of 256 tokens


def test_weights_in_4_bits_take_a_quarter_of_half_precision_but_the_model_was_there_before() -> None:
    settings = {"lora": True, "load_in_4bit": True}
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    adapter = 4 * trained_parameters(FineTune(lora=True), LLAMA)
    few = fine_tuned(**settings, per_device_train_batch_size=1)
    assert few == Memory(weights=2 * LLAMA.parameters)
    many = fine_tuned(**settings, per_device_train_batch_size=32)
    assert many.weights == matrices * 4127 // 8000 + 4 * (LLAMA.parameters - matrices) + adapter


def test_an_adapter_has_its_own_parameters_in_float32() -> None:
    settings = FineTune(lora=True, lora_r=8)
    a_layer = 8 * (4 * (4096 + 4096) + 2 * (4096 + 11008) + (11008 + 4096))
    assert trained_parameters(settings, LLAMA) == 32 * a_layer
    memory = fine_tuned(lora=True)
    assert memory.gradients + memory.optimizer < 10 * 32 * a_layer * 4
    assert memory.weights == 2 * LLAMA.parameters + 4 * 32 * a_layer


def test_an_adapter_of_some_modules_is_smaller() -> None:
    two = FineTune(lora=True, lora_r=4, lora_target_modules=("q_proj", "v_proj"))
    assert trained_parameters(two, LLAMA) == 32 * 4 * 2 * (4096 + 4096)


@pytest.mark.parametrize(("name", "values"), [("per_device_train_batch_size", (2, 8, 32)), ("max_length", (64, 512))])
def test_more_tokens_never_take_less(name: str, values: tuple[int, ...]) -> None:
    settings = FineTune(max_length=256)
    totals = [
        TrainingMemory(replace(settings, **{name: value}), SMOLLM2, "float32", CPU).fine_tuning().total
        for value in values
    ]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_checkpointing_takes_less_of_a_long_batch() -> None:
    long = {"per_device_train_batch_size": 32}
    assert fine_tuned(**long, gradient_checkpointing=True).total < 0.8 * fine_tuned(**long).total


def test_sharding_divides_weights_gradients_and_states_but_not_what_is_gathered() -> None:
    one, eight = (
        fine_tuned(place=Place(is_gpu=True, shards=shards), per_device_train_batch_size=1) for shards in (1, 8)
    )
    gathered = 2 * (2 * MATRIX_OF_THE_HEAD + 2 * LLAMA.layer_parameters + 4096)
    assert eight.weights == one.weights // 8 + gathered
    assert eight.optimizer < one.optimizer / 7


def test_split_layers_divide_everything_unevenly() -> None:
    whole = fine_tuned(per_device_train_batch_size=1)
    split = fine_tuned(place=Place(is_gpu=True, split=4), per_device_train_batch_size=1)
    assert whole.total / 4 < split.total < whole.total / 3


def test_sdd_holds_nothing_beside_gradient_and_graph() -> None:
    memory = hardened(SDD(per_device_train_batch_size=24, max_length=512))
    assert memory.copies == memory.second_order == 0
    words = 24 * 512 * 32_000
    assert memory.logits == 3 * 4 * words


def test_the_exact_gradient_of_seam_holds_two_graphs_and_two_gradients() -> None:
    memory = hardened(SEAM(per_device_train_batch_size=16))
    assert memory.copies == 2 * 2 * LLAMA.parameters
    tokens = 16 * 256
    in_a_layer = 24 * 11008 + 48 * 4096 + 24 * 4096 + 8 * 4096 + 12 * 32 * 256
    assert memory.second_order == 2 * 32 * tokens * in_a_layer


def test_with_micro_batches_two_more_gradients_are_held_and_smaller_graphs() -> None:
    whole = hardened(SEAM(per_device_train_batch_size=16))
    cut = hardened(SEAM(per_device_train_batch_size=8, gradient_accumulation_steps=2))
    assert cut.copies == 2 * whole.copies
    assert cut.second_order == whole.second_order // 2


def test_of_few_tokens_the_gradient_on_its_way_is_more_than_the_graph_that_is_gone() -> None:
    memory = hardened(SEAM(per_device_train_batch_size=1))
    assert memory.gradients == 2 * 2 * LLAMA.parameters + 2 * 2 * MATRIX_OF_THE_HEAD


def test_differences_hold_a_copy_of_the_weights_three_gradients_and_float32_weights() -> None:
    memory = hardened(SEAM(gradient="hessian_free"))
    assert memory.second_order == 0
    assert memory.copies == (3 + 1) * 4 * LLAMA.parameters + 4 * LLAMA.parameters
    assert memory.gradients == 4 * LLAMA.parameters


def test_what_a_new_defense_says_that_it_holds_is_counted() -> None:
    settings = SDD(per_device_train_batch_size=8)
    plain = TrainingMemory(settings, LLAMA, "bfloat16", GPU)
    each = 2 * LLAMA.parameters
    booster = plain.hardening(Cost(passes=24, gradients=1, weights=1), {"harmful": 8, "benign": 8})
    tar = plain.hardening(Cost(passes=40, gradients=1, weights=1, states=2), {"harmful": 8})
    assert booster.copies == 2 * each
    assert tar.copies == 4 * each


def test_autocast_keeps_half_precision_copies_of_the_weights() -> None:
    long = {"per_device_train_batch_size": 32, "shape": SMOLLM2, "dtype": "float32"}
    plain, cast = fine_tuned(**long), fine_tuned(**long, bf16=True)
    assert cast.weights - plain.weights == 2 * (SMOLLM2.matrices + SMOLLM2.head)
    assert cast.activations < plain.activations


def test_tiles_of_logits_grow_with_tokens_only_to_their_size() -> None:
    def logits(rows: int) -> int:
        settings = FineTune(per_device_train_batch_size=rows, max_length=512)
        return TrainingMemory(settings, SMOLLM2, "float32", CPU).fine_tuning().logits

    hidden = 8 * 512 * SMOLLM2.width * 4
    assert logits(16) - logits(8) == hidden


def test_keys_and_values_of_half_a_mebibyte_a_token() -> None:
    memory = asking(LLAMA, "bfloat16", GPU, answers=Rows(4, 100, new=28))
    cache = 4 * 128 * 2**19
    assert cache < memory.activations < 1.6 * cache
    assert memory.weights == 2 * LLAMA.parameters


def test_lm_eval_makes_the_log_softmax_of_all_logits() -> None:
    memory = asking(SMOLLM2, "float32", CPU, choices=Rows(8, 100))
    assert memory.logits == 2 * 8 * 100 * 49_152 * 4


def test_what_is_trained_is_asked_of_any_settings() -> None:
    assert trained_parameters(TrainingSettings(), SMOLLM2) == SMOLLM2.parameters
