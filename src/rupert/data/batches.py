"""From examples to token batches: chat template, labels on the answer only, least padding, seeded order."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rupert.data.examples import Example
from rupert.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross entropy leaves out


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation as token ids, and the same ids as labels with the prompt ignored."""

    input_ids: list[int]
    labels: list[int]


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Apply the tokenizer's chat template and cut at `max_length` tokens.

    The answer starts where the whole conversation's ids first differ from those of the prompt with the template's
    opening of an answer; that holds also for templates that write the two a little differently.
    """
    return _encode([example], tokenizer, max_length)[0]


def _encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    if not examples:
        return []
    prompts = _template(tokenizer, [example.prompt for example in examples], add_generation_prompt=True)
    wholes = _template(
        tokenizer, [[*example.prompt, *example.completion] for example in examples], add_generation_prompt=False
    )
    return [_cut(prompt, whole, max_length) for prompt, whole in zip(prompts, wholes, strict=True)]


def _cut(prompt: Sequence[int], whole: list[int], max_length: int) -> Encoded:
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return Encoded(whole[:max_length], ([IGNORED] * start + whole[start:])[:max_length])


def encode_all(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, name: str
) -> list[Encoded]:
    """Encode examples; those whose prompt alone fills `max_length` teach nothing and are left out.

    Raises:
        DataError: nothing is left.
    """
    encoded = _encode(examples, tokenizer, max_length)
    kept = [item for item in encoded if any(label != IGNORED for label in item.labels)]
    if not kept:
        raise DataError(f"{name}: no example has room for an answer within max_length={max_length}; raise it")
    return kept


def collate(rows: Sequence[Encoded], pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    Returns:
        input_ids, attention_mask and labels, each [rows, longest].
    """
    import torch

    longest = max(len(row.input_ids) for row in rows)
    gaps = [longest - len(row.input_ids) for row in rows]
    return {
        "input_ids": torch.tensor([r.input_ids + [pad_token_id] * g for r, g in zip(rows, gaps, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(r.input_ids) + [0] * g for r, g in zip(rows, gaps, strict=True)]),
        "labels": torch.tensor([r.labels + [IGNORED] * g for r, g in zip(rows, gaps, strict=True)]),
    }


@dataclass(frozen=True)
class Stream:
    """An endless, seeded sequence of batches: every row once an epoch, each epoch in its own order.

    A batch is a function of the step alone, so that a resumed run draws what the interrupted one would have drawn.

    Attributes:
        name: part of the seed, so that two streams over the same rows are ordered differently.
        rows: encoded examples.
        batch_size: rows a step.
        pad_token_id: fills the rows that are shorter than the longest of their batch.
        seed: of the order.
    """

    name: str
    rows: Sequence[Encoded]
    batch_size: int
    pad_token_id: int
    seed: int

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """The batch of an optimizer step, counted from 0."""
        first = step * self.batch_size
        return collate([self._row(position) for position in range(first, first + self.batch_size)], self.pad_token_id)

    def _row(self, position: int) -> Encoded:
        epoch, place = divmod(position, len(self.rows))
        return self.rows[permutation(len(self.rows), f"{self.name} {self.seed} {epoch}")[place]]


@functools.lru_cache(maxsize=16)
def permutation(count: int, key: str) -> tuple[int, ...]:
    """The numbers below `count` in an order that is the same on every machine."""
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return tuple(np.random.default_rng(seed).permutation(count).tolist())


def _template(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Any]], *, add_generation_prompt: bool
) -> list[list[int]]:
    ids: list[list[int]] = tokenizer.apply_chat_template(
        [list(messages) for messages in conversations], add_generation_prompt=add_generation_prompt, return_dict=False
    )
    return ids
