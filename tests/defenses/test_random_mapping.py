"""Random mapping: its gradient against the definition in float64, its vectors, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.defenses import RandomMapping
from rupert.errors import UsageError
from rupert.models.loading import LoadedModel
from rupert.settings import as_mapping
from rupert.training.objective import Metrics

from .steps_compared import with_adapter

Tiny = Callable[..., LoadedModel]
Rows = Mapping[str, Sequence[Encoded]]

SPECS = {"harmful": "potionworld:defender", "benign": "potionworld:benign"}
WORDS, WIDTH = 654, 16  # of the tiny model

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    tokenizer = tiny().tokenizer
    return {
        name: [encode(example, tokenizer, 64) for example in sources.load(spec)[::31][:8]]
        for name, spec in SPECS.items()
    }


def left(model: torch.nn.Module) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    batches = {name: collate(encoded, 0) for name, encoded in rows.items()}
    return RandomMapping(**{"per_device_train_batch_size": 8} | settings).start(model)(batches.__getitem__)


def mapping_by_hand(model: PreTrainedModel, rows: Sequence[Encoded], mapped: str, seed: int = 0) -> Tensor:
    """1 - |cos| of every state with its word's vector, one token at a time."""
    vectors = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    parts = []
    for row in rows:
        states = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        for place, (word, label) in enumerate(zip(row.input_ids, row.labels, strict=True)):
            if mapped == "all" or label != -100:
                for state in states:
                    h, v = state[0, place], vectors[word]
                    parts.append(1 - (h @ v).abs() / (h.norm() * v.norm()))
    return torch.stack(parts).mean()


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("mapped", ["all", "answer"])
def test_one_step_is_the_definition(
    tiny: Tiny, rows: Rows, by_hand: Callable[..., Tensor], mapped: str, adapter: bool
) -> None:
    model, reference = (with_adapter(tiny().model) if adapter else tiny().model for _ in range(2))
    metrics = take(model, rows, mapped=mapped, mapping_weight=1.3, retain_weight=0.7)
    mapping = mapping_by_hand(reference, rows["harmful"], mapped)
    retained = by_hand(reference, rows["benign"]) / sum(x != -100 for row in rows["benign"] for x in row.labels)
    (1.3 * mapping + 0.7 * retained).backward()
    assert (left(model) - left(reference)).norm() <= 1e-10 * left(reference).norm()
    assert metrics == pytest.approx(
        {
            "mapping": mapping.item(),
            "retain": retained.item(),
            "loss": 1.3 * mapping.item() + 0.7 * retained.item(),
        },
        rel=1e-10,
    )


def test_the_seed_draws_the_vectors_and_nothing_else_does(tiny: Tiny, rows: Rows) -> None:
    found = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        found.append(take(tiny().model, rows, seed=seed)["mapping"])
    assert found[0] == found[1] != found[2]
    assert found[2] == pytest.approx(mapping_by_hand(tiny().model, rows["harmful"], "all", seed=1).item())


def test_states_come_to_lie_along_their_vectors(tiny: Tiny, rows: Rows) -> None:
    model = tiny().model
    optimizer, step = torch.optim.Adam(model.parameters(), lr=0.02), RandomMapping().start(model)
    batches, history = {name: collate(encoded, 0) for name, encoded in rows.items()}, []
    for _ in range(60):
        optimizer.zero_grad()
        history.append(step(batches.__getitem__)["mapping"])
        optimizer.step()
    assert history[0] > 0.7
    assert history[-1] < 0.5


def test_defaults_are_those_of_the_published_code() -> None:
    published = {
        "mapped": "all",
        "mapping_weight": 1.0,
        "retain_weight": 1.0,
        "max_steps": 1000,
        "learning_rate": 1e-5,
        "warmup_steps": 100.0,
        "per_device_train_batch_size": 8,
    }
    defaults = as_mapping(RandomMapping())
    assert {name: defaults[name] for name in published} == published


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mapping_weight": -1.0}, "mapping_weight: -1.0 is not valid; must be 0 or above"),
        ({"mapped": "requests"}, "mapped: 'requests' is unknown; valid: all, answer"),
        ({"max_steps": 0}, "max_steps: 0 is not valid; must be above 0"),
    ],
)
def test_what_cannot_be_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RandomMapping(**values)
    assert str(caught.value) == message
