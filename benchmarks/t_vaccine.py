"""Peak memory of T-Vaccine against Vaccine: all tensors that are made while a model is hardened, its weights left out.

Layers are drawn again in each step, so that what is not dropped of those that left would show. Tensors are counted as
PyTorch makes them, on the CPU; what a kernel needs for itself is not.
"""

from __future__ import annotations

import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rupert.data.examples import Example
from rupert.defenses import TVaccine, Vaccine
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training.objective import Gathered
from rupert.training.trainer import harden

HIGHEST_SHARE = {"all weights": 0.6, "LoRA": 1.0}  # of Vaccine's peak, for 8 of SmolLM2's 30 layers
STEPS = 3  # the states of the optimizer are there from the second on, those of layers that left from the third
MIB = 2**20


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are made within, as long as they are there; `most` is the peak."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._seen = {id(p.untyped_storage()): p.untyped_storage() for p in model.parameters()}
        self._made: dict[int, weakref.ref[UntypedStorage]] = {}
        self._now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen or key in self._made:
            return

        def forget(_: weakref.ref[UntypedStorage]) -> None:
            del self._made[key]
            self._now -= size

        self._made[key] = weakref.ref(storage, forget)
        self._now += size
        self.most = max(self.most, self._now)


def main() -> None:
    """Run both in both ways, print the table, and exit with 1 where T-Vaccine takes more than it may."""
    parser = options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=4, help="of one pass")
    parser.add_argument("--length", type=int, default=128, help="tokens of each row")
    parser.add_argument("--layers", type=int, default=8, help="that T-Vaccine trains at a time")
    begun = begin("t_vaccine", parser)
    arguments = begun.arguments
    sizes = {"per_device_train_batch_size": arguments.rows, "max_length": arguments.length, "max_steps": STEPS}
    targeted = {"trained_layers": arguments.layers, "draw_steps": 1, "harmful_batches": 1}
    loaded = load(ModelSettings(model=arguments.model))
    table = Table(title=f"peak of tensors in MiB beside the weights: {arguments.model}")
    for name in ("trained", "Vaccine", "T-Vaccine", "share", "seconds"):
        table.add_column(name, justify="left" if name == "trained" else "right")
    results: list[dict[str, Any]] = []
    started = time.perf_counter()
    for trained, lora in (("all weights", False), ("LoRA", True)):
        whole = measured(Vaccine(lora=lora, **sizes), loaded)
        few = measured(TVaccine(lora=lora, **sizes, **targeted), loaded)
        seconds, started = time.perf_counter() - started, time.perf_counter()
        results.append({"trained": trained, "vaccine": whole, "t_vaccine": few, "share": few / whole})
        table.add_row(trained, f"{whole / MIB:,.0f}", f"{few / MIB:,.0f}", f"{few / whole:.2f}", f"{seconds:.0f}")
    Console().print(table)
    figures = [
        Figure(
            what=f"peak memory over Vaccine's, {result['trained']}",
            value=result["share"],
            unit="times",
            at_most=HIGHEST_SHARE[result["trained"]],
        )
        for result in results
    ]
    raise SystemExit(begun.end(results, figures))


def measured(defense: Vaccine | TVaccine, loaded: LoadedModel) -> int:
    """The peak in bytes while it hardens the model on rows that fill their length."""
    rows = defense.per_device_train_batch_size
    examples = [Example(f"Count on from {n}.", "one two three " * defense.max_length) for n in range(STEPS * rows)]
    with tempfile.TemporaryDirectory() as folder, Peak(loaded.model) as peak:
        gathered = Gathered(dict.fromkeys(defense.streams, examples))
        harden(defense, loaded, gathered, Path(folder), title="measuring", save_steps=100 * STEPS)
    return peak.most


if __name__ == "__main__":
    main()
