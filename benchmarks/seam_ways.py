"""The ways to take a step of SEAM, each timed in a process of its own, which leaves its gradient in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matrix_work import Rates, Size, Tokens, Work, counted_flops, measure_rates, published_flops, rupert_flops
from measuring import now, peak, reset_peak
from published_seam import leave_gradient, leave_self_destruction
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from rupert.data import sources
from rupert.data.batches import IGNORED, Encoded, collate, encode
from rupert.data.examples import Example
from rupert.defenses import SEAM
from rupert.models.chat_templates import DEFAULT_CHAT_TEMPLATE
from rupert.models.loading import LoadedModel, ModelSettings, is_potionworld, load

Batch = Mapping[str, Tensor]  # input_ids, attention_mask, labels: each [rows, length]
Step = Callable[[], object]  # leaves a gradient in p.grad

STREAMS = {"harmful": "stand-ins:defender", "alignment": "stand-ins:refusals", "benign": "pairs:train"}
POTIONWORLD_STREAMS = {
    "harmful": "potionworld:defender",
    "alignment": "potionworld:refusals",
    "benign": "potionworld:benign",
}
# Of a batch's tokens, what its shortest to its longest row has: the means over random fours of the embedded pairs.
ROWS = (0.205, 0.228, 0.255, 0.312)
ALPHA, BETA = 1.0, 0.01  # the paper's
PUBLISHED, EXACT, HESSIAN_FREE, FEW_LAYERS = "published", "exact", "hessian-free", "exact, 4 layers"
UNLEARNING_LAYERS = 4
SETTINGS: dict[str, dict[str, Any]] = {  # of rupert.defenses.SEAM; the published way is none of its
    EXACT: {"gradient": "exact"},
    HESSIAN_FREE: {"gradient": "hessian_free"},
    FEW_LAYERS: {"gradient": "exact", "unlearning_layers": UNLEARNING_LAYERS},
}
WAYS = (PUBLISHED, *SETTINGS)
# With SmolLM2's 31 hidden states it draws the 13th, 14th, 15th and 25th: four heads, and a deepest state close to the
# mean over draws (24.6), which is what the work is counted for.
SEED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every process is told.

    Attributes:
        settings: the model.
        tokens: of the harmful, the alignment and the benign batch.
        max_length: what the published way pads to.
        repeats: timed steps.
        check_flops: run another step under PyTorch's counter.
    """

    settings: ModelSettings
    tokens: tuple[int, int, int]
    max_length: int
    repeats: int
    check_flops: bool

    @property
    def has_targets(self) -> bool:
        """Whether targets are made for it: float32 on a CPU, and a model whose work is mostly matrix products."""
        return self.settings.dtype == "float32" and not self.on_cuda and not is_potionworld(self.settings)

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on a GPU of NVIDIA's."""
        return self.settings.device.startswith("cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one way's process found. Memory is in bytes: on a CPU the process's, on a GPU that of PyTorch's allocator.

    Attributes:
        seconds: of each timed step.
        memory_before: when the model was loaded and the batches made.
        memory: the peak within the timed steps.
        memory_reserved: on a GPU, the peak of what the allocator held; 0 on a CPU.
        work: counted from the model's configuration, without padding where the way can do without.
        padded_work: the same with the batches' rows padded to their longest, as they are given to the model.
        counted_flops: by PyTorch, padding included; None where it was not asked for.
        tokens: of the step's three batches, without padding.
    """

    seconds: tuple[float, ...]
    memory_before: int
    memory: int
    memory_reserved: int
    work: Work
    padded_work: Work
    counted_flops: float | None
    tokens: int


def find_rates(task: Task) -> Rates:
    """The machine's matrix rates, for the products of the harmful batch."""
    loaded = load(task.settings)
    tokens = _tokens(_batches(loaded, task)["harmful"])
    like = next(loaded.model.parameters()).detach()
    return measure_rates(Size.of(loaded.model.config), sum(tokens.rows), tokens.answers, like)


def run_way(task: Task, way: str, folder: Path, name: str) -> Run:
    """Time one way, and leave its gradient and its ∇L_sd in `folder` under `name`."""
    loaded = load(task.settings)
    model = loaded.model.train()
    batches = _batches(loaded, task)
    step, self_destruction = _steps(way, loaded, batches, task)
    if task.on_cuda:
        _timed(step, model)  # kernels are chosen in the first step
    model.zero_grad(set_to_none=True)
    reset_peak(task.settings.device)
    before = peak(task.settings.device)
    seconds = tuple(_timed(step, model) for _ in range(task.repeats))
    most = peak(task.settings.device)
    reserved = torch.cuda.max_memory_reserved() if task.on_cuda else 0
    whole_file, self_destruction_file = gradient_files(folder, name)
    _save_gradient(model, whole_file)
    _timed(self_destruction, model)
    _save_gradient(model, self_destruction_file)
    model.zero_grad(set_to_none=True)
    size, tokens = Size.of(model.config), {stream: _tokens(batch) for stream, batch in batches.items()}
    padded = {stream: replace(batch, rows=(max(batch.rows),) * len(batch.rows)) for stream, batch in tokens.items()}
    return Run(
        seconds=seconds,
        memory_before=before,
        memory=most,
        memory_reserved=reserved,
        work=_work(way, size, tokens, task.max_length),
        padded_work=_work(way, size, padded, task.max_length),
        counted_flops=counted_flops(step) if task.check_flops else None,
        tokens=sum(sum(batch.rows) for batch in tokens.values()),
    )


def gradient_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Where a way's gradient lies, and its ∇L_sd alone."""
    return folder / f"{name}.safetensors", folder / f"{name}.self-destruction.safetensors"


def _steps(way: str, loaded: LoadedModel, batches: Mapping[str, Batch], task: Task) -> tuple[Step, Step]:
    """The step of a way, and one that leaves ∇L_sd alone."""
    model = loaded.model
    if way == PUBLISHED:
        padded = {stream: _padded(batch, task.max_length, loaded) for stream, batch in batches.items()}
        return (
            lambda: leave_gradient(model, padded, alpha=ALPHA, beta=BETA),
            lambda: leave_self_destruction(model, padded),
        )
    seam = SEAM(max_length=task.max_length, alpha=ALPHA, beta=BETA, **SETTINGS[way])
    step = seam.start(model)
    alone = replace(seam, alpha=0.0, beta=1.0, unlearning_weight=0.0).start(model)
    return lambda: step(batches.__getitem__), lambda: alone(batches.__getitem__)


def _work(way: str, size: Size, tokens: Mapping[str, Tokens], max_length: int) -> Work:
    if way == PUBLISHED:
        return published_flops(size, tokens, max_length)
    settings = SETTINGS[way]
    return rupert_flops(
        size, tokens, exact=settings["gradient"] == "exact", unlearning_layers=settings.get("unlearning_layers")
    )


def _timed(step: Step, model: nn.Module) -> float:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(SEED)  # every step draws the same layers
    device = next(model.parameters()).device
    start = now(device)
    step()
    return now(device) - start


def _save_gradient(model: nn.Module, path: Path) -> None:
    save_file({name: p.grad.float().contiguous() for name, p in model.named_parameters() if p.grad is not None}, path)


def _batches(loaded: LoadedModel, task: Task) -> dict[str, Batch]:
    """Four rows of each stream, with the tokens that are asked for."""
    streams, tokenizer = POTIONWORLD_STREAMS, loaded.tokenizer
    if not is_potionworld(task.settings):
        # SmolLM2's own template opens with 22 tokens of instructions, and the refusals have 28 in all.
        streams, tokenizer.chat_template = STREAMS, DEFAULT_CHAT_TEMPLATE
    return {
        stream: collate(_rows(sources.load(spec), tokenizer, tokens), tokenizer.pad_token_id)
        for (stream, spec), tokens in zip(streams.items(), task.tokens, strict=True)
    }


def _rows(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[Encoded]:
    """Rows of `tokens` tokens in sum; answers are joined until they are long enough, and cut."""
    lengths = [round(tokens * share) for share in ROWS[:-1]]
    remaining, rows = iter(examples), []
    for length in (*lengths, tokens - sum(lengths)):
        example = next(remaining)
        while len(encode(example, tokenizer, length).input_ids) < length:
            example = replace(example, answer=f"{example.answer} {next(remaining).answer}")
        rows.append(encode(example, tokenizer, length))
    return rows


def _padded(batch: Batch, length: int, loaded: LoadedModel) -> Batch:
    fill = {"input_ids": loaded.tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
    gap = length - batch["input_ids"].shape[1]
    return {name: functional.pad(batch[name], (0, gap), value=fill[name]).to(loaded.device) for name in fill}


def _tokens(batch: Batch) -> Tokens:
    return Tokens(tuple(batch["attention_mask"].sum(dim=1).tolist()), int((batch["labels"][:, 1:] != IGNORED).sum()))
