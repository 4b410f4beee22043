"""T-Vaccine: the formula on drawn layers alone, how they are drawn, what is held for others, and resuming."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.defenses import TVaccine
from rupert.errors import InvalidValue, NonFiniteError
from rupert.models.loading import LoadedModel
from rupert.training.objective import Gathered
from rupert.training.trainer import HardeningTrainer, harden, newest_checkpoint

from .llama_by_hand import answer_count, mean_loss, row_losses, zeros

Tiny = Callable[..., LoadedModel]
Rows = Mapping[str, Sequence[Encoded]]

SPECS = {"alignment": "potionworld:refusals", "harmful": "potionworld:defender"}
DEFENSE = TVaccine(
    **SPECS,
    benign="potionworld:benign",
    benign_share=0.5,
    trained_layers=1,
    draw_steps=2,
    probability_steps=3,
    harmful_batches=1,
    max_steps=8,
    learning_rate=1e-2,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    max_length=64,
)

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """Six rows of each stream, of many lengths."""
    tokenizer = tiny().tokenizer
    return {
        name: [encode(example, tokenizer, 64) for example in sources.load(spec)[::31][:6]]
        for name, spec in SPECS.items()
    }


@pytest.fixture(scope="module")
def gathered() -> Gathered:
    """So few rows that the steps begin a second epoch."""
    whole = DEFENSE.gather()
    return Gathered({name: examples[:12] for name, examples in whole.streams.items()})


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def begun(model: PreTrainedModel, **settings: Any) -> Any:
    """A step on SPECS' rows, all in one micro-batch unless said."""
    fixed = {"harmful_batches": 1, "trained_layers": 1, "per_device_train_batch_size": 6}
    return TVaccine(**SPECS, **{**fixed, **settings}).start(model)


def drawing(rows: Rows) -> Callable[[str], dict[str, Tensor]]:
    return lambda stream: collate(rows[stream], 0)


def train(loaded: LoadedModel, gathered: Gathered, folder: Path, **options: Any) -> HardeningTrainer:
    defense = options.pop("defense", DEFENSE)
    return harden(defense, loaded, gathered, folder, **{"title": "hardening", "save_steps": 100} | options)


@pytest.mark.parametrize("at_once", [1, 4, 6])
def test_one_step_is_the_formula_on_the_drawn_layer(tiny: Tiny, rows: Rows, at_once: int) -> None:
    for seed in range(4):
        model, reference = tiny().model, tiny().model
        torch.manual_seed(seed)
        step = begun(model, per_device_train_batch_size=at_once)
        metrics = step(drawing(rows))
        (drawn,) = step.state_dict()["drawn"]
        leaves = zeros(reference, rows["alignment"])
        before = mean_loss(reference, rows["alignment"], leaves)
        towards = torch.autograd.grad(before, [layers[drawn] for layers in leaves])
        norm = torch.cat([part.flatten() for part in towards]).norm()
        added = [
            [3.0 * part / norm if number == drawn else torch.zeros_like(part) for number in range(2)]
            for part in towards
        ]
        loss = mean_loss(reference, rows["alignment"], added)
        parameters = list(reference.model.layers[drawn].parameters())
        expected = torch.autograd.grad(loss, parameters)
        found = [parameter.grad for parameter in model.model.layers[drawn].parameters()]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert metrics == pytest.approx(
            {"loss": loss.item(), "unperturbed_loss": before.item(), "output_gradient_norm": norm.item()}, rel=1e-10
        )
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert with_gradient == {name for name, _ in model.named_parameters() if f"layers.{drawn}." in name}


@pytest.mark.parametrize("at_once", [1, 4, 6])
def test_probabilities_are_the_mean_norms_of_each_pairs_own_gradient(tiny: Tiny, rows: Rows, at_once: int) -> None:
    reference, means = tiny().model, torch.zeros(2, dtype=torch.float64)
    for row in rows["harmful"]:
        (leaves,) = zeros(reference, [row])
        (loss,) = row_losses(reference, [row], [leaves])
        means += torch.stack([part.norm() for part in torch.autograd.grad(loss / answer_count(row), leaves)])
    step = begun(tiny().model, per_device_train_batch_size=at_once)
    step(drawing(rows))
    assert step.state_dict()["probabilities"] == pytest.approx((means / means.sum()).tolist(), rel=1e-10)


def test_layers_are_drawn_by_their_probabilities(tiny: Tiny, rows: Rows) -> None:
    torch.manual_seed(0)
    step, drawn = begun(tiny().model, draw_steps=1, probability_steps=1000), Counter[int]()
    for _ in range(200):
        step(drawing({name: some[:1] for name, some in rows.items()}))
        drawn.update(step.state_dict()["drawn"])
    expected = step.state_dict()["probabilities"][0]
    assert drawn[0] / 200 == pytest.approx(expected, abs=3 * (expected * (1 - expected) / 200) ** 0.5)


def test_harmful_rows_are_read_when_probabilities_are_found_and_layers_stay_between_draws(
    tiny: Tiny, rows: Rows
) -> None:
    torch.manual_seed(0)
    step = begun(tiny().model, draw_steps=2, probability_steps=3)
    read, drawn = list[int](), list[list[int]]()
    for number in range(30):

        def draw(stream: str, number: int = number) -> dict[str, Tensor]:
            read.extend([number] if stream == "harmful" else [])
            return drawing(rows)(stream)

        step(draw)
        drawn.append(step.state_dict()["drawn"])
    assert read == list(range(0, 30, 3))
    assert drawn[::2] == drawn[1::2]
    assert len({tuple(some) for some in drawn}) == 2


def test_all_layers_can_be_trained(tiny: Tiny, rows: Rows) -> None:
    model = tiny().model
    step = begun(model, trained_layers=2)
    step(drawing(rows))
    assert step.state_dict()["drawn"] == [0, 1]
    assert model.model.embed_tokens.weight.grad is None
    assert all(parameter.grad is not None for parameter in model.model.layers.parameters())


def test_more_layers_than_there_are_is_one_line(tiny: Tiny) -> None:
    with pytest.raises(InvalidValue) as caught:
        TVaccine().start(tiny().model)
    assert str(caught.value) == "trained_layers: 8 is not valid; the model has 2 layers; ask for fewer"


def test_gradients_of_zero_stop_the_step(tiny: Tiny, rows: Rows) -> None:
    model = tiny().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(NonFiniteError) as caught:
        begun(model)(drawing(rows))
    assert str(caught.value) == (
        "harmful gradient norm: 0.0, so no layer can be drawn; stopped before the weights changed"
    )


@pytest.mark.parametrize("lora", [False, True])
def test_the_optimizer_holds_states_of_the_drawn_layers_alone(
    tiny: Tiny, gathered: Gathered, tmp_path: Path, lora: bool
) -> None:
    loaded = tiny()
    defense = dataclasses.replace(DEFENSE, lora=lora, lora_r=2, draw_steps=1)
    trainer = train(loaded, gathered, tmp_path, defense=defense)
    layers = trainer.model.get_base_model().model.layers if lora else loaded.model.model.layers
    (drawn,) = trainer._gradient_step.state_dict()["drawn"]  # type: ignore[union-attr]
    expected = {id(p) for p in layers[drawn].parameters() if p.requires_grad}
    if not lora:  # an adapter's parameters are gone with their modules once it is merged
        assert {id(parameter) for parameter in trainer.optimizer.state} == expected
    held = sum(parameter.numel() for parameter in trainer.optimizer.state)
    whole = sum(parameter.numel() for group in trainer.optimizer.param_groups for parameter in group["params"])
    assert 0 < held <= whole / 2


class PowerCut(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize(("at", "lora"), [(1, False), (4, False), (5, False), (5, True)])
def test_resumed_equals_uninterrupted(tiny: Tiny, gathered: Gathered, tmp_path: Path, at: int, lora: bool) -> None:
    """Also between two draws, and where the probabilities are of weights that no checkpoint has."""
    defense = dataclasses.replace(DEFENSE, lora=lora, lora_r=2)
    uninterrupted, cut, resumed = tiny(dropout=0.3), tiny(dropout=0.3), tiny(seed=0 if lora else 1, dropout=0.3)
    expected = train(uninterrupted, gathered, tmp_path / "whole", defense=defense)

    def cut_power(*_: object) -> None:
        if (newest_checkpoint(tmp_path / "cut") or "").endswith(f"-{at}"):
            raise PowerCut

    handle = cut.model.register_forward_pre_hook(cut_power)
    with pytest.raises(PowerCut):
        train(cut, gathered, tmp_path / "cut", defense=defense, save_steps=1)
    handle.remove()
    trainer = train(resumed, gathered, tmp_path / "cut", defense=defense, resume=True)
    assert torch.equal(weights(resumed.model), weights(uninterrupted.model))
    assert trainer.history == expected.history
    memories = [each._gradient_step.state_dict() for each in (trainer, expected)]  # type: ignore[union-attr]
    assert memories[0] == memories[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -1.0}, "rho: -1.0 is not valid; must be 0 or above"),
        ({"trained_layers": 0}, "trained_layers: 0 is not valid; must be above 0"),
        ({"harmful_batches": 0}, "harmful_batches: 0 is not valid; must be above 0"),
        ({"benign_share": 0.5}, "benign_share: 0.5 is not valid; name the dataset with `benign`"),
        ({"benign": "alpaca", "benign_share": 0.01}, "benign_share: 0.01 is not valid; leave rows of both kinds in 10"),
    ],
)
def test_refuses_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        TVaccine(**settings)
    assert str(caught.value) == message


def test_the_defaults_are_the_papers_numbers() -> None:
    defense = TVaccine()
    assert defense.streams == {"alignment": 10, "harmful": 200}
    assert (defense.probability_steps, defense.draw_steps, defense.trained_layers) == (200, 20, 8)
    assert defense.cost.passes == 2 * 10 + 1
