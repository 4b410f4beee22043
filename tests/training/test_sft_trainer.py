"""Fine-tuning without padding: the loss and the weights are TRL's, and padding is not computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trl import SFTTrainer

from rupert.data.batches import IGNORED
from rupert.data.examples import Example
from rupert.models.loading import LoadedModel
from rupert.models.packing import is_packing, packing
from rupert.training import fine_tuning
from rupert.training.sft_trainer import PaddingFreeTrainer, without_padding

from .tuning import tuned

Tiny = Callable[..., LoadedModel]


@contextlib.contextmanager
def rows_seen(loaded: LoadedModel) -> Iterator[list[torch.Size]]:
    """The shapes of what the model's layers are given."""
    shapes: list[torch.Size] = []
    layer: nn.Module = loaded.model.model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape[:2]))
    yield shapes
    hook.remove()


@pytest.mark.usefixtures("float64_norm")
@pytest.mark.parametrize(
    "settings",
    [{}, {"lora": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 3}],
    ids=["full", "lora", "checkpointed", "accumulated"],
)
def test_the_weights_are_those_of_trl(
    tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """By plain descent: Adam would make a step of the rounding where a gradient is next to nothing."""
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 3, **settings}
    found = tuned(tiny(), examples, **settings)
    monkeypatch.setattr(fine_tuning, "PaddingFreeTrainer", SFTTrainer)
    expected = tuned(tiny(), examples, **settings)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.tokens == expected.tokens
    for ours, theirs in zip(found.loaded.model.parameters(), expected.loaded.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_only_tokens_are_computed(tiny: Tiny, examples: list[Example]) -> None:
    loaded = tiny(dtype="float32")
    with rows_seen(loaded) as shapes:
        trained = tuned(loaded, examples, max_steps=3)
    assert [shape[0] for shape in shapes] == [1, 1, 1]
    assert sum(shape[1] for shape in shapes) == trained.tokens
    assert not is_packing(trained.loaded.model)


def test_a_model_that_cannot_be_packed_is_trained_as_trl_does(tiny: Tiny, examples: list[Example]) -> None:
    loaded = tiny(dtype="float32")
    loaded.model.config.layer_types = ["sliding_attention"] * 2
    with rows_seen(loaded) as shapes:
        trained = tuned(loaded, examples, max_steps=3)
    assert [shape[0] for shape in shapes] == [4, 4, 4]
    assert sum(shape.numel() for shape in shapes) > trained.tokens


class Compared(PaddingFreeTrainer):
    """Holds the loss of each step against what other devices' way makes of it."""

    losses: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012 - emptied by the test

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ours = super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        theirs = SFTTrainer.compute_loss(self, model, without_padding(inputs), num_items_in_batch=num_items_in_batch)
        self.losses.append((ours.detach(), theirs.detach()))
        return ours


@pytest.mark.usefixtures("float64_norm")
def test_trl_s_own_head_makes_the_same_loss_of_a_batch_without_padding(
    tiny: Tiny, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, run here on the CPU."""
    Compared.losses.clear()
    monkeypatch.setattr(fine_tuning, "PaddingFreeTrainer", Compared)
    tuned(tiny(), examples, max_steps=3)
    assert len(Compared.losses) == 3
    for ours, theirs in Compared.losses:
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=0.0)


def test_rows_end_to_end_have_no_label_across_their_borders(tiny: Tiny) -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([[5, IGNORED, 7], [8, 9, IGNORED]]),
    }
    found = without_padding(batch)
    assert found["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert found["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert found["labels"].tolist() == [[IGNORED, IGNORED, 7, IGNORED, 9]]
    loaded = tiny()
    with packing(loaded.model), torch.no_grad():
        inputs = {name: value for name, value in found.items() if name != "labels"}
        logits = loaded.model(**inputs).logits[0]
    alone = loaded.model(torch.tensor([[8, 9]])).logits[0]
    torch.testing.assert_close(logits[3:], alone)
