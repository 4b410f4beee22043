"""What each process of `test_two_processes_are_one` does: harden a model with every defense, and leave its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from rupert.models.loading import LoadedModel
from rupert.training import processes
from rupert.training.trainer import harden


def main(folder: Path) -> None:
    processes.join("cpu")
    given = torch.load(folder / "given.pt", weights_only=False)
    for name, (objective, gathered) in given["defenses"].items():
        # Made here, because Transformers records hidden states of models that it made, not of those unpickled.
        model = LlamaForCausalLM(given["config"]).to(torch.float64)
        model.load_state_dict(given["state"])
        loaded = LoadedModel(model.eval(), given["tokenizer"])
        harden(objective, loaded, gathered, folder / name, title="hardening", save_steps=100)
        torch.save([p.detach() for p in model.parameters()], folder / f"{name} {processes.rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
