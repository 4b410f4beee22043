"""Booster: its gradient against the formula in float64, and what it does with precision, adapters and recipes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.defenses import Booster
from rupert.errors import InvalidValue, NonFiniteError
from rupert.models.loading import LoadedModel
from rupert.settings import as_mapping
from rupert.training.objective import Metrics

from .steps_compared import assert_close, left, with_adapter

Tiny = Callable[..., LoadedModel]
Rows = Mapping[str, Sequence[Encoded]]

SPECS = {"harmful": "potionworld:defender", "alignment": "potionworld:refusals", "benign": "potionworld:benign"}
WEIGHTS: Mapping[str, Any] = {"attenuation_weight": 1.7, "alpha": 0.3}

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """Harmful rows and refusals, of many lengths."""
    tokenizer = tiny().tokenizer
    encoded = {
        name: [encode(example, tokenizer, 64) for example in sources.load(spec)[::31][:8]]
        for name, spec in SPECS.items()
    }
    return encoded | {"benign": encoded["benign"][:4], "alignment": encoded["alignment"][:4]}


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    """One step on given rows, all in one micro-batch unless said."""
    mixed = {"benign": "potionworld:benign", "benign_share": 0.5, "gradient_accumulation_steps": 8}
    batches = {name: collate(encoded, 0) for name, encoded in rows.items()}
    return Booster(**{**mixed, **settings}).start(model)(batches.__getitem__)


def mean_loss(model: PreTrainedModel, weights: Mapping[str, Tensor], rows: Sequence[Encoded]) -> Tensor:
    """The mean of -log p over the answer tokens of all rows, one row at a time, as a function of the weights."""
    losses: list[Tensor] = []
    for row in rows:
        logits = functional_call(model, dict(weights), (torch.tensor([row.input_ids]),), tie_weights=True).logits[0]
        predictions = logits.log_softmax(dim=-1)
        losses += [-predictions[place, token] for place, token in enumerate(row.labels[1:]) if token != -100]
    return torch.stack(losses).mean()


def formula(model: PreTrainedModel, rows: Rows, weight: float, alpha: float) -> tuple[dict[str, Tensor], Metrics]:
    """Autograd of f(θ) + λ (h(θ) - h(θ - s)) with the step s = α g/|g| held constant; and the parts of it."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    leaves = list(theta.values())
    h = mean_loss(model, theta | frozen, rows["harmful"])
    g = torch.autograd.grad(h, leaves, retain_graph=True)
    norm = torch.cat([part.flatten() for part in g]).norm()
    moved = {name: p - alpha * part / norm for (name, p), part in zip(theta.items(), g, strict=True)}
    stepped = mean_loss(model, moved | frozen, rows["harmful"])
    f = mean_loss(model, theta | frozen, [*rows["alignment"], *rows["benign"]])
    loss = f + weight * (h - stepped)
    values = {"loss": loss, "alignment_loss": f, "harmful_loss": h, "stepped_harmful_loss": stepped}
    found = dict(zip(theta, torch.autograd.grad(loss, leaves), strict=True))
    return found, {name: value.item() for name, value in values.items()} | {"harmful_norm": norm.item()}


def test_defaults_are_those_of_the_published_scripts() -> None:
    published = {
        "attenuation_weight": 5.0,
        "alpha": 0.1,
        "num_examples": 5000,
        "max_steps": 20 * 5000 // 10,
        "per_device_train_batch_size": 10,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.1,
        "max_length": 256,
        "lora": True,
        "lora_r": 32,
        "lora_alpha": 4,
        "lora_target_modules": ["q_proj", "k_proj", "v_proj"],
    }
    ours = {"benign": "", "benign_share": 0.0}
    defaults = as_mapping(Booster())
    assert {name: defaults[name] for name in published | ours} == published | ours


@pytest.mark.parametrize("change", [lambda model: model, with_adapter], ids=["all", "adapter"])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_one_step_is_the_formula(
    tiny: Tiny, rows: Rows, change: Callable[[PreTrainedModel], PreTrainedModel], at_once: int
) -> None:
    model, reference = change(tiny().model), change(tiny().model)
    expected, values = formula(reference, rows, *WEIGHTS.values())
    before = copy.deepcopy(model.state_dict())
    metrics = take(model, rows, **WEIGHTS, per_device_train_batch_size=at_once)
    assert_close(left(model), expected)
    assert metrics == pytest.approx(values, rel=1e-10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_benign_rows_the_refusals_are_the_alignment(tiny: Tiny, rows: Rows) -> None:
    used = {name: rows[name] for name in ("harmful", "alignment")}
    model = tiny().model
    take(model, used, **WEIGHTS, benign="", benign_share=0.0)
    assert_close(left(model), formula(tiny().model, used | {"benign": []}, *WEIGHTS.values())[0])


def test_without_weight_it_is_plain_alignment(tiny: Tiny, rows: Rows) -> None:
    model, reference = tiny().model, tiny().model
    metrics = take(model, rows, attenuation_weight=0.0)
    loss = mean_loss(reference, dict(reference.named_parameters()), [*rows["alignment"], *rows["benign"]])
    loss.backward()
    assert_close(left(model), left(reference))
    assert metrics["loss"] == metrics["alignment_loss"] == pytest.approx(loss.item(), rel=1e-12)


def test_three_passes_a_step(tiny: Tiny, rows: Rows) -> None:
    model, seen = tiny().model, Counter[int]()
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _inputs, named: seen.update([named["input_ids"].numel()]), with_kwargs=True
    )
    used = {"harmful": rows["harmful"][:1], "alignment": rows["alignment"][:1], "benign": rows["benign"][:1]}
    take(model, used, per_device_train_batch_size=1)
    assert seen == Counter([len(used[name][0].input_ids) for name in ("harmful", "harmful", "alignment", "benign")])


@pytest.mark.parametrize("lora", [False, True])
def test_half_precision_weights_take_the_step_in_float32(tiny: Tiny, rows: Rows, lora: bool) -> None:
    """In bfloat16 a step that is short beside the weights would be none."""
    model = tiny(dtype="bfloat16").model
    if lora:
        with_adapter(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    single = copy.deepcopy(model).double()
    before = {name: (p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
    expected = formula(single, rows, 5.0, 0.01)[0]
    take(model, rows, alpha=0.01, attenuation_weight=5.0)
    assert all(p.dtype == before[n][0] and torch.equal(p, before[n][1]) for n, p in model.named_parameters())
    found = left(model)
    assert {name: part.dtype for name, part in found.items()} == {n: before[n][0] for n in found}
    rounded, exact = (torch.cat([grads[name].flatten().double() for name in expected]) for grads in (found, expected))
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.99
    assert rounded.norm() / exact.norm() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("value", "norm"), [(0.0, "0.0"), (torch.nan, "nan")])
def test_a_harmful_gradient_without_direction_stops_the_step(tiny: Tiny, rows: Rows, value: float, norm: str) -> None:
    model = tiny().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        take(model, rows)
    assert str(caught.value) == (
        f"harmful gradient norm: {norm}, so it has no direction; stopped before the weights changed"
    )
    assert not left(model)


def test_only_so_many_harmful_rows_and_refusals_are_used() -> None:
    defense = Booster(
        harmful="potionworld:defender",
        alignment="potionworld:refusals",
        benign="potionworld:benign",
        benign_share=0.2,
        num_examples=20,
    )
    streams = defense.gather().streams
    assert {name: len(examples) for name, examples in streams.items() if name != "benign"} == {
        "harmful": 20,
        "alignment": 20,
    }
    assert len(streams["benign"]) > 20
    assert defense.streams == {"harmful": 10, "alignment": 8, "benign": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha: 0.0 is not valid; must be above 0"),
        ({"attenuation_weight": -1.0}, "attenuation_weight: -1.0 is not valid; must be 0 or above"),
        ({"num_examples": 0}, "num_examples: 0 is not valid; must be above 0"),
        ({"benign_share": 0.5}, "benign_share: 0.5 is not valid; name the dataset with `benign`"),
        ({"benign_share": 0.01, "benign": "alpaca"}, "benign_share: 0.01 is not valid; leave rows of both kinds in 10"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Booster(**settings)
    assert str(caught.value) == message
