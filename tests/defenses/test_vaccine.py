"""Vaccine: its gradient against the formula in float64, and what it does with recipes, adapters and checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.defenses import Vaccine
from rupert.errors import DataError, InvalidValue, NonFiniteError
from rupert.models.loading import LoadedModel
from rupert.training.objective import Metrics

from .llama_by_hand import mean_loss, zeros

Tiny = Callable[..., LoadedModel]
Rows = Sequence[Encoded]

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """Eight rows of many lengths, half of them benign."""
    tokenizer = tiny().tokenizer
    specs = ("potionworld:refusals", "potionworld:benign")
    return [encode(example, tokenizer, 64) for spec in specs for example in sources.load(spec)[::31][:4]]


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


def left(model: torch.nn.Module) -> Tensor:
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in trained(model)])


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    batch = collate(rows, 0)
    return Vaccine(**{"per_device_train_batch_size": 8} | settings).start(model)(lambda _: batch)


def formula(model: PreTrainedModel, rows: Rows, rho: float) -> tuple[Tensor, dict[str, float]]:
    """The gradient of the loss with rho d / |d| added to the attention blocks' outputs, one norm over all of d."""
    leaves = zeros(model, rows)
    before = mean_loss(model, rows, leaves)
    flattened = torch.autograd.grad(before, [leaf for layers in leaves for leaf in layers])
    norm = torch.cat([part.flatten() for part in flattened]).norm()
    parts = iter(flattened)
    loss = mean_loss(model, rows, [[rho * next(parts) / norm for _ in layers] for layers in leaves])
    gradient = torch.autograd.grad(loss, trained(model), materialize_grads=True)
    return flat(gradient), {
        "loss": loss.item(),
        "unperturbed_loss": before.item(),
        "output_gradient_norm": norm.item(),
    }


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("rho", [0.1, 2.0])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_one_step_is_the_formula(tiny: Tiny, rows: Rows, rho: float, at_once: int) -> None:
    model = tiny().model
    metrics = take(model, rows, rho=rho, per_device_train_batch_size=at_once)
    gradient, expected = formula(tiny().model, rows, rho)
    close(left(model), gradient)
    assert metrics == pytest.approx(expected, rel=1e-10)


def test_without_perturbation_it_is_plain_fine_tuning(tiny: Tiny, rows: Rows, by_hand: Callable[..., Tensor]) -> None:
    model, reference = tiny().model, tiny().model
    metrics = take(model, rows, rho=0.0)
    loss = by_hand(reference, rows) / sum(label != -100 for row in rows for label in row.labels)
    loss.backward()
    close(left(model), left(reference))
    assert metrics["loss"] == metrics["unperturbed_loss"] == pytest.approx(loss.item(), rel=1e-12)


def test_the_loss_rises_by_rho_times_the_gradients_norm(tiny: Tiny, rows: Rows) -> None:
    metrics = take(tiny().model, rows, rho=1e-5)
    rise = metrics["loss"] - metrics["unperturbed_loss"]
    assert rise == pytest.approx(1e-5 * metrics["output_gradient_norm"], rel=1e-3)


def with_adapter(model: PreTrainedModel, target: str) -> PreTrainedModel:
    get_peft_model(model, LoraConfig(r=2, target_modules=target, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    for parameter in trained(model):  # an adapter's second matrix starts at zero, and hides the first
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("target", ["all-linear", ".*down_proj"])
def test_an_adapter_alone_gets_gradients(tiny: Tiny, rows: Rows, target: str) -> None:
    """Also where nothing that is trained comes before the first attention's output."""
    model = with_adapter(tiny().model, target)
    metrics = take(model, rows, per_device_train_batch_size=3)
    gradient, expected = formula(with_adapter(tiny().model, target), rows, 2.0)
    close(left(model), gradient)
    assert metrics == pytest.approx(expected, rel=1e-10)
    assert all((parameter.grad is not None) == ("lora_" in name) for name, parameter in model.named_parameters())


def test_recomputed_activations_give_the_same_gradient(tiny: Tiny, rows: Rows) -> None:
    counts, found = [], []
    for recompute in (False, True):
        model, seen = tiny().model.train(), list[int]()
        if recompute:
            model.activation_checkpointing_enable()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        take(model, rows, per_device_train_batch_size=3)
        counts.append(len(seen))
        found.append(left(model))
    assert counts == [6, 12]
    close(found[1], found[0], 1e-8)


def test_bfloat16_weights(tiny: Tiny, rows: Rows) -> None:
    model = tiny(dtype="bfloat16").model
    take(model, rows, rho=0.5, per_device_train_batch_size=3)
    reference = tiny().model
    reference.load_state_dict(model.state_dict())
    expected, _ = formula(reference, rows, 0.5)
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.cosine_similarity(left(model), expected, dim=0) > 0.98
    assert left(model).norm() / expected.norm() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("value", "norm"), [(0.0, "0.0"), (torch.nan, "nan")])
def test_a_gradient_without_direction_stops_the_step(tiny: Tiny, rows: Rows, value: float, norm: str) -> None:
    model = tiny().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        take(model, rows)
    assert str(caught.value) == (
        f"norm of the gradient at the outputs: {norm}, so it has no direction; stopped before the weights changed"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -1.0}, "rho: -1.0 is not valid; must be 0 or above"),
        ({"benign_share": 0.5}, "benign_share: 0.5 is not valid; name the dataset with `benign`"),
        ({"benign": "alpaca", "benign_share": 0.01}, "benign_share: 0.01 is not valid; leave rows of both kinds in 5"),
    ],
)
def test_refuses_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Vaccine(**settings)
    assert str(caught.value) == message


def test_no_more_rows_are_used_than_asked_for() -> None:
    few = Vaccine(alignment="potionworld:refusals", num_examples=7).gather()
    assert len(few.streams["alignment"]) == 7
    with pytest.raises(DataError, match="4 examples, 5 needed"):
        Vaccine(alignment="potionworld:refusals", num_examples=4).gather()
