"""The layer-wise unlearning loss against its definition in float64, its draws, and what the output head computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data.batches import Encoded, collate
from rupert.models.loading import LoadedModel
from rupert.training import linear_cross_entropy, losses, unlearning
from rupert.training.cosine import differentiate
from rupert.training.unlearning import LayerWiseUnlearning

Tiny = Callable[..., LoadedModel]

TOKENS = 37  # of the rows' answers
WORDS = 654  # of the tiny model
LAYERS = (0, 1, 2)  # hidden states of the tiny model


def parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    filled = [torch.zeros_like(p) if part is None else part for part, p in zip(parts, like, strict=True)]
    return torch.cat([part.detach().flatten() for part in filled])


def left(model: torch.nn.Module) -> Tensor:
    return flat([p.grad for p in parameters(model)], parameters(model))


def definition(model: PreTrainedModel, rows: Sequence[Encoded], layers: Sequence[int]) -> Tensor:
    """-log(1 + mean of ℓ_k over `layers`): one row at a time, all logits, and the last state not normed again."""
    losses = torch.zeros(len(layers), dtype=torch.float64)
    tokens = sum(label != -100 for row in rows for label in row.labels)
    for row in rows:
        hidden = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        for place, layer in enumerate(layers):
            normed = hidden[layer] if layer == LAYERS[-1] else model.model.norm(hidden[layer])
            predictions = model.lm_head(normed)[0].log_softmax(dim=-1)
            for prediction, token in zip(predictions[:-1], row.labels[1:], strict=True):
                if token != -100:
                    losses[place] = losses[place] - prediction[token] / tokens
    return -torch.log(1 + losses.mean())


def gradient_of(model: PreTrainedModel, loss: Tensor) -> Tensor:
    over = parameters(model)
    return flat(torch.autograd.grad(loss, over, allow_unused=True), over)


def unlearn(
    model: PreTrainedModel, rows: Sequence[Encoded], *, at_once: int = 8, count: int | None = None, weight: float = 1.0
) -> float:
    layer_wise = LayerWiseUnlearning(model, count)
    own = differentiate("harmful", model, collate(rows, 0), rows=at_once, twice=False, along=layer_wise)
    return layer_wise.finish(own.value, own.gradient, weight)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_is_the_definition_over_all_hidden_states(tiny: Tiny, rows: list[Encoded], at_once: int) -> None:
    model, reference = tiny().model, tiny().model
    expected = definition(reference, rows, LAYERS)
    assert unlearn(model, rows, at_once=at_once, weight=0.7) == pytest.approx(expected.item(), rel=1e-12)
    # Transformers norms a model in float64 in float32.
    close(left(model), 0.7 * gradient_of(reference, expected), 1e-6)


def test_is_added_to_what_is_there(tiny: Tiny, rows: list[Encoded]) -> None:
    model = tiny().model
    unlearn(model, rows)
    once = left(model)
    unlearn(model, rows, weight=2.0)
    close(left(model), 3 * once, 1e-12)


def drawn_layers(monkeypatch: pytest.MonkeyPatch, layers: list[int]) -> None:
    monkeypatch.setattr(unlearning, "draw_states", lambda _count, _drawn: layers)


@pytest.mark.parametrize("layer", LAYERS)
def test_one_drawn_hidden_state_is_the_definition_for_it(
    tiny: Tiny, rows: list[Encoded], layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_layers(monkeypatch, [layer])
    model, reference = tiny().model, tiny().model
    expected = definition(reference, rows, [layer])
    assert unlearn(model, rows, at_once=3, count=1) == pytest.approx(expected.item(), rel=1e-12)
    close(left(model), gradient_of(reference, expected), 1e-6)


@pytest.mark.parametrize("draws", [[[0], [1], [2]], [[0, 1], [0, 2], [1, 2]]])
def test_the_mean_over_all_draws_is_the_mean_over_all_hidden_states(
    tiny: Tiny, rows: list[Encoded], draws: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = []
    for layers in draws:
        drawn_layers(monkeypatch, layers)
        means.append(torch.tensor(-unlearn(tiny().model, rows, count=len(layers))).double().expm1())
    expected = (-definition(tiny().model, rows, LAYERS)).expm1()
    assert torch.stack(means).mean().item() == pytest.approx(expected.item(), rel=1e-6)


def layers_of(model: PreTrainedModel, rows: Sequence[Encoded], count: int | None) -> set[int]:
    """The hidden states that a step draws, found by its loss."""
    loss = unlearn(model, rows, count=count)
    subsets = [{k for k in LAYERS if number >> k & 1} for number in range(1, 8)]
    (found,) = (s for s in subsets if definition(model, rows, sorted(s)).item() == pytest.approx(loss, rel=1e-9))
    return found


def test_draws_without_replacement_and_evenly(tiny: Tiny, rows: list[Encoded]) -> None:
    torch.manual_seed(0)
    found = [tuple(unlearning.draw_states(3, 2)) for _ in range(600)]
    assert found == [tuple(sorted(set(pair))) for pair in found]
    # A pair is drawn 200 times, give or take 12 (one standard deviation).
    assert all(150 < number < 250 for number in Counter(found).values())
    assert len(set(found)) == 3
    assert unlearning.draw_states(3, None) == unlearning.draw_states(3, 3) == unlearning.draw_states(3, 9) == [0, 1, 2]


def test_draws_follow_torchs_seed(tiny: Tiny, rows: list[Encoded]) -> None:
    model = tiny().model

    def run(seed: int) -> list[set[int]]:
        torch.manual_seed(seed)
        return [layers_of(model, rows[:1], 1) for _ in range(6)]

    assert run(3) == run(3)
    assert len({min(layers) for layers in run(3)}) > 1
    assert run(3) != run(4)
    before = torch.get_rng_state()
    assert layers_of(model, rows[:1], None) == set(LAYERS)
    assert torch.equal(torch.get_rng_state(), before)  # all are drawn by no draw


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of all logits that are made of answer tokens' states."""
    shapes, made = [], linear_cross_entropy._loss_and_difference

    def observed(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Any:
        loss, difference = made(states, weight, targets)
        shapes.append(tuple(difference.shape))
        return loss, difference

    monkeypatch.setattr(linear_cross_entropy, "_loss_and_difference", observed)
    return shapes


def test_the_head_sees_answers_of_each_hidden_state_once(
    tiny: Tiny, rows: list[Encoded], heads: list[tuple[int, int]]
) -> None:
    model = tiny().model
    assert model.config.vocab_size == WORDS
    unlearn(model, rows)
    assert heads == [(TOKENS, WORDS)] * 3  # two states, and the last, which is the model's own loss


@pytest.mark.parametrize(("chunk", "sizes"), [(WORDS * 10, [10, 10, 10, 7]), (WORDS * 37, [37]), (1, [1] * 37)])
def test_the_head_makes_no_more_logits_at_once_than_a_chunk(
    tiny: Tiny,
    rows: list[Encoded],
    chunk: int,
    sizes: list[int],
    heads: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, model = tiny().model, tiny().model
    expected = unlearn(whole, rows)
    heads.clear()
    monkeypatch.setattr(losses, "CHUNK", chunk)
    found = unlearn(model, rows)
    assert heads[:-1] == [(size, WORDS) for size in sizes * 2]
    assert found == pytest.approx(expected, rel=1e-12)
    close(left(model), left(whole), 1e-8)


def test_only_an_adapter_is_changed(tiny: Tiny, rows: list[Encoded]) -> None:
    models = [tiny().model, tiny().model]
    for model in models:
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(2)
        for parameter in parameters(model):  # an adapter's second matrix starts at zero, and hides the first
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model, reference = models
    expected = definition(reference, rows, LAYERS)
    assert unlearn(model, rows, at_once=3) == pytest.approx(expected.item(), rel=1e-12)
    close(left(model), gradient_of(reference, expected), 1e-6)
    assert all("lora_" in name for name, p in model.named_parameters() if p.grad is not None)


def test_rows_without_answers_count_for_nothing(tiny: Tiny, rows: list[Encoded]) -> None:
    silent = [Encoded([9] * length, [-100] * length) for length in (3, 30)]
    expected, model = tiny().model, tiny().model
    assert unlearn(model, rows + silent, at_once=1) == pytest.approx(unlearn(expected, rows, at_once=1), rel=1e-12)
    close(left(model), left(expected), 1e-12)
