"""Two processes are one: replicas and shards, on CPUs that talk through Gloo.

Starting processes takes seconds, so two go through every scenario below once, and each test looks at what they brought
back. Accelerate shards models on accelerators alone; the scenarios of FSDP2 tell it that the CPUs are some.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.training import processes
from rupert.training.adapters import merge_adapter

from . import scenarios
from .scenarios import (
    ATTACK,
    DEFENSE,
    LORA,
    PROCESSES,
    SECONDS,
    SELF_DESTRUCT,
    TUNING,
    Brought,
    Tiny,
    copied,
    hardened,
    outcome,
    tuned,
    tuning,
    weights,
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def brought(tiny: Tiny, folder: Path) -> list[Brought]:
    """What each of two processes brought back."""
    torch.save(tiny(), folder / "tiny.pt")
    port, running = free_port(), []
    for rank in range(PROCESSES):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
        # Without CUDA, so that it is the same on every machine.
        addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
        launched = os.environ | {name: str(value) for name, value in (environment | addresses).items()}
        running.append(subprocess.Popen([sys.executable, scenarios.__file__, str(folder)], env=launched))
    wait_for(running)
    return [torch.load(folder / f"brought by {rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def wait_for(running: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all are done, and end the others when one fails: they would wait for it."""
    deadline = time.monotonic() + SECONDS
    while any(process.poll() is None for process in running):
        if any(process.poll() for process in running) or time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(0.05)
    assert [process.wait() for process in running] == [0] * PROCESSES


@pytest.fixture(scope="module")
def alone(tiny: Tiny, folder: Path) -> dict[str, Any]:
    """What one process makes of it, with as many rows a step."""
    loaded = tiny()
    return outcome(hardened(DEFENSE, loaded, folder / "alone"), loaded.model)


@pytest.fixture(scope="module")
def alone_with_adapters(tiny: Tiny, folder: Path) -> dict[str, Any]:
    loaded = tiny()
    objective = dataclasses.replace(DEFENSE, **LORA)
    return outcome(hardened(objective, loaded, folder / "alone with adapters"), loaded.model)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=1e-10)
    assert [m["loss"] for m in found["history"]] == pytest.approx([m["loss"] for m in expected["history"]], abs=1e-10)
    assert found["tokens"] == expected["tokens"]
    assert found["types"] == expected["types"]


def test_in_one_process_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.join("cpu")
    tensor = torch.tensor([1.0, 2.0])
    processes.average([tensor])
    assert (processes.count(), processes.rank(), processes.total(0.1)) == (1, 0, 0.1)
    assert [processes.on_cpu(torch.device(name)) for name in ("cpu", "cuda")] == [True, False]
    assert tensor.tolist() == [1.0, 2.0]
    model = tiny().model
    assert processes.whole(model) is model


def test_processes_add_up(brought: list[Brought]) -> None:
    assert [process["sums"] for process in brought] == [(2, 0, 2.0), (2, 1, 2.0)]


def test_tensors_become_their_mean(brought: list[Brought]) -> None:
    for process in brought:
        assert [tensor.tolist() for tensor in process["means"]] == [[1.5, 1.5], 1.5]


def test_a_sharded_gradient_is_the_mean_already(brought: list[Brought]) -> None:
    assert [process["mean_of_shards"].tolist() for process in brought] == [[[1.5], [1.5]]] * 2


def test_the_main_process_alone_shows_progress(brought: list[Brought]) -> None:
    shown, silent = (process["progress"] for process in brought)
    assert set(shown) == {"hardening"}
    assert silent == []


def test_replicas_are_one_process_with_their_rows(brought: list[Brought], alone: dict[str, Any]) -> None:
    for process in brought:
        assert_same(process["replicas"], alone)
        assert not process["replicas"]["wrapped"]
    assert torch.equal(*(process["replicas"]["weights"] for process in brought))


def test_replicas_train_an_adapter(brought: list[Brought], alone_with_adapters: dict[str, Any]) -> None:
    for process in brought:
        assert_same(process["adapters"], alone_with_adapters)


def test_what_is_not_finite_in_one_process_stops_all(brought: list[Brought]) -> None:
    for process in brought:
        assert process["infinity"].startswith("loss: inf at step 1; stopped before the weights changed")


@pytest.mark.parametrize("scenario", ["resumed", "shards_resumed"])
def test_control_c_in_one_process_stops_all_and_is_resumed(
    brought: list[Brought], alone: dict[str, Any], scenario: str
) -> None:
    assert_same(brought[0][scenario], alone)
    assert brought[1][scenario]["history"] == brought[0][scenario]["history"]


def test_shards_are_one_process_with_their_rows(brought: list[Brought], alone: dict[str, Any]) -> None:
    assert [process["shards"]["sharded"] for process in brought] == [True, True]
    assert_same(brought[0]["shards"], alone)
    assert brought[1]["shards"]["weights"].device.type == "meta"


def test_shards_train_an_adapter(brought: list[Brought], alone_with_adapters: dict[str, Any]) -> None:
    assert_same(brought[0]["shards_with_adapters"], alone_with_adapters)


def test_a_defense_starts_on_the_shards_of_what_it_was_given(brought: list[Brought]) -> None:
    assert [process["shards_seen"] for process in brought] == [[True, True]] * 2


def test_the_first_version_of_fsdp_is_one_line(brought: list[Brought]) -> None:
    expected = (
        "hardening is split over replicas or by FSDP2 alone; launch it with --fsdp_version 2",
        "fine-tuning is split by FSDP's second version; launch it with --fsdp_version 2",
    )
    assert [process["first_version"] for process in brought] == [expected] * 2


@pytest.fixture(scope="module")
def self_destructing(tiny: Tiny, folder: Path) -> Callable[..., dict[str, Any]]:
    """What one process makes of SEAM."""

    def make(**settings: Any) -> dict[str, Any]:
        loaded = tiny()
        objective = dataclasses.replace(SELF_DESTRUCT, **settings)
        return outcome(hardened(objective, loaded, folder / f"alone {settings}"), loaded.model)

    return make


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [
        ("exact_replicas", {"gradient": "exact"}),
        ("hessian_free_replicas", {}),
        ("hessian_free_shards", {}),
        ("some_layers_of_shards", {"unlearning_layers": 2}),
    ],
)
def test_seam_is_the_same_in_two_processes(
    brought: list[Brought], self_destructing: Callable[..., dict[str, Any]], scenario: str, settings: dict[str, Any]
) -> None:
    expected = self_destructing(**settings)
    assert_same(brought[0][scenario], expected)
    for found, alone in zip(brought[1][scenario]["history"], expected["history"], strict=True):
        assert found == pytest.approx(alone, abs=1e-8)


def test_an_exact_gradient_of_shards_is_refused_with_both_ways_out(brought: list[Brought]) -> None:
    expected = (
        "gradient: 'exact' is not valid under FSDP2, whose sharding has no second derivative; use hessian_free, or "
        "hold the model whole on each device or split by layers (device_map)"
    )
    assert [process["exact_shards"] for process in brought] == [expected] * 2


def test_a_stage_is_written_once(brought: list[Brought], folder: Path) -> None:
    hashes = [process["stage"][0] for process in brought]
    assert hashes == [loading.folder_hash(folder / "stage")] * 2
    assert all(process["stage"][1] for process in brought)  # the second call finds it done
    assert [process["stage_of_shards"] for process in brought] == [loading.folder_hash(folder / "stage of shards")] * 2
    assert not (folder / "stage" / "checkpoints").exists()


def test_what_was_sharded_is_saved_as_any_model(brought: list[Brought], folder: Path) -> None:
    again = AutoModelForCausalLM.from_pretrained(folder / "saved")
    assert type(again) is LlamaForCausalLM
    assert torch.equal(weights(again), brought[0]["shards"]["weights"])


@pytest.fixture(scope="module")
def tuned_alone(tiny: Tiny) -> Callable[..., dict[str, Any]]:
    """What one process makes of a fine-tuning."""

    def make(*, tied: bool = True, **settings: Any) -> dict[str, Any]:
        return tuning(tuned(copied(tiny(), tied=tied), dataclasses.replace(TUNING, **settings)))

    return make


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [
        ("tuned_replicas", {}),
        ("tuned_replicas_with_adapters", {"lora": True}),
        ("tuned_shards", {}),
        ("tuned_shards_of_untied_weights", {"tied": False}),
        ("tuned_shards_with_adapters", {"lora": True}),
    ],
)
def test_fine_tuning_is_the_same_in_two_processes(
    brought: list[Brought], tuned_alone: Callable[..., dict[str, Any]], scenario: str, settings: dict[str, Any]
) -> None:
    expected = tuned_alone(**settings)
    for process in brought:
        found = process[scenario]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)  # summed in float32
        assert found["tokens"] == expected["tokens"]
        assert found["types"] == expected["types"] or found["sharded"]
        if not found["weights"].is_meta:
            # TRL computes the output head's gradient in float32.
            torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=1e-8)
    has_weights = [not process[scenario]["weights"].is_meta for process in brought]
    assert has_weights == [True, "replicas" in scenario]


def test_fine_tuned_shards_stay_shards_unless_an_adapter_is_merged(brought: list[Brought]) -> None:
    for process in brought:
        assert process["tuned_shards"]["sharded"]
        assert not process["tuned_shards_with_adapters"]["sharded"]


@pytest.mark.parametrize(
    ("scenario", "kept"),
    [("tuned_replicas_with_adapters", "adapter"), ("tuned_shards_with_adapters", "adapter of shards")],
)
def test_a_kept_adapter_makes_the_same_bits(
    brought: list[Brought], folder: Path, tiny: Tiny, scenario: str, kept: str
) -> None:
    again = merge_adapter(copied(tiny()).model, folder / kept)
    assert torch.equal(weights(again), brought[0][scenario]["weights"])


def test_an_adapter_of_shards_is_trained_beside_weights_of_half_precision(brought: list[Brought], tiny: Tiny) -> None:
    found, before = brought[0]["tuned_shards_in_half_precision"], weights(tiny().model).to(torch.bfloat16)
    assert found["weights"].dtype == torch.bfloat16
    assert 0 < (found["weights"] - before).abs().max() < 0.1


@pytest.mark.parametrize("name", ["attack", "attack of shards"])
def test_an_attack_is_written_once(
    brought: list[Brought], folder: Path, alone_attacked: torch.Tensor, name: str
) -> None:
    hashes = [process[name.replace(" ", "_")] for process in brought]
    assert hashes == [loading.folder_hash(folder / name)] * 2
    found = weights(AutoModelForCausalLM.from_pretrained(folder / name))
    torch.testing.assert_close(found, alone_attacked, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone_attacked() -> torch.Tensor:
    """The weights after the attack in one process."""
    loaded = loading.load(ModelSettings(model="potionworld"))
    return weights(ATTACK.run(loaded, ATTACK.gather()).loaded.model)
