"""The answer's cross entropy against its definition in float64, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rupert.data.batches import IGNORED, Encoded, collate
from rupert.models.anatomy import Anatomy, anatomy
from rupert.models.loading import LoadedModel
from rupert.training.losses import (
    answer_cross_entropy,
    answer_states,
    answer_tokens,
    backward_head_cross_entropy,
    head_cross_entropy,
)

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., torch.Tensor]


@pytest.mark.parametrize("pad_token_id", [0, 17])
def test_equals_the_definition_whatever_the_padding(
    tiny: Tiny, by_hand: ByHand, rows: list[Encoded], pad_token_id: int
) -> None:
    model = tiny().model
    loss = answer_cross_entropy(model, collate(rows, pad_token_id))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(by_hand(model, rows).item(), rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_is_float32_for_lesser_weights(
    tiny: Tiny, by_hand: ByHand, rows: list[Encoded], dtype: str, tolerance: float
) -> None:
    loss = answer_cross_entropy(tiny(dtype=dtype).model, collate(rows, 0))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(tiny().model, rows).item(), rel=tolerance)


def test_counts_answer_tokens_only(rows: list[Encoded]) -> None:
    assert answer_tokens(collate(rows, 0)) == 4 + 2 + 9 + 1 + 6 + 4 + 3 + 8


def test_logits_are_computed_from_the_first_answer_on(tiny: Tiny, rows: list[Encoded]) -> None:
    loaded, shapes = tiny(), []
    loaded.model.lm_head.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    answer_cross_entropy(loaded.model, collate(rows, 0))
    answer_cross_entropy(loaded.model, collate(rows[6:], 0))
    # Columns 2 to 13, because column 2 predicts 3; then 5 to 13.
    assert shapes == [(8, 12, len(loaded.tokenizer)), (2, 9, len(loaded.tokenizer))]


def test_a_first_token_is_predicted_by_nothing(tiny: Tiny, by_hand: ByHand) -> None:
    model = tiny().model
    rows = [Encoded([8, 9, 10], [8, 9, 10]), Encoded([11, 12], [IGNORED, 12])]
    batch = collate(rows, 0)
    assert answer_tokens(batch) == 3
    assert answer_cross_entropy(model, batch).item() == pytest.approx(by_hand(model, rows).item(), rel=1e-12)


def test_a_batch_without_answers_has_no_loss_and_no_gradient(tiny: Tiny) -> None:
    model = tiny().model
    batch = collate([Encoded([8, 9, 10], [IGNORED] * 3)], 0)
    loss = answer_cross_entropy(model, batch)
    loss.backward()
    assert answer_tokens(batch) == loss.item() == 0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_states_are_those_before_the_answers_tokens(tiny: Tiny, rows: list[Encoded]) -> None:
    model = tiny().model
    states = answer_states(model, collate(rows, 0))
    assert [hidden.shape for hidden in states.hidden] == [(8, 14, 16)] * 3
    assert states.targets.tolist() == [token for row in rows for token in row.labels if token != IGNORED]
    assert states.predicts.sum(dim=1).tolist() == [4, 2, 9, 1, 6, 4, 3, 8]
    assert states.predicts[0].nonzero().flatten().tolist() == [2, 3, 4, 5]  # three tokens of prompt, four of answer
    found = []
    for row in rows:
        hidden = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        found.append(
            [layer[0, [place - 1 for place, label in enumerate(row.labels) if label != IGNORED]] for layer in hidden]
        )
    for number in range(3):
        torch.testing.assert_close(states.layer(number), torch.cat([layers[number] for layers in found]))
    torch.testing.assert_close(states.layer(-1), states.layer(2), rtol=0, atol=0)


def test_logits_of_the_last_states_give_the_loss(tiny: Tiny, by_hand: ByHand, rows: list[Encoded]) -> None:
    model = tiny().model
    states = answer_states(model, collate(rows, 0))
    loss = head_cross_entropy(anatomy(model), states.layer(-1), states.targets)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(by_hand(model, rows).item(), rel=1e-12)


def test_a_first_token_has_no_state_that_predicts_it(tiny: Tiny) -> None:
    states = answer_states(tiny().model, collate([Encoded([8, 9, 10], [8, 9, 10])], 0))
    assert states.targets.tolist() == [9, 10]
    assert states.predicts.tolist() == [[True, True, False]]


def parts_of(head: torch.nn.Module, **changes: Any) -> Anatomy:
    return Anatomy(**({"norm": torch.nn.Identity(), "head": head, "scale": 1.0, "cap": None} | changes))


@pytest.mark.parametrize("cap", [None, 1000.0])  # with a cap the head is more than a product
def test_cross_entropy_is_summed_in_float32(cap: float | None) -> None:
    head = torch.nn.Linear(1, 2, bias=False).to(torch.bfloat16)
    head.weight.data = torch.tensor([[100.0], [0.0]], dtype=torch.bfloat16)
    states = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.bfloat16)
    loss = head_cross_entropy(parts_of(head, cap=cap), states, torch.tensor([0, 1, 0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2 * 0.6931472)


@pytest.mark.parametrize(
    ("head", "changes", "plain"),
    [
        (torch.nn.Linear(3, 5, bias=False), {}, True),
        (torch.nn.Linear(3, 5), {}, False),
        (torch.nn.Linear(3, 5, bias=False), {"scale": 0.5}, False),
        (torch.nn.Linear(3, 5, bias=False), {"cap": 2.0}, False),
        (torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False)), {}, False),
    ],
)
def test_a_backward_pass_from_the_head_on_is_autograds(
    head: torch.nn.Module, changes: dict[str, Any], plain: bool
) -> None:
    parts, targets = parts_of(head.double(), **changes), torch.tensor([4, 0])
    assert (parts.matrix is not None) is plain
    states = torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    changed = [states, *head.parameters()]
    loss = 0.3 * torch.nn.functional.cross_entropy(parts.logits(states), targets, reduction="sum")
    expected = torch.autograd.grad(loss, changed)
    assert backward_head_cross_entropy(parts, states * 1.0, targets, 0.3) == pytest.approx(loss.item() / 0.3)
    for tensor, gradient in zip(changed, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)
