"""Vaccine and T-Vaccine: two processes are one, with one norm over the rows of both, and the same layers drawn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rupert.data.batches import Encoded, collate, encode
from rupert.data.sources import load
from rupert.defenses import DEFENSES
from rupert.models.loading import POTIONWORLD_FOLDER, LoadedModel
from rupert.training import processes

SPECS = {"alignment": "potionworld:refusals", "harmful": "potionworld:defender"}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "vaccine": {"alignment": SPECS["alignment"]},
    "t_vaccine": {**SPECS, "harmful_batches": 1, "trained_layers": 1},
}


def rows(loaded: LoadedModel, stream: str) -> list[Encoded]:
    """Eight rows of many lengths."""
    return [encode(example, loaded.tokenizer, 64) for example in load(SPECS[stream])[::31][:8]]


def outcome(loaded: LoadedModel, name: str, part: slice) -> dict[str, Any]:
    """The gradient of all processes and the metrics of a step, in which this process has `part` of the rows."""
    # The processes' generators differ, as they do after dropout.
    torch.manual_seed(processes.rank())
    step = DEFENSES[name](per_device_train_batch_size=3, **SETTINGS[name]).start(loaded.model)
    metrics = step(lambda stream: collate(rows(loaded, stream)[part], 0))
    gradients = {n: p.grad for n, p in loaded.model.named_parameters() if p.grad is not None}
    processes.average(gradients.values())
    shared = {name: processes.total(value) / processes.count() for name, value in metrics.items()}
    return {"gradients": gradients, "metrics": metrics, "shared": shared}


def work(rank: int, folder: Path) -> None:
    """What each of two processes does: one has 3 rows, the other 5."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    part = slice(3) if rank == 0 else slice(3, 8)
    torch.save({name: outcome(make(), name, part) for name in SETTINGS}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def make() -> LoadedModel:
    """A model that every process makes alike."""
    tokenizer = AutoTokenizer.from_pretrained(POTIONWORLD_FOLDER)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    return LoadedModel(LlamaForCausalLM(config).double().eval(), tokenizer)


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    running = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_are_one(brought: list[dict[str, Any]], name: str) -> None:
    expected = outcome(make(), name, slice(8))
    for each in brought:
        found: Mapping[str, Tensor] = each[name]["gradients"]
        assert found.keys() == expected["gradients"].keys()
        for parameter, gradient in found.items():
            torch.testing.assert_close(gradient, expected["gradients"][parameter], rtol=1e-6, atol=1e-8)
        assert each[name]["shared"] == pytest.approx(expected["metrics"], rel=1e-6)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
