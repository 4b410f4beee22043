"""TAR: its whole gradient against the definition in float64, its attacks, and what they leave behind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data.batches import Encoded, collate
from rupert.defenses import TAR
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.trainer import harden

from .tar_by_hand import RATE, SETTINGS, SPECS, Rows, Tiny, entropy, places, preference

ByHand = Callable[..., Tensor]


State = Mapping[str, Tensor]


# Adversaries that switch do so after step 1 of 2: Beta(3e6, 1e6) * 2 is 1.5.
SWITCHING = {"switch_share": 1.0, "switch_alpha": 3e6, "switch_beta": 1e6}


pytestmark = pytest.mark.usefixtures("float64_norm")


def parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


def left(model: torch.nn.Module) -> Tensor:
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters(model)])


def with_adapter(model: PreTrainedModel) -> PreTrainedModel:
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters(model):  # its second matrix starts at zero, and hides the first
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def move(model: PreTrainedModel) -> PreTrainedModel:
    """What outer steps do to the weights, so that they are not the original's any more."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters(model):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def drawing(rows: Rows, defense: TAR) -> Draw:
    batches = {name: collate(rows[name][:count], 0) for name, count in defense.streams.items()}
    return batches.__getitem__


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    """One step of TAR on a model that has moved since it started."""
    defense = TAR(**{**SETTINGS, **settings})
    step = defense.start(model)
    move(model)
    return step(drawing(rows, defense))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


def cross_entropy(model: PreTrainedModel, rows: Sequence[Encoded], by_hand: ByHand) -> Tensor:
    return by_hand(model, rows) / sum(len(places(row)) for row in rows)


def adamw(
    model: PreTrainedModel, batches: Sequence[Sequence[Encoded]], by_hand: ByHand, visit: Callable[[int], None]
) -> None:
    """AdamW with PyTorch's defaults: betas 0.9 and 0.999, ε 1e-8, decay 0.01."""
    over = parameters(model)
    first, second = [torch.zeros_like(p) for p in over], [torch.zeros_like(p) for p in over]
    for number, batch in enumerate(batches):
        gradient = torch.autograd.grad(cross_entropy(model, batch, by_hand), over, allow_unused=True)
        for k, (p, g) in enumerate(zip(over, gradient, strict=True)):
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g**2
            mean, square = first[k] / (1 - 0.9 ** (number + 1)), second[k] / (1 - 0.999 ** (number + 1))
            p.data = p.data * (1 - RATE * 0.01) - RATE * mean / (square.sqrt() + 1e-8)
        visit(number)


def retained(model: PreTrainedModel, original: PreTrainedModel, rows: Rows, by_hand: ByHand) -> Tensor:
    squares = []
    for row in rows["benign"]:
        found, wanted = (
            torch.stack(one(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states)[:, 0]
            for one in (model, original)
        )
        squares.append((found - wanted.detach()).square().mean(dim=(0, 2)))  # over layers and width
    return cross_entropy(model, rows["benign"], by_hand) + torch.cat(squares).mean()


def definition(
    model: PreTrainedModel,
    batches: Sequence[Sequence[Encoded]],
    by_hand: ByHand,
    resistance: Callable[[PreTrainedModel], Tensor],
    retain: Callable[[PreTrainedModel], Tensor],
) -> tuple[float, Tensor]:
    """The loss and its gradient, of inner steps that all resist."""
    over, k = parameters(model), len(batches)
    start = [p.detach().clone() for p in over]
    total, gradient = 0.0, torch.zeros(sum(p.numel() for p in over), dtype=torch.float64)

    def add(loss: Tensor, weight: float) -> None:
        nonlocal total, gradient
        parts = torch.autograd.grad(loss, over, materialize_grads=True)
        total, gradient = total + weight * loss.item(), gradient + weight * flat(parts)

    def visit(number: int) -> None:
        add(resistance(model), SETTINGS["tamper_weight"] * math.exp(SETTINGS["schedule_lambda"] * (number - (k - 1))))

    adamw(model, batches, by_hand, visit)
    for p, value in zip(over, start, strict=True):
        p.data = value
    add(retain(model), SETTINGS["retain_weight"])
    return total, gradient


@pytest.mark.parametrize(
    "make", [lambda loaded: loaded.model, lambda loaded: with_adapter(loaded.model)], ids=["full", "adapter"]
)
@pytest.mark.parametrize("form", ["entropy", "preference"])
@pytest.mark.parametrize("retain", ["language_model", "representations"])
@pytest.mark.parametrize("switches", [False, True])
def test_one_step_is_the_definition(
    tiny: Tiny,
    rows: Rows,
    by_hand: ByHand,
    make: Callable[..., PreTrainedModel],
    form: Any,
    retain: Any,
    switches: bool,
) -> None:
    model, reference, original = make(tiny()), move(make(tiny())), make(tiny())
    found = take(model, rows, tamper_resistance=form, retain=retain, **(SWITCHING if switches else {}))
    # Every second row of a stream is of the same inner step.
    batches = [rows["harmful"][:8][0::2], rows["harmful"][:8][1::2]]
    if switches:
        batches[0] = rows["attack_benign"][:8][0::2]
    resist = entropy if form == "entropy" else preference(original)
    keep = (lambda m: retained(m, original, rows, by_hand)) if retain == "representations" else None
    loss, gradient = definition(
        reference,
        batches,
        by_hand,
        lambda m: resist(m, rows),
        keep or (lambda m: cross_entropy(m, rows["benign"], by_hand)),
    )
    close(left(model), gradient)
    assert found["loss"] == pytest.approx(loss, rel=1e-10)
    assert found["attack_benign_steps"] == float(switches)
    assert found["attack_learning_rate"] == RATE
    close(flat(parameters(model)), flat(parameters(reference)), 0.0)


def test_only_every_few_inner_steps_resist_and_late_ones_count_more(tiny: Tiny, rows: Rows) -> None:
    """Of three inner steps, with every second one, the second alone: its weight is exp(-λ_s)."""
    alone = {"retain_weight": 0.0, "retain": "language_model"}
    models = [tiny().model for _ in range(3)]
    take(models[0], rows, **alone, inner_steps=3, resist_every=2, schedule_lambda=0.0)
    take(models[1], rows, **alone, inner_steps=3, resist_every=2, schedule_lambda=0.7)
    take(models[2], rows, **alone, inner_steps=3, resist_every=3)
    close(left(models[1]), math.exp(-0.7) * left(models[0]), 1e-12)
    assert (left(models[2]) - left(models[0])).norm() > 1e-3 * left(models[0]).norm()


def test_metrics_are_what_they_are_called(tiny: Tiny, rows: Rows, by_hand: ByHand) -> None:
    found = take(tiny().model, rows, inner_steps=1, retain="language_model")
    reference = move(tiny().model)
    assert found["attack_loss"] == pytest.approx(cross_entropy(reference, rows["harmful"][:4], by_hand).item())
    assert found["retain"] == pytest.approx(cross_entropy(reference, rows["benign"], by_hand).item())
    adamw(reference, [rows["harmful"][:4]], by_hand, lambda _: None)
    assert found["tamper_resistance"] == pytest.approx(entropy(reference, rows).item())
    assert found["loss"] == pytest.approx(1.7 * found["tamper_resistance"] + 0.6 * found["retain"])


@pytest.mark.parametrize("form", ["entropy", "preference"])
def test_micro_batches_change_nothing(tiny: Tiny, rows: Rows, form: str) -> None:
    whole, cut = tiny().model, tiny().model
    expected = take(whole, rows, tamper_resistance=form)
    metrics = take(cut, rows, tamper_resistance=form, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    close(left(cut), left(whole))
    assert metrics == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["entropy", "preference"])
@pytest.mark.parametrize("retain", ["language_model", "representations"])
def test_as_many_rows_go_through_the_model_as_the_cost_says(tiny: Tiny, rows: Rows, form: Any, retain: Any) -> None:
    model, seen = tiny().model, list[int]()
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _inputs, given: seen.append(
            given["rows"].shape[0] if "rows" in given else len(given["input_ids"])
        ),
        with_kwargs=True,
    )
    settings = {**SETTINGS, "inner_steps": 3, "resist_every": 2, "tamper_resistance": form, "retain": retain}
    defense = TAR(**{**settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    defense.start(model)(drawing(rows, defense))
    assert sum(seen) == defense.cost.passes
    assert max(seen) == 2


def test_the_papers_step_is_at_most_1_4_of_its_inner_steps() -> None:
    assert TAR().cost.passes <= 1.4 * TAR().inner_steps * TAR().batch_size
    assert TAR().cost.passes == (64 + 16 + 2) * 8


@pytest.mark.parametrize("form", ["entropy", "preference"])
def test_what_breaks_within_leaves_nothing_behind(tiny: Tiny, rows: Rows, form: str) -> None:
    """In any pass: of the original, of an attack, or of what resists it."""
    defense = TAR(**{**SETTINGS, "tamper_resistance": form})
    for fail_at in range(defense.cost.passes // defense.batch_size):
        model, counted = tiny().model.train(), iter(range(100))
        step, before = defense.start(model), flat(parameters(model)).clone()

        def fail(*_: Any, number: int = fail_at, counted: Any = counted) -> None:
            if next(counted) == number:
                raise InterruptedError

        handle = model.model.layers[-1].register_forward_pre_hook(fail)
        with pytest.raises(InterruptedError):
            step(drawing(rows, defense))
        handle.remove()
        assert torch.equal(flat(parameters(model)), before)
        assert all(module.training for module in model.modules())


def test_half_precision_weights_are_attacked_in_float32(tiny: Tiny, rows: Rows) -> None:
    """A step of 2e-6 moves no weight of bfloat16; the gradient is that of the same weights in float32."""
    half, single = tiny(dtype="bfloat16").model, tiny(dtype="bfloat16").model.float()
    before, defense = flat(parameters(half)), TAR(**{**SETTINGS, "attack_learning_rates": (1e-3,)})
    for model in (half, single):
        defense.start(model)(drawing(rows, defense))
    assert torch.equal(flat(parameters(half)), before)
    assert {p.grad.dtype for p in parameters(half)} == {torch.bfloat16}
    close(left(half), left(single), 1e-2)


def test_beside_an_adapter_half_precision_weights_stay_as_they_are(tiny: Tiny, rows: Rows) -> None:
    model, defense, seen = with_adapter(tiny(dtype="bfloat16").model), TAR(**SETTINGS), set()
    for parameter in parameters(model):
        parameter.data = parameter.data.float()
    model.model.embed_tokens.register_forward_pre_hook(lambda *_: seen.add(model.model.embed_tokens.weight.dtype))
    defense.start(model)(drawing(rows, defense))
    assert seen == {torch.bfloat16}
    assert left(model).norm() > 0


def test_autocast_sees_the_attacked_weights(tiny: Tiny, rows: Rows) -> None:
    """It keeps half-precision copies of the weights, which do not follow them."""
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(take(tiny(dtype="float32").model, rows, inner_steps=3, resist_every=3))
    exact, rounded = found
    start = take(tiny(dtype="float32").model, rows, inner_steps=1)["attack_loss"]
    for name in ("attack_loss", "tamper_resistance"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.02)
    assert abs(exact["attack_loss"] - start) > 0.1 * start


def test_dropout_does_not_reach_the_original(tiny: Tiny, rows: Rows) -> None:
    model = tiny(dropout=0.5).model.train()
    defense = TAR(**SETTINGS)
    step = defense.start(model)
    losses = {step(drawing(rows, defense))["retain"] for _ in range(2)}
    assert len(losses) == 2  # of the model, which has dropout
    model.eval()
    kept = step(drawing(rows, defense))["retain"]
    plain = dataclasses.replace(defense, retain="language_model").start(model)
    assert kept == pytest.approx(plain(drawing(rows, defense))["retain"], rel=1e-12)  # at no distance from itself


class PressControlC(TAR):
    """One whose second step is interrupted."""

    def start(self, model: PreTrainedModel) -> Step:
        step, numbers = super().start(model), iter(range(self.max_steps))

        def interrupted(draw: Draw) -> Metrics:
            if next(numbers) == 1:
                raise InterruptedError
            return step(draw)

        return interrupted


def test_a_resumed_training_is_an_uninterrupted_one(tiny: Tiny, tmp_path: Path) -> None:
    """Its original is the model as it was given, its draws go on, and no row is drawn twice or left out."""
    settings = {**SETTINGS, "switch_share": 0.5, "attack_learning_rates": (0.001, 0.01), "learning_rate": 1e-2}
    specs = {name: SPECS[name] for name in ("harmful", "benign")}
    defense = TAR(**{**settings, **specs}, max_steps=4, warmup_steps=0.0)
    gathered = Gathered({name: examples[:9] for name, examples in defense.gather().streams.items()})
    options = {"title": "hardening", "save_steps": 1}
    whole, resumed, broken = tiny(), tiny(), PressControlC(**{**settings, **specs}, max_steps=4, warmup_steps=0.0)
    history = harden(defense, whole, gathered, tmp_path / "whole", **options).history
    with pytest.raises(InterruptedError):
        harden(broken, tiny(), gathered, tmp_path / "resumed", **options)
    assert harden(defense, resumed, gathered, tmp_path / "resumed", resume=True, **options).history == history
    assert torch.equal(flat(parameters(resumed.model)), flat(parameters(whole.model)))
