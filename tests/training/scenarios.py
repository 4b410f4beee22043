"""Scenarios that processes go through together, each of which leaves what it came to; run as a program."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate.state
import pytest
import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM

from rupert.attacks import FineTune
from rupert.data import sources
from rupert.defenses import SDD, SEAM
from rupert.errors import NonFiniteError, UsageError
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.study import stage
from rupert.terminal import Progress, listening
from rupert.training import processes
from rupert.training.callbacks import ProgressBar
from rupert.training.fine_tuning import FineTuned, FineTuningSettings, Following, fine_tune
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.trainer import HardeningTrainer, harden

Tiny = Callable[..., LoadedModel]
Brought = Mapping[str, Any]  # scenario -> what a process brought back from it

PROCESSES = 2
SECONDS = 600  # after which processes that wait for each other are given up
# In two processes of half as many rows a pass; rows of many lengths, and a second epoch.
DEFENSE = SDD(
    pairs="potionworld:defender",
    benign="potionworld:benign",
    benign_share=0.25,
    max_steps=4,
    learning_rate=1e-3,
    max_grad_norm=1.0,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_length=64,
    seed=3,
)
HALF = dataclasses.replace(DEFENSE, per_device_train_batch_size=2)
# Adam divides each gradient by its own size, which for a zero that was rounded differently is anything.
LORA = {"lora": True, "optim": "sgd", "learning_rate": 0.1}
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


SELF_DESTRUCT = SEAM(
    harmful="potionworld:defender",
    alignment="potionworld:refusals",
    benign="potionworld:benign",
    alignment_benign_share=0.5,
    gradient="hessian_free",
    max_steps=2,
    learning_rate=0.1,
    optim="sgd",  # as for LoRA
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_length=64,
)
HALF_SELF_DESTRUCT = dataclasses.replace(SELF_DESTRUCT, per_device_train_batch_size=2)

TUNING = FineTuningSettings(
    max_steps=3,  # the last one in a second epoch
    learning_rate=0.05,
    max_grad_norm=0.5,
    optim="sgd",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_length=64,
)
HALF_TUNING = dataclasses.replace(TUNING, per_device_train_batch_size=2)
ATTACK = FineTune(
    data="potionworld:attacker",
    num_examples=16,
    optim="sgd",
    learning_rate=0.05,
    per_device_train_batch_size=4,
)


def gathered(objective: Any) -> Gathered:
    """The first rows of every stream."""
    return Gathered({name: examples[:12] for name, examples in objective.gather().streams.items()})


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def hardened(objective: Any, loaded: LoadedModel, folder: Path, **options: Any) -> HardeningTrainer:
    return harden(objective, loaded, gathered(objective), folder, **{"title": "hardening", "save_steps": 100} | options)


def copied(loaded: LoadedModel, *, tied: bool = True) -> LoadedModel:
    """Another model with the same weights; untied, its output head has others than its embedding."""
    # Transformers records hidden states of models that it made, not of those that were unpickled.
    config, state = copy.deepcopy(loaded.model.config), loaded.model.state_dict()
    config.tie_word_embeddings = tied
    if not tied:
        state["lm_head.weight"] = state["lm_head.weight"].flip(0)
    model = LlamaForCausalLM(config).to(loaded.model.dtype)
    model.load_state_dict(state)
    return dataclasses.replace(loaded, model=model.eval())


def tuned(loaded: LoadedModel, settings: FineTuningSettings, folder: Path | None = None) -> FineTuned:
    examples = [*sources.load("potionworld:attacker")[:8], *sources.load("potionworld:benign")[::200][:8]]
    return fine_tune(settings, loaded, examples, "fine-tuning", Following(adapter_folder=folder))


def tuning(result: FineTuned) -> dict[str, Any]:
    """What a fine-tuning brought, gathered from all processes."""
    model = processes.whole(result.loaded.model)
    return {
        "weights": weights(model),
        "types": {type(module).__name__ for module in model.modules()},
        "loss": result.loss,
        "tokens": result.tokens,
        "sharded": processes.is_sharded(result.loaded.model),
    }


def outcome(trainer: HardeningTrainer, model: torch.nn.Module) -> dict[str, Any]:
    return {
        "weights": weights(model),
        "types": {type(module).__name__ for module in model.modules()},
        "history": trainer.history,
        "tokens": trainer.state.num_input_tokens_seen,
    }


@dataclass(frozen=True)
class Troubled:
    """A defense to which something happens at the end of its second step, in the second process alone."""

    defense: SDD
    trouble: Callable[[], Metrics]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.defense, name)

    def start(self, model: Any) -> Step:
        step, numbers = self.defense.start(model), iter(range(self.defense.max_steps))

        def troubled(draw: Draw) -> Metrics:
            metrics = step(draw)
            return metrics | self.trouble() if next(numbers) == 1 and processes.rank() == 1 else metrics

        return troubled


def press_control_c() -> Metrics:
    os.kill(os.getpid(), signal.SIGINT)
    return {}


def be_infinite() -> Metrics:
    return {"loss": math.inf}


class Scenarios:
    """What each process goes through, in the order of the methods."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh(self, *, tied: bool = True) -> LoadedModel:
        return copied(torch.load(self.folder / "tiny.pt", weights_only=False), tied=tied)

    def sums(self) -> Any:
        return processes.count(), processes.rank(), processes.total(0.5 + processes.rank())

    def means(self) -> Any:
        tensors = [torch.full((2,), 1.0 + processes.rank()), torch.tensor(3.0 * processes.rank(), requires_grad=True)]
        processes.average(iter(tensors))
        return [tensor.detach() for tensor in tensors]

    def mean_of_shards(self) -> Any:
        layer = fully_shard(torch.nn.Linear(1, 2, bias=False))
        layer(torch.full((1, 1), 1.0 + processes.rank())).sum().backward()
        processes.average([layer.weight.grad])
        return layer.weight.grad.full_tensor()

    def progress(self) -> Any:
        told: list[Progress] = []
        with listening(told.append), ProgressBar("hardening").showing():
            pass
        return [progress.title for progress in told]

    def replicas(self) -> Any:
        loaded = self.fresh()
        trainer = hardened(HALF, loaded, self.folder / "replicas")
        return outcome(trainer, processes.whole(loaded.model)) | {"wrapped": trainer.model_wrapped is not loaded.model}

    def adapters(self) -> Any:
        loaded = self.fresh()
        objective = dataclasses.replace(HALF, **LORA)
        return outcome(hardened(objective, loaded, self.folder / "adapters"), loaded.model)

    def infinity(self) -> Any:
        loaded = self.fresh()
        with pytest.raises(NonFiniteError) as caught:
            hardened(Troubled(HALF, be_infinite), loaded, self.folder / "infinity")
        return str(caught.value)

    def resumed(self) -> Any:
        return self._resumed(HALF, "resumed")

    def exact_replicas(self) -> Any:
        loaded = self.fresh()
        exact = dataclasses.replace(HALF_SELF_DESTRUCT, gradient="exact")
        return outcome(hardened(exact, loaded, self.folder / "exact replicas"), loaded.model)

    def hessian_free_replicas(self) -> Any:
        loaded = self.fresh()
        return outcome(hardened(HALF_SELF_DESTRUCT, loaded, self.folder / "free replicas"), loaded.model)

    def tuned_replicas(self) -> Any:
        return tuning(tuned(self.fresh(), HALF_TUNING))

    def tuned_replicas_with_adapters(self) -> Any:
        return tuning(tuned(self.fresh(), dataclasses.replace(HALF_TUNING, lora=True), self.folder / "adapter"))

    def attack(self) -> Any:
        half = dataclasses.replace(ATTACK, per_device_train_batch_size=2)
        return stage.attack(half, ModelSettings(model="potionworld"), self.folder / "attack").output_hash

    def stage(self) -> Any:
        record = stage.defend(HALF, ModelSettings(model="potionworld"), self.folder / "stage")
        return record.output_hash, stage.defend(
            HALF, ModelSettings(model="potionworld"), self.folder / "stage"
        ) == record

    def shards(self) -> Any:
        os.environ.update(SHARDED)
        accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        loaded = self.fresh()
        trainer = hardened(HALF, loaded, self.folder / "shards")
        model = processes.whole(loaded.model)
        if processes.rank() == 0:
            model.save_pretrained(self.folder / "saved")
        sharded = all(isinstance(parameter, DTensor) for parameter in loaded.model.parameters())
        return outcome(trainer, model) | {"sharded": sharded}

    def shards_with_adapters(self) -> Any:
        loaded = self.fresh()
        objective = dataclasses.replace(HALF, **LORA)
        trainer = hardened(objective, loaded, self.folder / "shards with adapters")
        return outcome(trainer, processes.whole(loaded.model))

    def hessian_free_shards(self) -> Any:
        loaded = self.fresh()
        trainer = hardened(HALF_SELF_DESTRUCT, loaded, self.folder / "free shards")
        return outcome(trainer, processes.whole(loaded.model))

    def some_layers_of_shards(self) -> Any:
        loaded = self.fresh()
        some = dataclasses.replace(HALF_SELF_DESTRUCT, unlearning_layers=2)
        return outcome(hardened(some, loaded, self.folder / "some layers"), processes.whole(loaded.model))

    def exact_shards(self) -> Any:
        exact = dataclasses.replace(HALF_SELF_DESTRUCT, gradient="exact")
        with pytest.raises(UsageError) as caught:
            hardened(exact, self.fresh(), self.folder / "exact shards")
        return str(caught.value)

    def tuned_shards(self) -> Any:
        return tuning(tuned(self.fresh(), HALF_TUNING))

    def tuned_shards_of_untied_weights(self) -> Any:
        return tuning(tuned(self.fresh(tied=False), HALF_TUNING))

    def tuned_shards_with_adapters(self) -> Any:
        lora = dataclasses.replace(HALF_TUNING, lora=True)
        return tuning(tuned(self.fresh(), lora, self.folder / "adapter of shards"))

    def tuned_shards_in_half_precision(self) -> Any:
        loaded = self.fresh()
        loaded.model.to(torch.bfloat16)
        return tuning(tuned(loaded, dataclasses.replace(HALF_TUNING, lora=True, bf16=True)))

    def attack_of_shards(self) -> Any:
        half = dataclasses.replace(ATTACK, per_device_train_batch_size=2)
        return stage.attack(half, ModelSettings(model="potionworld"), self.folder / "attack of shards").output_hash

    def stage_of_shards(self) -> Any:
        return stage.defend(HALF, ModelSettings(model="potionworld"), self.folder / "stage of shards").output_hash

    def shards_resumed(self) -> Any:
        return self._resumed(HALF, "shards resumed")

    def shards_seen(self) -> Any:
        """Whether a defense, when it starts, sees the shards of the model that it was given, also when resumed."""
        given, seen = self.fresh(), []

        class Seeing(Troubled):
            def start(self, model: Any) -> Step:
                embedding = model.get_input_embeddings().weight
                whole = embedding.full_tensor() if isinstance(embedding, DTensor) else torch.zeros(1)
                seen.append(torch.equal(whole, given.model.get_input_embeddings().weight))
                return super().start(model)

        hardened(Seeing(HALF, dict), self.fresh(), self.folder / "shards seen", resume=False)
        hardened(Seeing(HALF, dict), self.fresh(), self.folder / "shards seen", resume=True)
        return seen

    def first_version(self) -> Any:
        os.environ.update(FSDP_VERSION="1", FSDP_CPU_RAM_EFFICIENT_LOADING="false")
        with pytest.raises(UsageError) as caught:
            hardened(HALF, self.fresh(), self.folder / "first version")
        with pytest.raises(UsageError) as caught_too:
            tuned(self.fresh(), HALF_TUNING)
        return str(caught.value), str(caught_too.value)

    def _resumed(self, objective: SDD, name: str) -> Any:
        with pytest.raises(KeyboardInterrupt):
            hardened(Troubled(objective, press_control_c), self.fresh(), self.folder / name)
        loaded = self.fresh()
        return outcome(hardened(objective, loaded, self.folder / name, resume=True), processes.whole(loaded.model))


def go_through(folder: Path) -> None:
    """What a process does: joins the other, as its launcher's environment says, and goes through all scenarios."""
    processes.join("cpu")
    scenarios = Scenarios(folder)
    names = [name for name in vars(Scenarios) if not name.startswith("_") and name != "fresh"]
    torch.save({name: getattr(scenarios, name)() for name in names}, folder / f"brought by {processes.rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    go_through(Path(sys.argv[1]))
