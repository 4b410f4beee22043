"""Lion and Muon: their steps by hand, which parameters are whose, and that a training uses them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from rupert.data import sources
from rupert.errors import MissingDependency
from rupert.models.loading import ModelSettings, load
from rupert.training import optimizers
from rupert.training.fine_tuning import FineTuningSettings, fine_tune
from rupert.training.optimizers import MuonWithAdamW, made_by
from rupert.training.settings import TrainingSettings

TUNING = FineTuningSettings(learning_rate=1e-3, max_steps=2, max_length=64, per_device_train_batch_size=4)
DTYPE = torch.float64


def test_lion_steps_by_the_sign_and_decays_decoupled() -> None:
    made = made_by("lion", learning_rate=0.1, weight_decay=0.5)
    assert made
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=DTYPE))
    optimizer = made[0]([weight], **made[1])
    # betas 0.9 and 0.99; momentum 0 at first. Step 1: sign(0.1 g) = (1, -1); momentum 0.01 g = (0.03, -0.01).
    # Step 2, g = (-0.2, 0.5): 0.9 (0.03, -0.01) + 0.1 (-0.2, 0.5) = (0.007, 0.041), so both signs are +.
    for gradient, expected in (
        ([3.0, -1.0], [1 * 0.95 - 0.1, -2 * 0.95 + 0.1]),
        ([-0.2, 0.5], [0.85 * 0.95 - 0.1, -1.8 * 0.95 - 0.1]),
    ):
        weight.grad = torch.tensor(gradient, dtype=DTYPE)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), torch.tensor(expected, dtype=DTYPE))


def muon(matrix: nn.Parameter, *others: nn.Parameter, weight_decay: float = 0.0) -> MuonWithAdamW:
    return MuonWithAdamW([matrix], others, learning_rate=0.1, weight_decay=weight_decay)


def test_muon_steps_a_matrix_by_its_orthogonal_part_as_large_as_adamw() -> None:
    """The gradient c I has n equal singular values: 1/sqrt(n) once normalized, then Newton-Schulz one by one."""
    count = 4
    matrix = nn.Parameter(torch.zeros(count, count, dtype=DTYPE))
    matrix.grad = 7.0 * torch.eye(count, dtype=DTYPE)
    muon(matrix).step()
    value = 1 / math.sqrt(count)
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    expected = -0.1 * 0.2 * math.sqrt(count) * value * torch.eye(count, dtype=DTYPE)
    torch.testing.assert_close(matrix.detach(), expected, rtol=0.1, atol=1e-6)  # in bfloat16, five times over


def test_adamw_steps_the_rest_and_decays_matrices_alone() -> None:
    bias, table = (nn.Parameter(torch.full(shape, 2.0, dtype=DTYPE)) for shape in ((3,), (2, 3)))
    bias.grad, table.grad = torch.full((3,), -5.0, dtype=DTYPE), torch.full((2, 3), 4.0, dtype=DTYPE)
    matrix = nn.Parameter(torch.zeros(2, 2, dtype=DTYPE))
    muon(matrix, bias, table, weight_decay=0.5).step()
    # AdamW's first step is the learning rate against the gradient's sign.
    torch.testing.assert_close(bias.detach(), torch.full((3,), 2.0 + 0.1, dtype=DTYPE))
    torch.testing.assert_close(table.detach(), torch.full((2, 3), 2.0 * 0.95 - 0.1, dtype=DTYPE))
    assert torch.equal(matrix.detach(), torch.zeros(2, 2, dtype=DTYPE))  # no gradient


def test_a_schedule_and_a_loaded_state_reach_both_halves() -> None:
    def stepped(*, loaded_after: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.ones(shape, dtype=DTYPE)) for shape in ((3, 2), (3,))]
        optimizer = muon(*parameters)
        for step in range(4):
            if step == loaded_after:
                state, optimizer = optimizer.state_dict(), muon(*parameters)
                optimizer.load_state_dict(state)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, dtype=DTYPE, generator=generator)
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    straight, resumed = stepped(loaded_after=-1), stepped(loaded_after=2)
    assert all(torch.equal(one, other) for one, other in zip(straight, resumed, strict=True))
    parameters = [nn.Parameter(torch.ones(shape, dtype=DTYPE)) for shape in ((3, 2), (3,))]
    optimizer = muon(*parameters)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(parameter.detach(), torch.ones_like(parameter)) for parameter in parameters)


def test_embedding_head_and_norms_are_adamws_and_matrices_of_layers_muons(potionworld: ModelSettings) -> None:
    model = load(potionworld).model
    model.model.layers[0].requires_grad_(False)
    made = made_by("muon", learning_rate=0.1, weight_decay=0.1)
    assert made
    optimizer = made[0]()(model, **made[1])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    matrices, tables, flat = groups
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert matrices == {name for name in trained if "proj" in name}
    assert tables == {"model.embed_tokens.weight"} | ({"lm_head.weight"} & trained)
    assert flat == {name for name in trained if "norm" in name}
    assert matrices | tables | flat == trained


def weights_after(settings: FineTuningSettings, potionworld: ModelSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    loaded = load(potionworld)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    tuned = fine_tune(settings, loaded, sources.load("potionworld:attacker")[:16], "fine-tuning")
    return before, dict(tuned.loaded.model.named_parameters())


@pytest.mark.parametrize("optim", ["lion", "muon"])
def test_fine_tuning_takes_the_optimizer_and_the_schedule(optim: Any, potionworld: ModelSettings) -> None:
    settings = dataclasses.replace(TUNING, optim=optim, max_steps=1)
    before, after = weights_after(settings, potionworld)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    moved = {name: float((after[name] - before[name]).detach().abs().max()) for name in before}
    if optim == "lion":
        assert all(step == pytest.approx(1e-3, rel=1e-2) for step in moved.values())
    _, cold = weights_after(
        dataclasses.replace(settings, lr_scheduler_type="constant_with_warmup", warmup_steps=10), potionworld
    )
    assert all(torch.equal(before[name], cold[name]) for name in before)  # the first step of a warm-up is 0


@pytest.mark.parametrize("optim", ["lion", "muon"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_is_trained_by_it(optim: Any, use_dora: bool, potionworld: ModelSettings) -> None:
    settings = dataclasses.replace(TUNING, optim=optim, lora=True, use_dora=use_dora)
    before, after = weights_after(settings, potionworld)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}


def test_a_missing_package_is_one_line_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency) as caught:
        TrainingSettings(optim="lion")
    assert str(caught.value) == "lion-pytorch is not installed; pip install 'rupert[attacks]'"
    assert TrainingSettings(optim="muon").optimizer()
    assert TrainingSettings(optim="adafactor").optimizer() is None
