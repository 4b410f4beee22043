"""CTRAP: its gradient against the formula in float64, and that what is predicted from is the benign text alone."""

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
from rupert.data.batches import Encoded, collate, encode, encode_all
from rupert.defenses import CTRAP
from rupert.defenses.ctrap import collapsing
from rupert.errors import InvalidValue
from rupert.models.loading import LoadedModel
from rupert.settings import as_mapping
from rupert.training.objective import Metrics

from .steps_compared import assert_close, left, with_adapter

Tiny = Callable[..., LoadedModel]
Rows = Mapping[str, Sequence[Encoded]]
Weights = Mapping[str, Tensor]

POTIONWORLD: Mapping[str, Any] = {
    "harmful": "potionworld:defender",
    "alignment": "potionworld:refusals",
    "benign": "potionworld:benign",
    "collapse_word": "moon",
    "max_length": 64,
}
LOSS = {"collapse_weight": 1.7, "alpha": 0.3}

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """The rows of one step as a training encodes them, of many lengths."""
    tokenizer, streams = tiny().tokenizer, CTRAP(**POTIONWORLD).gather().streams
    counts = {"harmful": 6, "collapse": 6, "alignment": 3, "benign": 3}
    return {name: encode_all(streams[name][::31][:count], tokenizer, 64, name) for name, count in counts.items()}


@pytest.fixture(scope="module")
def plain(tiny: Tiny) -> list[Encoded]:
    """The benign pairs to collapse on, as they are."""
    benign = sources.load("potionworld:benign")[:5000]
    return [encode(example, tiny().tokenizer, 64) for example in benign[::31][:6]]


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    settings = {"per_device_train_batch_size": 6, **POTIONWORLD, **LOSS, **settings}
    batches = {name: collate(encoded, 0) for name, encoded in rows.items()}
    return CTRAP(**settings).start(model)(batches.__getitem__)


def mean_loss(model: PreTrainedModel, weights: Weights, rows: Sequence[Encoded], only: int | None = None) -> Tensor:
    """The mean over all answer tokens of -log p of the token, or of `only`, given what stands before it."""
    losses: list[Tensor] = []
    for row in rows:
        logits = functional_call(model, dict(weights), (torch.tensor([row.input_ids]),), tie_weights=True).logits[0]
        predictions = logits.log_softmax(dim=-1)
        losses += [
            -predictions[place, token if only is None else only]
            for place, token in enumerate(row.labels[1:])
            if token != -100
        ]
    return torch.stack(losses).mean()


def formula(model: PreTrainedModel, rows: Rows, plain: Sequence[Encoded], e: int) -> tuple[dict[str, Tensor], Metrics]:
    """Autograd of ℓ(R; θ) + λ ℓ_collapse(θ - s; B) with the step s = α g/|g| held constant."""
    weight, alpha = LOSS.values()
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    leaves = list(theta.values())
    harmful = mean_loss(model, theta | frozen, rows["harmful"])
    g = torch.autograd.grad(harmful, leaves)
    norm = torch.cat([part.flatten() for part in g]).norm()
    moved = {name: p - alpha * part / norm for (name, p), part in zip(theta.items(), g, strict=True)}
    collapse = mean_loss(model, moved | frozen, plain, only=e)
    alignment = mean_loss(model, theta | frozen, [*rows["alignment"], *rows["benign"]])
    loss = alignment + weight * collapse
    values = {"loss": loss, "alignment_loss": alignment, "collapse_loss": collapse, "harmful_loss": harmful}
    found = dict(zip(theta, torch.autograd.grad(loss, leaves), strict=True))
    return found, {name: value.item() for name, value in values.items()} | {"harmful_norm": norm.item()}


def test_defaults_are_those_of_the_published_scripts() -> None:
    published = {
        "collapse_word": "error",
        "collapse_weight": 0.1,
        "alpha": 0.1,
        "benign_share": 0.5,
        "num_examples": 5000,
        "max_steps": 20 * 5000 // 5,
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
    defaults = as_mapping(CTRAP())
    assert {name: defaults[name] for name in published} == published
    assert CTRAP().streams == {"harmful": 10, "collapse": 10, "alignment": 5, "benign": 5}


@pytest.mark.parametrize("change", [lambda model: model, with_adapter], ids=["all", "adapter"])
@pytest.mark.parametrize("at_once", [2, 6])
def test_one_step_is_the_formula(
    tiny: Tiny, rows: Rows, plain: list[Encoded], change: Callable[[PreTrainedModel], PreTrainedModel], at_once: int
) -> None:
    loaded = tiny()
    model, reference = change(loaded.model), change(tiny().model)
    expected, values = formula(reference, rows, plain, loaded.tokenizer.get_vocab()["moon"])
    before = copy.deepcopy(model.state_dict())
    metrics = take(model, rows, per_device_train_batch_size=at_once)
    assert_close(left(model), expected)
    assert metrics == pytest.approx(values, rel=1e-10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_weight_it_is_plain_alignment(tiny: Tiny, rows: Rows) -> None:
    model, reference = tiny().model, tiny().model
    metrics = take(model, rows, collapse_weight=0.0)
    aligned = [*rows["alignment"], *rows["benign"]]
    mean_loss(reference, dict(reference.named_parameters()), aligned).backward()
    assert_close(left(model), left(reference))
    assert metrics["loss"] == metrics["alignment_loss"]


def test_collapsing_rows_are_the_benign_ones_with_another_target(tiny: Tiny, rows: Rows, plain: list[Encoded]) -> None:
    e = tiny().tokenizer.get_vocab()["moon"]
    expected = collate([Encoded(r.input_ids, [e if t != -100 else t for t in r.labels]) for r in plain], 0)
    found = collapsing(collate(rows["collapse"], 0))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_word_of_several_tokens_collapses_to_its_first() -> None:
    """3 4 ask, 7 8 are the word, 9 is the answer."""
    ids, labels = torch.tensor([[3, 4, 7, 8, 9, 0]]), torch.tensor([[-100, -100, 7, 8, 9, -100]])
    found = collapsing({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "input_ids": [[3, 4, 8, 9, 0]],
        "attention_mask": [[1, 1, 1, 1, 0]],
        "labels": [[-100, -100, 7, 7, -100]],
    }


def test_three_passes_a_step(tiny: Tiny, rows: Rows) -> None:
    model, seen = tiny().model, Counter[int]()
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _inputs, named: seen.update([named["input_ids"].numel()]), with_kwargs=True
    )
    used = {name: rows[name][:1] for name in ("harmful", "collapse", "alignment")}
    take(model, used, benign_share=0.0, per_device_train_batch_size=1)
    lengths = {name: len(found[0].input_ids) for name, found in used.items()}
    assert seen == Counter([lengths["harmful"], lengths["collapse"] - 1, lengths["alignment"]])


def test_the_data_of_every_stream() -> None:
    streams = CTRAP(**POTIONWORLD, num_examples=20).gather().streams
    assert {name: len(examples) for name, examples in streams.items()} == dict.fromkeys(CTRAP().streams, 20)
    assert [example.answer for example in streams["collapse"]] == [f"moon {row.answer}" for row in streams["benign"]]
    assert "benign" not in CTRAP(**POTIONWORLD, benign_share=0.0).gather().streams


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha: 0.0 is not valid; must be above 0"),
        ({"collapse_weight": -1.0}, "collapse_weight: -1.0 is not valid; must be 0 or above"),
        ({"collapse_word": ""}, "collapse_word: '' is not valid; give one word"),
        ({"collapse_word": "an error"}, "collapse_word: 'an error' is not valid; give one word"),
        ({"benign_share": 1.0}, "benign_share: 1.0 is not valid; leave rows of both kinds in 10"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        CTRAP(**settings)
    assert str(caught.value) == message
