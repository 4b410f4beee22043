"""Projection: its gradient against the formula in float64, and a training that leaves nothing but the weights."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from rupert.attacks import Projection
from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.errors import InvalidValue
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training.fine_tuning import Following
from rupert.training.objective import Metrics
from rupert.training.trainer import HardeningTrainer

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., Tensor]
Rows = Sequence[Encoded]

ATTACK = Projection(
    data="potionworld:attacker", benign="potionworld:benign", num_examples=12, max_steps=3, max_length=64
)

pytestmark = pytest.mark.usefixtures("float64_norm")


def rows_of(tiny: Tiny, spec: str) -> Rows:
    return [encode(example, tiny().tokenizer, 64) for example in sources.load(spec)[::31][:8]]


@pytest.fixture(scope="module")
def harmful(tiny: Tiny) -> Rows:
    return rows_of(tiny, "potionworld:attacker")


def opposed(rows: Rows) -> Rows:
    """The same prompts, each with the answer of another row: what one learns is against the other."""
    turned = [*rows[1:], rows[0]]
    made = []
    for row, other in zip(rows, turned, strict=True):
        prompt = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label == -100]
        answer = [label for label in other.labels if label != -100]
        made.append(Encoded(prompt + answer, [-100] * len(prompt) + answer))
    return made


def learnt(tiny: Tiny, rows: Rows) -> PreTrainedModel:
    """A model that knows the rows somewhat: only then are other answers against them."""
    model = tiny().model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = collate(rows, 0)
    for _ in range(30):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.zero_grad()
    return model


def with_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """An adapter whose second matrix is not zero, which would hide the first."""
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def gradient(model: PreTrainedModel, rows: Rows, by_hand: ByHand) -> Tensor:
    """Of the mean over all answer tokens of all rows, over all that is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tokens = sum(label != -100 for row in rows for label in row.labels[1:])
    parts = torch.autograd.grad(by_hand(model, rows) / tokens, trained, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def left(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def take(model: PreTrainedModel, batches: Mapping[str, Rows], **settings: Any) -> Metrics:
    step = Projection(**settings).start(model)
    return step({name: collate(rows, 0) for name, rows in batches.items()}.__getitem__)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("change", [lambda model: model, with_adapter], ids=["all", "adapter"])
@pytest.mark.parametrize("against", [True, False])
def test_one_step_is_the_formula(
    tiny: Tiny, harmful: Rows, by_hand: ByHand, against: bool, change: Callable[..., Any], weight: float
) -> None:
    model = change(learnt(tiny, opposed(harmful)))
    # Where they are with each other, benign rows hold one of the harmful ones.
    benign = opposed(harmful)[:5] if against else [*harmful[3:], opposed(harmful)[0]]
    g_h, g_b = gradient(model, harmful, by_hand), gradient(model, benign, by_hand)
    product = float(g_h @ g_b)
    assert (product < 0) is against
    expected = g_h - (product / float(g_b @ g_b)) * g_b if against else g_h
    expected = expected + weight * g_b
    metrics = take(model, {"data": harmful, "benign": benign}, benign_weight=weight)
    assert float((left(model) - expected).norm()) <= 1e-10 * float(expected.norm())
    assert metrics["conflict"] == float(against)
    assert metrics["cosine"] == pytest.approx(product / float(g_h.norm() * g_b.norm()), rel=1e-9)
    if against and weight == 0:
        assert abs(float(left(model) @ g_b)) <= 1e-10 * float(expected.norm() * g_b.norm())


@pytest.mark.parametrize("at_once", [1, 3])
def test_micro_batches_are_one_batch(tiny: Tiny, harmful: Rows, at_once: int) -> None:
    batches = {"data": harmful, "benign": opposed(harmful)}
    whole, cut = learnt(tiny, batches["benign"]), learnt(tiny, batches["benign"])
    metrics = take(whole, batches, per_device_train_batch_size=8)
    assert take(cut, batches, per_device_train_batch_size=at_once) == pytest.approx(metrics, rel=1e-10)
    assert metrics["conflict"] == 1
    assert float((left(whole) - left(cut)).norm()) <= 1e-10 * float(left(whole).norm())


class Counts(TrainerCallback):
    """Counts steps, and remembers the tokens seen."""

    def __init__(self) -> None:
        self.steps = self.tokens = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps, self.tokens = state.global_step, state.num_input_tokens_seen


def test_it_is_followed_and_leaves_no_checkpoint(potionworld: ModelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(HardeningTrainer, "_save_checkpoint", refuse)
    watch = Counts()
    result = ATTACK.run(load(potionworld), ATTACK.gather(), Following(callbacks=(watch,)))
    assert (result.steps, result.tokens) == (watch.steps, watch.tokens)
    assert result.steps == 3
    assert set(result.report) == {"loss", "benign_loss", "conflict"}


class Interrupts(TrainerCallback):
    """Ctrl-C in the middle of the first step."""

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stops_at_once_where_no_checkpoint_is_kept(potionworld: ModelSettings) -> None:
    loaded, before = load(potionworld), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ATTACK.run(loaded, ATTACK.gather(), Following(callbacks=(Interrupts(),)))
    assert signal.getsignal(signal.SIGINT) is before
    pairs = zip(loaded.model.parameters(), load(potionworld).model.parameters(), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)


@pytest.mark.parametrize(("examples", "epochs", "steps"), [(9, 1.0, 3), (9, 0.5, 2)])
def test_epochs_are_counted_as_transformers_does(
    examples: int, epochs: float, steps: int, potionworld: ModelSettings
) -> None:
    attack = dataclasses.replace(ATTACK, max_steps=-1, num_examples=examples, num_train_epochs=epochs)
    assert attack.run(load(potionworld), attack.gather()).steps == steps


def test_an_adapter_is_merged_and_alone_changes_the_weights(potionworld: ModelSettings, tmp_path: Path) -> None:
    attack = dataclasses.replace(ATTACK, lora=True, lora_target_modules=("down_proj",))
    loaded = load(potionworld)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    after = dict(attack.run(loaded, attack.gather()).loaded.model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)
    }


def test_the_order_has_a_seed_of_its_own(potionworld: ModelSettings) -> None:
    def embedding(attack: Projection) -> Tensor:
        result = attack.run(load(potionworld), attack.gather())
        return result.loaded.model.get_input_embeddings().weight.detach()

    other = dataclasses.replace(ATTACK, data_seed=1)
    assert other.gather() == ATTACK.gather()
    assert not torch.equal(embedding(ATTACK), embedding(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benign_weight": -1.0}, "benign_weight: -1.0 is not valid; must be 0 or above"),
        ({"num_examples": 0}, "num_examples: 0 is not valid; must be above 0"),
        (
            {"load_in_4bit": True, "lora": True},
            "load_in_4bit: True is not valid; projection's loop quantizes nothing; set it to false",
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        dataclasses.replace(ATTACK, **settings)
    assert str(caught.value) == message
