"""The gradient of a cosine of gradients: against autograd, against differences of the cosine, however it is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED, Encoded, collate
from rupert.errors import NonFiniteError
from rupert.models.loading import LoadedModel
from rupert.training.cosine import BatchLoss, add_differences, add_exact, cosine, differentiate
from rupert.training.losses import AnswerStates, answer_tokens

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., Tensor]
Pair = tuple[list[Encoded], list[Encoded]]

CUTS = {"8x1": 1, "1x8": 8, "3+3+2": 3}
WAYS = ["exact", "one-sided", "central"]

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture
def pair(rows: list[Encoded]) -> Pair:
    """Two batches that share two rows, so that their gradients point the same way in part."""
    return rows, [*(backwards(row) for row in rows[:6]), *rows[6:]]


def backwards(row: Encoded) -> Encoded:
    tokens = row.input_ids[::-1]
    return Encoded(tokens, [label if label == IGNORED else t for t, label in zip(tokens, row.labels, strict=True)])


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


def left(model: torch.nn.Module) -> Tensor:
    return flat([parameter.grad for parameter in model.parameters()])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


def cosine_by_definition(model: PreTrainedModel, pair: Pair, by_hand: ByHand) -> Tensor:
    """With its graph, if autograd is on."""
    flattened = []
    for rows in pair:
        loss = by_hand(model, rows) / answer_tokens(collate(rows, 0))
        parts = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        flattened.append(torch.cat([part.flatten() for part in parts]))
    return flattened[0] @ flattened[1] / flattened[0].norm() / flattened[1].norm()


def expected_gradient(model: PreTrainedModel, pair: Pair, by_hand: ByHand) -> Tensor:
    # Transformers' eager attention takes the softmax of a model in float64 in float32; PyTorch's does not.
    with sdpa_kernel(SDPBackend.MATH):
        return flat(torch.autograd.grad(cosine_by_definition(model, pair, by_hand), list(model.parameters())))


def both(model: PreTrainedModel, pair: Pair, *, rows: int = 8, twice: bool = True) -> tuple[BatchLoss, BatchLoss]:
    a, b = (
        differentiate(name, model, collate(encoded, 0), rows=rows, twice=twice)
        for name, encoded in zip("ab", pair, strict=True)
    )
    return a, b


def add(
    way: str, model: PreTrainedModel, pair: Pair, *, rows: int = 8, weight: float = 1.0, epsilon: float = 1e-4
) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        a, b = both(model, pair, rows=rows, twice=way == "exact")
        if way == "exact":
            add_exact(a, b, weight)
        else:
            add_differences(a, b, weight, epsilon=epsilon, central=way == "central")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("twice", [False, True])
def test_value_gradient_norm_and_cosine_are_by_definition(
    tiny: Tiny, by_hand: ByHand, pair: Pair, twice: bool, cut: str
) -> None:
    model = tiny().model
    a, b = both(model, pair, rows=CUTS[cut], twice=twice)
    for batch, encoded in ((a, pair[0]), (b, pair[1])):
        reference = tiny().model
        loss = by_hand(reference, encoded) / answer_tokens(collate(encoded, 0))
        loss.backward()
        assert batch.value == pytest.approx(loss.item(), rel=1e-12)
        assert batch.norm == pytest.approx(left(reference).norm().item(), rel=1e-12)
        close(flat(batch.gradient), left(reference), 1e-12)
    expected = cosine_by_definition(tiny().model, pair, by_hand).item()
    assert 0.1 < expected < 0.9
    assert cosine(a, b) == pytest.approx(expected, rel=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("cut", CUTS)
def test_exact_is_the_derivative_of_the_definition(tiny: Tiny, by_hand: ByHand, pair: Pair, cut: str) -> None:
    model = tiny().model
    add("exact", model, pair, rows=CUTS[cut], weight=0.7)
    close(left(model), 0.7 * expected_gradient(tiny().model, pair, by_hand))


def test_exact_is_how_the_cosine_changes_along_random_directions(tiny: Tiny, by_hand: ByHand, pair: Pair) -> None:
    model, generator = tiny().model, torch.Generator().manual_seed(3)
    add("exact", model, pair)
    distance = 1e-4
    for _ in range(3):
        direction = torch.randn(left(model).shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        ends = []
        for sign in (1, -1):
            moved = tiny().model
            start = torch.nn.utils.parameters_to_vector(moved.parameters()).detach()
            torch.nn.utils.vector_to_parameters(start + sign * distance * direction, moved.parameters())
            ends.append(cosine_by_definition(moved, pair, by_hand).item())
        slope = (ends[0] - ends[1]) / (2 * distance)
        assert abs(slope) > 1e-3
        assert (left(model) @ direction).item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(("way", "factor"), [("one-sided", 10), ("central", 100)])
def test_differences_approach_the_exact_gradient(tiny: Tiny, pair: Pair, way: str, factor: int) -> None:
    exact, errors = tiny().model, []
    add("exact", exact, pair)
    for epsilon in (1e-3, 1e-4):
        model = tiny().model
        add(way, model, pair, epsilon=epsilon)
        errors.append((left(model) - left(exact)).norm() / left(exact).norm())
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-5)])
def test_does_not_depend_on_the_cut(tiny: Tiny, pair: Pair, way: str, dtype: str, tolerance: float) -> None:
    # In float32 rounding is divided by epsilon: at one of 1 a difference of gradients keeps its digits.
    epsilon = 1e-4 if dtype == "float64" else 1.0
    found = []
    for rows in CUTS.values():
        model = tiny(dtype=dtype).model
        add(way, model, pair, rows=rows, epsilon=epsilon)
        found.append(left(model))
    for other in found[1:]:
        close(other, found[0], tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_is_added_to_what_is_there(tiny: Tiny, pair: Pair, way: str) -> None:
    model = tiny().model
    add(way, model, pair)
    once = left(model)
    add(way, model, pair, weight=-3.0)
    close(left(model), -2 * once, 1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_cannot_be_turned_away_from_itself(tiny: Tiny, rows: list[Encoded], way: str) -> None:
    model = tiny().model
    add(way, model, (rows, rows))
    assert left(model).norm() < 1e-8


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_what_they_were(tiny: Tiny, pair: Pair, way: str) -> None:
    model = tiny(dtype="float32").model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    add(way, model, pair, epsilon=0.3)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_rows_without_answers_count_for_nothing(tiny: Tiny, pair: Pair, way: str) -> None:
    """Also where they fill a micro-batch, the last one too."""
    silent = [Encoded([9] * length, [IGNORED] * length) for length in (3, 30)]
    expected, model = tiny().model, tiny().model
    add(way, expected, pair, rows=1)
    add(way, model, (pair[0] + silent, pair[1] + silent), rows=1)
    close(left(model), left(expected), 1e-8)


def test_sees_every_pass_with_the_share_of_a_token(tiny: Tiny, rows: list[Encoded]) -> None:
    seen: list[tuple[AnswerStates, float]] = []
    differentiate(
        "a",
        tiny().model,
        collate(rows, 0),
        rows=3,
        twice=False,
        along=lambda states, share: seen.append((states, share)),
    )
    assert [share for _, share in seen] == [1 / 37] * 3
    assert [len(states.predicts) for states, _ in seen] == [3, 3, 2]
    assert sum(len(states.targets) for states, _ in seen) == 37
    assert all(states.layer(2).requires_grad for states, _ in seen)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(("value", "norm"), [(0.0, "0.0"), (math.nan, "nan"), (math.inf, "nan")])
def test_a_gradient_without_direction_is_named(
    tiny: Tiny, rows: list[Encoded], value: float, norm: str, twice: bool
) -> None:
    model = tiny().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        differentiate("benign", model, collate(rows, 0), rows=8, twice=twice)
    assert str(caught.value) == (
        f"benign gradient norm: {norm}, so it has no direction; stopped before the weights changed"
    )
    assert all(parameter.grad is None for parameter in model.parameters())
