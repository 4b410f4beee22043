"""Trackers are told what the history holds, and change nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from rupert.attacks import FineTune
from rupert.data import sources
from rupert.defenses import SDD
from rupert.errors import UnknownName, UsageError
from rupert.models.loading import LoadedModel
from rupert.training.fine_tuning import Following
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.tracking import UNTRACKED, Tracking
from rupert.training.trainer import HardeningTrainer, harden

Tiny = Callable[..., LoadedModel]

STEPS = 3


@dataclasses.dataclass(frozen=True)
class Measuring:
    """A defense with a metric of its own, which ends with an error before one of its steps, if any."""

    defense: SDD
    ends: int = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.defense, name)

    def start(self, model: Any) -> Step:
        step = self.defense.start(model)
        left = iter(range(STEPS))

        def measuring(draw: Draw) -> Metrics:
            if next(left) == self.ends:
                raise KeyboardInterrupt
            metrics = step(draw)
            return metrics | {"half_of_loss": metrics["loss"] / 2}

        return measuring


DEFENSE = SDD(
    pairs="potionworld:defender",
    benign="potionworld:benign",
    benign_share=0.25,
    max_steps=STEPS,
    learning_rate=1e-3,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    max_length=64,
)
ATTACK = FineTune(data="potionworld:attacker", learning_rate=1e-3, max_steps=STEPS, max_length=64, num_examples=12)


@pytest.fixture(scope="module")
def gathered() -> Gathered:
    return Gathered({"pairs": sources.load(DEFENSE.pairs)[:12], "benign": sources.load(DEFENSE.benign)[:12]})


def hardened(loaded: LoadedModel, gathered: Gathered, folder: Path, **options: Any) -> HardeningTrainer:
    given = {"objective": Measuring(DEFENSE), "title": "hardening", "save_steps": 1, "tracking": UNTRACKED} | options
    following = Following(tracking=given.pop("tracking"))
    return harden(given.pop("objective"), loaded, gathered, folder, following=following, **given)


def weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard's files hold: name -> step -> value."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_holds_the_history_of_a_hardening(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    folder = tmp_path / "stage" / "tracking"
    trainer = hardened(
        tiny(), gathered, tmp_path, tracking=Tracking(report_to=("tensorboard",), run_name="a run", folder=folder)
    )
    found = scalars(folder)
    for name in ("loss", "half_of_loss"):
        history = {step: metrics[name] for step, metrics in enumerate(trainer.history, start=1)}
        assert len(history) == STEPS
        assert found[f"train/{name}"] == pytest.approx(history, rel=1e-6)
    assert found["train/learning_rate"] == pytest.approx(dict.fromkeys(range(1, STEPS + 1), 1e-3))
    assert all(path.name.startswith("events.out.tfevents") for path in folder.iterdir())


def test_tensorboard_holds_the_losses_of_an_attack(tiny: Tiny, tmp_path: Path) -> None:
    losses: dict[int, float] = {}

    class Remembers(TrainerCallback):
        def on_log(self, _args: Any, state: Any, *_: Any, logs: dict[str, float], **others: Any) -> None:
            if "loss" in logs:
                losses[state.global_step] = logs["loss"]

    tracking = Tracking(report_to=("tensorboard",), folder=tmp_path)
    ATTACK.run(tiny(dtype="float32"), ATTACK.gather(), Following(callbacks=(Remembers(),), tracking=tracking))
    assert len(losses) == STEPS
    assert scalars(tmp_path)["train/loss"] == pytest.approx(losses, rel=1e-6)


def test_tracking_changes_neither_weights_nor_history_nor_resuming(
    tiny: Tiny, gathered: Gathered, tmp_path: Path
) -> None:
    tracking = Tracking(report_to=("tensorboard",), folder=tmp_path / "tracking")
    alone, followed, resumed = tiny(dropout=0.3), tiny(dropout=0.3), tiny(seed=1, dropout=0.3)
    history = hardened(alone, gathered, tmp_path / "alone").history
    hardened(followed, gathered, tmp_path / "followed", tracking=tracking)
    with pytest.raises(KeyboardInterrupt):
        hardened(
            tiny(dropout=0.3), gathered, tmp_path / "ended", objective=Measuring(DEFENSE, ends=2), tracking=tracking
        )
    assert hardened(resumed, gathered, tmp_path / "ended", tracking=tracking, resume=True).history == history
    assert torch.equal(weights(followed), weights(alone))
    assert torch.equal(weights(resumed), weights(alone))
    states = [
        json.loads((tmp_path / name / "checkpoints" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
        for name in ("alone", "followed")
    ]
    assert states[0]["log_history"] == states[1]["log_history"]


def test_the_environment_is_as_it_was(
    tiny: Tiny, gathered: Gathered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "the user's"))
    before = dict(os.environ)
    tracking = Tracking(report_to=("tensorboard",), folder=tmp_path / "ours")
    with pytest.raises(KeyboardInterrupt):
        hardened(tiny(), gathered, tmp_path, objective=Measuring(DEFENSE, ends=1), tracking=tracking)
    assert dict(os.environ) == before
    assert set(scalars(tmp_path / "ours")["train/loss"]) == {1}
    assert not (tmp_path / "the user's").exists()


def test_who_tells_nobody_writes_nothing(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    tracking = Tracking(folder=tmp_path / "tracking")
    tracking.check()
    hardened(tiny(), gathered, tmp_path, tracking=tracking)
    assert not (tmp_path / "tracking").exists()


STAND_IN = """
run = None
calls = []

def init(**options):
    global run
    calls.append("init")
    run = options

def finish():
    global run
    calls.append("finish")
    run = None
"""


@pytest.mark.parametrize(("begun", "calls"), [(False, ["init", "finish"]), (True, ["init"])])
def test_a_run_that_a_training_began_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, calls: list[str]
) -> None:
    """With a stand-in for Weights & Biases, whose run Transformers begins and leaves open."""
    (tmp_path / "wandb.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    class Trainer:
        def add_callback(self, callback: type[TrainerCallback]) -> None:
            assert callback.__name__ == "WandbCallback"

    tracking = Tracking(report_to=("wandb", "wandb"), project="drops", folder=tmp_path / "tracking")
    tracking.check()
    if begun:
        wandb.init()
    with tracking.following(Trainer()):
        assert os.environ["WANDB_PROJECT"] == "drops"
        assert os.environ["WANDB_DIR"] == str(tmp_path / "tracking")
        if not begun:
            wandb.init()
    assert wandb.calls == calls
    monkeypatch.delitem(sys.modules, "wandb")


@pytest.mark.parametrize(
    ("tracking", "error", "message"),
    [
        (Tracking(report_to=("tensorbord",)), UnknownName, "report_to: 'tensorbord' is unknown; did you mean"),
        (Tracking(report_to=("xyz",)), UnknownName, "report_to: 'xyz' is unknown; valid: mlflow, tensorboard, "),
        (Tracking(report_to=("tensorboard",)), UsageError, "report_to: 'tensorboard' needs a folder"),
    ],
)
def test_what_cannot_be_told_is_one_line(tracking: Tracking, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        tracking.check()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rupert.training.tracking.find_spec", lambda _: None)
    with pytest.raises(UsageError) as caught:
        Tracking(report_to=(name,), folder=tmp_path).check()
    assert str(caught.value) == f"report_to: '{name}' is not installed; pip install {name}"
