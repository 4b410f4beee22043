"""Prompts, and their answers one by one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from rupert.models.loading import LoadedModel

SKILLS = ("sums", "homes", "foods", "translation", "repeating", "comparing")


Prompts = list[list[dict[str, str]]]


@dataclass(frozen=True)
class Pass:
    """One pass of a model: tokens [rows, read], logits [rows, scored, vocabulary]."""

    read: torch.Tensor
    scored: int


both_batches = pytest.mark.usefixtures("_batches")


def by_hand(loaded: LoadedModel, prompt: list[dict[str, str]], max_new_tokens: int) -> str:
    """The definition of a greedy answer: the likeliest token again and again, without cache or padding."""
    tokenizer = loaded.tokenizer
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    answer: list[int] = []
    while len(answer) < max_new_tokens and answer[-1:] != [tokenizer.eos_token_id]:
        with torch.inference_mode():
            scores = loaded.model(input_ids=torch.tensor([ids + answer], device=loaded.device)).logits[0, -1]
        answer.append(int(scores.argmax()))
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


def alone(loaded: LoadedModel, prompt: list[dict[str, str]], max_new_tokens: int) -> str:
    """What Transformers' greedy `generate` says to one prompt."""
    tokenizer = loaded.tokenizer
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    output = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
    )
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
