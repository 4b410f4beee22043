"""Gradients of whole batches: the definition in float64, and the same however the batch is cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rupert.data.batches import Encoded, collate
from rupert.models.loading import LoadedModel
from rupert.training.gradients import (
    aside,
    backward_answer_cross_entropy,
    give,
    inner_product,
    mean_loss,
    micro_batches,
    token_share,
    trained,
)
from rupert.training.losses import answer_tokens

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., torch.Tensor]

CUTS = {"8x1": 1, "1x8": 8, "3+3+2": 3}


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_is_that_of_the_mean_over_all_answer_tokens(tiny: Tiny, by_hand: ByHand, rows: list[Encoded]) -> None:
    model, expected = tiny().model, tiny().model
    loss = by_hand(expected, rows) / 37
    loss.backward()
    assert backward_answer_cross_entropy(model, [collate(rows, 0)], micro_batch_size=3) == pytest.approx(loss.item())
    torch.testing.assert_close(gradient(model), gradient(expected), rtol=0, atol=1e-12)


def test_batches_count_by_their_tokens(tiny: Tiny, by_hand: ByHand, rows: list[Encoded]) -> None:
    model, expected, mean_of_means = tiny().model, tiny().model, tiny().model
    parts = [rows[:2], rows[2:]]  # 6 and 31 tokens
    (by_hand(expected, rows) / 37).backward()
    sum(by_hand(mean_of_means, part) / answer_tokens(collate(part, 0)) / 2 for part in parts).backward()
    backward_answer_cross_entropy(model, [collate(part, 0) for part in parts], micro_batch_size=8)
    torch.testing.assert_close(gradient(model), gradient(expected), rtol=0, atol=1e-12)
    assert (gradient(model) - gradient(mean_of_means)).norm() > 0.1 * gradient(expected).norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("cut", CUTS)
def test_does_not_depend_on_the_cut(
    tiny: Tiny, by_hand: ByHand, rows: list[Encoded], dtype: str, tolerance: float, cut: str
) -> None:
    model, expected = tiny(dtype=dtype).model, tiny().model
    loss = by_hand(expected, rows) / 37
    loss.backward()
    found = backward_answer_cross_entropy(model, [collate(rows, 0)], micro_batch_size=CUTS[cut])
    assert found == pytest.approx(loss.item(), rel=tolerance)
    torch.testing.assert_close(gradient(model).double(), gradient(expected), rtol=tolerance, atol=tolerance)


def test_is_added_to_what_is_there(tiny: Tiny, rows: list[Encoded]) -> None:
    model = tiny().model
    backward_answer_cross_entropy(model, [collate(rows[:4], 0)], micro_batch_size=8)
    first = gradient(model)
    backward_answer_cross_entropy(model, [collate(rows[:4], 0)], micro_batch_size=8)
    torch.testing.assert_close(gradient(model), 2 * first, rtol=1e-12, atol=0)


def test_pieces_hold_every_row_once_and_no_column_of_padding(rows: list[Encoded]) -> None:
    pieces = list(micro_batches(collate(rows, 0), 3))
    assert [len(piece["labels"]) for piece in pieces] == [3, 3, 2]
    # Sorted by length: 6, 7, 8 - 9, 9, 12 - 13, 14.
    assert [piece["labels"].shape[1] for piece in pieces] == [8, 12, 14]
    found = [
        (tokens[mask].tolist(), labels[mask].tolist())
        for piece in pieces
        for tokens, mask, labels in zip(
            piece["input_ids"], piece["attention_mask"].bool(), piece["labels"], strict=True
        )
    ]
    assert sorted(found) == sorted((row.input_ids, row.labels) for row in rows)


def test_a_weight_multiplies_the_gradient_and_not_the_loss(tiny: Tiny, rows: list[Encoded]) -> None:
    model, plain = tiny().model, tiny().model
    losses = [
        backward_answer_cross_entropy(plain, [collate(rows, 0)], micro_batch_size=3),
        backward_answer_cross_entropy(model, [collate(rows, 0)], micro_batch_size=3, weight=-4.0),
    ]
    assert losses[0] == losses[1]
    torch.testing.assert_close(gradient(model), -4 * gradient(plain), rtol=1e-12, atol=1e-14)


def test_a_tokens_share_is_that_of_all_batches(rows: list[Encoded]) -> None:
    assert token_share([collate(rows, 0)]) == 1 / 37
    assert token_share([collate(rows[:2], 0), collate(rows[2:3], 0)]) == 1 / 15
    assert mean_loss(0.75) == 0.75


def two() -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    return torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([3.0]))


def test_trained_are_those_that_require_a_gradient() -> None:
    model = torch.nn.Linear(2, 1)
    assert trained(model) == [model.weight, model.bias]
    model.weight.requires_grad_(False)
    assert trained(model) == [model.bias]


@pytest.mark.parametrize("held", [None, 5.0])
def test_gradients_are_put_aside(held: float | None) -> None:
    first, second = two()
    first.grad = None if held is None else torch.full((2,), held)
    own, collected = first.grad, list[torch.Tensor]()
    for _ in range(2):
        with aside([first, second], collected):
            (first * first).sum().backward()
    assert [part.tolist() for part in collected] == [[4.0, 8.0], [0.0]]
    assert first.grad is own
    assert own is None or own.tolist() == [held] * 2
    assert second.grad is None


def test_gradients_are_put_back_when_a_pass_breaks() -> None:
    first, second = two()
    own = second.grad = torch.tensor([7.0])

    def broken_pass() -> None:
        with aside([first, second], []):
            (first.sum() * second).sum().backward()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken_pass()
    assert first.grad is None
    assert second.grad is own
    assert own.tolist() == [7.0]


def test_a_given_gradient_is_weighted_and_added() -> None:
    first, second = two()
    second.grad = torch.tensor([10.0])
    given = torch.tensor([1.0, -1.0])
    give([first, second], [given, torch.tensor([2.0])], 3.0)
    assert first.grad is given  # none is copied
    assert first.grad.tolist() == [3.0, -3.0]
    assert second.grad.tolist() == [16.0]


def test_inner_product_is_over_all_tensors() -> None:
    left = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0])]
    right = [torch.tensor([[1.0, -1.0], [2.0, 0.5]]), torch.tensor([-2.0])]
    assert inner_product(left, right) == 1 - 2 + 6 + 2 - 10
    assert inner_product(left, [part.t() for part in left]) == 1 + 6 + 6 + 16 + 25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_multiplied_in_float32(dtype: torch.dtype) -> None:
    ones = [torch.ones(4097, dtype=dtype)]  # neither type holds 4097
    assert inner_product(ones, ones) == 4097
    large = [torch.full((2,), 300.0, dtype=dtype)]  # its square is above float16's largest number
    assert inner_product(large, large) == 2 * large[0][0].item() ** 2
