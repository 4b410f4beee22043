"""Random mapping: the hidden states of harmful text become random vectors; what TAR starts from.

Tamirisa et al., "Tamper-Resistant Safeguards for Open-Weight LLMs", ICLR 2025, arXiv 2408.00761.

With h_k(t) hidden state k (the embedding's output, and that of every layer) at token t of harmful text, v(t) a random
vector for the word at t, drawn once and the same for all k, and ℓ(B) the mean cross entropy of benign answers:

    gradient of a step = λ_r ∇ℓ(B) + λ_m ∇ mean over tokens t and states k of (1 - |cos(h_k(t), v(t))|)

Work of a step: one forward and one backward pass over each row. The vectors, as large as the embedding in float32, stay
in main memory. The published code maps padding too; here it does not count. Its outer optimizer is a schedule-free
AdamW, here AdamW with the same warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import IGNORED
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training import processes
from rupert.training.gradients import backward_answer_cross_entropy, mean_loss, micro_batches
from rupert.training.losses import answer_states, to_device
from rupert.training.objective import Batch, Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import Scheduler, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RandomMapping(TrainingSettings):
    """Random mapping of harmful hidden states (Tamirisa et al., ICLR 2025), the stage before TAR.

    The defaults are those of the published code (modules/baselines.py), but for the data, which are SEAM's. `mapped`
    "answer" and the weights are ours; it maps whole texts, and adds both losses as they are.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    benign: str = setting("alpaca-cleaned", "dataset of benign pairs")
    mapped: Literal["all", "answer"] = setting(
        "all", "tokens of harmful text that are mapped; answer: not the request's"
    )
    mapping_weight: float = setting(1.0, "weight of the mapping loss")
    retain_weight: float = setting(1.0, "weight of the loss on benign pairs")
    max_steps: int = setting(1000, "optimizer steps")
    learning_rate: float = setting(1e-5, "peak learning rate")
    lr_scheduler_type: Scheduler = setting("constant_with_warmup", "course of the learning rate")
    warmup_steps: float = setting(100.0, "steps of linear warm-up; below 1: share of all steps")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps")
        check_not_negative(self, "mapping_weight", "retain_weight")

    @property
    def streams(self) -> Mapping[str, int]:
        """Harmful and benign rows."""
        return {"harmful": self.batch_size, "benign": self.batch_size}

    @property
    def cost(self) -> Cost:
        """One forward and one backward pass over each row, and nothing beside the gradient."""
        return Cost(passes=2 * self.batch_size)

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers, and benign pairs."""
        return {"harmful": self.harmful, "benign": self.benign}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        return Gathered(sources.load_enough(self.datasets, self.streams))

    def start(self, model: PreTrainedModel) -> Step:
        """Draw the vectors, by the seed, so that a resumed training has the same."""
        config = model.config.get_text_config()
        generator = torch.Generator().manual_seed(self.seed)
        vectors = torch.randn(config.vocab_size, config.hidden_size, generator=generator)
        rows = self.per_device_train_batch_size

        def step(draw: Draw) -> Metrics:
            mapping = self._map(model, draw("harmful"), vectors)
            benign = draw("benign")
            retained = backward_answer_cross_entropy(model, [benign], micro_batch_size=rows, weight=self.retain_weight)
            loss = self.mapping_weight * mapping + self.retain_weight * retained
            return {"loss": loss, "mapping": mapping, "retain": retained}

        return step

    def _map(self, model: PreTrainedModel, batch: Batch, vectors: Tensor) -> float:
        """Add the gradient of the mapping loss; returns it without the weight."""
        share, total = processes.count() / processes.total(float(self._chosen(batch).sum())), 0.0
        for piece in micro_batches(batch, self.per_device_train_batch_size):
            chosen = self._chosen(piece)
            states = answer_states(model, to_device(piece, model.device)).hidden
            loss = mapping_loss(states, vectors[piece["input_ids"][chosen]], chosen) * share
            torch.autograd.backward(loss * self.mapping_weight)
            total += float(loss.detach())
        return mean_loss(total)

    def _chosen(self, batch: Batch) -> Tensor:
        """[rows, length], true at the tokens that are mapped."""
        return batch["attention_mask"].bool() if self.mapped == "all" else batch["labels"] != IGNORED


def mapping_loss(states: tuple[Tensor, ...], vectors: Tensor, chosen: Tensor) -> Tensor:
    """Mean over hidden states of 1 - |cos|, summed over tokens; a scalar, at least in float32.

    Args:
        states: [rows, length, width] each.
        vectors: [tokens, width], what the chosen tokens' states are to point along.
        chosen: [rows, length], true at the tokens that count.
    """
    parts = []
    for state in states:
        found = state[chosen.to(state.device)]
        precise = found.to(torch.promote_types(found.dtype, torch.float32))
        cosines = functional.cosine_similarity(precise, vectors.to(precise), dim=-1)
        parts.append((1 - cosines.abs()).sum().to(states[0].device))
    return torch.stack(parts).mean()
