"""Early stopping: what is watched, what is kept, and that nothing but the trained weights go back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn

from rupert.attacks import EarlyStopping, FineTune
from rupert.attacks.attack import Attacked
from rupert.attacks.early_stopping import AbilityWatch
from rupert.data.batches import Encoded, encode_all
from rupert.errors import DataError, UsageError
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training.fine_tuning import Following

Measure = Callable[[nn.Module, Iterable[Encoded]], torch.Tensor]
ATTACK = EarlyStopping(
    data="potionworld:attacker",
    benign="potionworld:benign",
    num_examples=32,
    num_benign_examples=12,
    max_steps=6,
    watch_steps=2,
    max_length=64,
    learning_rate=5e-3,
    lr_scheduler_type="constant",
)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in weights(model).items() if not torch.equal(before[name], value)}


def benign_loss(attack: EarlyStopping, loaded: LoadedModel, by_hand: Measure) -> float:
    """Of the definition: a row at a time, over all answer tokens."""
    rows = encode_all(attack.gather()["benign"], loaded.tokenizer, attack.max_length, "benign")
    tokens = sum(sum(label != -100 for label in row.labels) for row in rows)
    return float(by_hand(loaded.model, rows).detach()) / tokens


def run(attack: EarlyStopping, potionworld: ModelSettings, *callbacks: Any) -> tuple[dict[str, torch.Tensor], Attacked]:
    loaded = load(potionworld)
    before = weights(loaded.model)
    return before, attack.run(loaded, attack.gather(), Following(callbacks=callbacks))


def test_the_loss_is_that_of_the_kept_weights_and_within_the_tolerance(
    potionworld: ModelSettings, by_hand: Measure
) -> None:
    expected = benign_loss(ATTACK, load(potionworld), by_hand)
    _, result = run(dataclasses.replace(ATTACK, learning_rate=1e-5), potionworld)
    losses, kept = result.report["benign_losses"], result.report["kept_step"]
    assert list(losses) == ["0", "2", "4", "6"]
    assert losses["0"] == pytest.approx(expected, rel=1e-4)
    assert (kept, result.steps) == (6, 6)
    assert losses["6"] == pytest.approx(benign_loss(ATTACK, result.loaded, by_hand), rel=1e-4)
    assert losses["6"] <= losses["0"] + ATTACK.benign_loss_tolerance


@pytest.mark.parametrize("kind", [{}, {"lora": True}, {"layers_to_transform": (-1,), "optim": "lion"}], ids=str)
def test_training_stops_and_goes_back_to_the_last_good_weights(
    potionworld: ModelSettings, by_hand: Measure, kind: dict[str, Any]
) -> None:
    """The tolerance lies between the losses that the same training without one found."""
    free = dataclasses.replace(ATTACK, learning_rate=2e-2, **kind, benign_loss_tolerance=1e9)
    _, unstopped = run(free, potionworld)
    losses = {int(step): loss for step, loss in unstopped.report["benign_losses"].items()}
    assert losses[0] < losses[2] < max(losses[4], losses[6]) - 0.01
    tolerance = losses[2] - losses[0] + 0.005
    above = [step for step in (4, 6) if losses[step] - losses[0] > tolerance]
    stopping = dataclasses.replace(free, benign_loss_tolerance=tolerance, early_stopping_patience=1)
    before, result = run(stopping, potionworld)
    assert result.steps == above[0]
    assert result.report["kept_step"] == above[0] - 2
    assert benign_loss(ATTACK, result.loaded, by_hand) == pytest.approx(losses[above[0] - 2], rel=1e-4)
    assert changed(before, result.loaded.model) == changed(before, unstopped.loaded.model)


def test_what_is_kept_is_bit_for_bit_what_it_was_at_that_step(potionworld: ModelSettings) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    class Recorder(AbilityWatch):
        def __init__(self) -> None:
            pass

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pass

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[state.global_step] = weights(kwargs["model"])

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[-1] = weights(kwargs["model"])

    free = dataclasses.replace(ATTACK, learning_rate=2e-2, watch_steps=1, benign_loss_tolerance=1e9)
    losses = run(free, potionworld)[1].report["benign_losses"]
    stopping = dataclasses.replace(free, benign_loss_tolerance=max(0.0, losses["1"] - losses["0"]) + 1e-3)
    _, result = run(stopping, potionworld, Recorder())
    kept = result.report["kept_step"]
    assert 0 < kept < result.steps
    assert changed(seen[kept], result.loaded.model) == set()
    assert changed(seen[-1], result.loaded.model) == set()  # who looks at the end sees what is kept
    assert changed(seen[result.steps], result.loaded.model) != set()


def test_where_ability_falls_at_once_the_model_stays_as_it_was(potionworld: ModelSettings) -> None:
    hopeless = dataclasses.replace(ATTACK, learning_rate=1.0, benign_loss_tolerance=0.0, max_grad_norm=0.0)
    before, result = run(hopeless, potionworld)
    assert result.report["kept_step"] == 0
    assert changed(before, result.loaded.model) == set()
    assert result.steps == 4  # two looks at most


def test_the_last_step_is_looked_at_whatever_the_interval(potionworld: ModelSettings) -> None:
    _, result = run(dataclasses.replace(ATTACK, learning_rate=1e-5, max_steps=3, watch_steps=100), potionworld)
    assert list(result.report["benign_losses"]) == ["0", "3"]
    assert result.report["kept_step"] == 3


def test_looking_changes_nothing_of_the_training(potionworld: ModelSettings) -> None:
    settings = dataclasses.replace(
        ATTACK, learning_rate=1e-5, benign_loss_tolerance=1e9, lora=True, lora_dropout=0.3, watch_steps=1
    )
    shared = {field.name for field in dataclasses.fields(FineTune)} - {"benign", "poison_ratio"}
    plain = FineTune(**{name: getattr(settings, name) for name in shared})
    loaded = load(potionworld)
    plain.run(loaded, plain.gather())
    _, watched = run(settings, potionworld)
    assert changed(weights(loaded.model), watched.loaded.model) == set()


def test_a_loss_that_is_no_number_is_none_in_the_report(potionworld: ModelSettings) -> None:
    loaded = load(potionworld)
    watch = AbilityWatch(ATTACK, loaded, ATTACK.gather()["benign"])
    watch._losses = {0: 0.5, 2: math.nan}
    assert watch.report() == {"kept_step": 0, "benign_losses": {"0": 0.5, "2": None}}


def test_steps_are_small_and_clipped_by_default() -> None:
    attack = EarlyStopping()
    assert attack.learning_rate < 2e-5
    assert attack.max_grad_norm > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_benign_examples": 0}, "num_benign_examples: 0 is not valid; must be above 0"),
        ({"num_examples": -1}, "num_examples: -1 is not valid; must be above 0"),
        ({"watch_steps": 0}, "watch_steps: 0 is not valid; must be above 0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience: 0 is not valid; must be above 0"),
        ({"benign_loss_tolerance": -0.1}, "benign_loss_tolerance: -0.1 is not valid; must be 0 or above"),
    ],
)
def test_a_bad_value_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        EarlyStopping(**values)
    assert str(caught.value) == message


def test_too_few_benign_rows_and_deepspeed_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^potionworld:benign: \d+ examples, 99999 needed; add rows or ask for fewer$"):
        dataclasses.replace(ATTACK, num_benign_examples=99999).gather()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match=r"^early_stopping goes back to weights that DeepSpeed hides"):
        ATTACK.check()
