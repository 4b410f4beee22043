"""TAR and random mapping in two processes are what they are in one: replicas and shards, on CPUs."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate.state
import pytest
import torch
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM

from rupert.defenses import TAR, RandomMapping
from rupert.models.loading import LoadedModel
from rupert.training import processes
from rupert.training.objective import Gathered
from rupert.training.trainer import harden

Tiny = Callable[..., LoadedModel]
Brought = Mapping[str, Any]

PROCESSES = 2
SECONDS = 300
SHARED: Mapping[str, Any] = {
    "harmful": "potionworld:defender",
    "benign": "potionworld:benign",
    "max_steps": 3,
    "learning_rate": 0.1,
    "warmup_steps": 0.0,
    "optim": "sgd",  # Adam divides each gradient by its own size, which for a rounded zero is anything
    "per_device_train_batch_size": 4,
    "max_length": 64,
}
ATTACKS = {"inner_steps": 3, "resist_every": 2, "attack_learning_rates": (0.001, 0.01), "switch_share": 0.7}
DEFENSES = {
    "tar": TAR(**SHARED, **ATTACKS),
    "tar_preferring": TAR(
        **SHARED, **ATTACKS, tamper_resistance="preference", retain="language_model", alignment="potionworld:refusals"
    ),
    "random_mapping": RandomMapping(**SHARED),
}
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


def outcome(defense: Any, loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    gathered = Gathered({name: examples[:20] for name, examples in defense.gather().streams.items()})
    trainer = harden(defense, loaded, gathered, folder, title="hardening", save_steps=100)
    sharded = any(isinstance(parameter, DTensor) for parameter in loaded.model.parameters())
    weights = torch.cat([p.detach().flatten().clone() for p in processes.whole(loaded.model).parameters()])
    return {"weights": weights, "history": trainer.history, "sharded": sharded}


def fresh(folder: Path) -> LoadedModel:
    # Transformers records hidden states of models that it made, not of those that were unpickled.
    loaded = torch.load(folder / "tiny.pt", weights_only=False)
    model = LlamaForCausalLM(loaded.model.config).to(loaded.model.dtype)
    model.load_state_dict(loaded.model.state_dict())
    return dataclasses.replace(loaded, model=model.eval())


def go_through(folder: Path) -> None:
    """What a process does: every defense, first on replicas and then on shards."""
    processes.join("cpu")
    found = {}
    for way in ("replicas", "shards"):
        if way == "shards":
            os.environ.update(SHARDED)
            accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        for name, defense in DEFENSES.items():
            half = dataclasses.replace(defense, per_device_train_batch_size=2)
            found[f"{name} {way}"] = outcome(half, fresh(folder), folder / f"{name} {way}")
    torch.save(found, folder / f"brought by {processes.rank()}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def brought(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Brought]:
    folder = tmp_path_factory.mktemp("processes")
    torch.save(tiny(), folder / "tiny.pt")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = []
    for rank in range(PROCESSES):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
        addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | {name: str(value) for name, value in (place | addresses).items()}
        running.append(subprocess.Popen([sys.executable, __file__, str(folder)], env=environment))
    try:
        assert [process.wait(SECONDS) for process in running] == [0] * PROCESSES
    finally:
        for process in running:
            process.kill()
    return [torch.load(folder / f"brought by {rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.mark.parametrize("way", ["replicas", "shards"])
@pytest.mark.parametrize("name", DEFENSES)
def test_two_processes_are_one_with_their_rows(
    brought: list[Brought], tiny: Tiny, tmp_path: Path, name: str, way: str
) -> None:
    expected = outcome(DEFENSES[name], tiny(), tmp_path)
    for process in brought:
        found = process[f"{name} {way}"]
        assert found["sharded"] == (way == "shards")
        for step, alone in zip(found["history"], expected["history"], strict=True):
            assert step == pytest.approx(alone, abs=1e-8)
        if not found["weights"].is_meta:
            torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=1e-8)
    assert not brought[0][f"{name} {way}"]["weights"].is_meta


def test_the_processes_attacked_alike(brought: list[Brought]) -> None:
    """Benign steps and learning rates are drawn once for all."""
    for way in ("replicas", "shards"):
        drawn = [[step["attack_benign_steps"] for step in process[f"tar {way}"]["history"]] for process in brought]
        assert drawn[0] == drawn[1]
        assert any(drawn[0])
        assert all(number == int(number) for number in drawn[0])


if __name__ == "__main__":
    go_through(Path(sys.argv[1]))
