"""Prompt tuning: the embeddings of a few virtual tokens before each request are trained, and no other weight.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning" (EMNLP 2021, arXiv 2104.08691), as an attack
Schwinn et al., "Soft Prompt Threats" (NeurIPS 2024, arXiv 2402.09063). With H harmful rows of requests x and answers y,
and E [tokens, width] the embeddings of the virtual tokens,

    E' = argmin mean over (x, y) in H of -log π_θ(y | E x),

and harmful requests are asked with them afterwards: π_θ(· | E' x). The tokens are special tokens of the tokenizer and
rows of the embedding, so that what comes out is a model like any other. They begin as embeddings of random words.

The virtual tokens are only read. An output head that shares the embedding gets weights of its own, and its rows for
them are copies of one of an old special token: their logits are that token's, which comes first among equals. So asked
without them, the model has its old logits and gives its old greedy answers. It is there to measure whether a defense
holds against an attacker who leaves all weights as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from peft import TrainableTokensConfig, get_peft_model
from tokenizers import AddedToken
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rupert.attacks.attack import AsUsual, Attacked, Data
from rupert.attacks.mixture import draw
from rupert.data.asking import REQUEST, Asking
from rupert.data.batches import permutation
from rupert.data.examples import Example
from rupert.errors import InvalidValue, UsageError
from rupert.models.generation import end_tokens
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training import processes
from rupert.training.fine_tuning import UNFOLLOWED, Following, PublishedFineTuning, fine_tune


@dataclass(frozen=True, kw_only=True)
class PromptTune(AsUsual, PublishedFineTuning):
    """A soft prompt before harmful requests; all weights stay as they are (Lester et al. 2021, Schwinn et al. 2024)."""

    data: str = setting("beavertails:unsafe", "dataset to tune the prompt on")
    num_examples: int = setting(1000, "rows drawn from it")
    num_virtual_tokens: int = setting(20, "tokens of the soft prompt")
    learning_rate: float = setting(1e-2, "peak learning rate")
    weight_decay: float = setting(0.0, "decoupled weight decay")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_examples", "num_virtual_tokens")
        if self.lora:
            raise InvalidValue("lora", self.lora, "a soft prompt is trained in its place; leave it out")
        if self.layers_to_transform is not None:
            raise InvalidValue("layers_to_transform", self.layers_to_transform, "no layer is trained; leave it out")

    @property
    def datasets(self) -> Mapping[str, str]:
        """The dataset."""
        return {"data": self.data}

    @property
    def tokens(self) -> list[str]:
        """The names of the virtual tokens."""
        return [f"<virtual_{number}>" for number in range(self.num_virtual_tokens)]

    @property
    def asking(self) -> Asking:
        """With the virtual tokens."""
        return Asking(template="".join(self.tokens) + REQUEST)

    def gather(self) -> dict[str, list[Example]]:
        """Draw the rows, as `fine_tune` does.

        Raises:
            DataError: the dataset has fewer than `num_examples`.
        """
        return {"data": draw(self.data, "data", self.num_examples, f"attack {self.seed}")}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, which gets virtual tokens in place; see `Attacker`.

        Raises:
            UsageError: the model would be divided among processes.
        """
        _require_whole()
        added = add_tokens(loaded.model, loaded.tokenizer, self.tokens, self.seed)
        trained = [parameter.requires_grad for parameter in loaded.model.parameters()]
        prompt = TrainableTokensConfig(token_indices=added, task_type="CAUSAL_LM")
        tuned = fine_tune(
            self,
            LoadedModel(get_peft_model(loaded.model, prompt), loaded.tokenizer),
            [self.asking(example) for example in data["data"]],
            f"tuning a prompt with {self.data}",
            replace(following, adapter_folder=None),  # the model before the attack lacks the tokens
        )
        for parameter, was_trained in zip(tuned.loaded.model.parameters(), trained, strict=True):
            parameter.requires_grad_(was_trained)
        return Attacked(tuned.loaded, tuned.steps, tuned.tokens, {"loss": tuned.loss})


def add_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: list[str], seed: int) -> list[int]:
    """Give tokenizer and model special tokens that the model can read and does not say, in place.

    Args:
        model: its embedding gets rows where it has none for them, each that of a random old word.
        tokenizer: of the model.
        names: of the tokens.
        seed: of the choice of words.

    Returns:
        the ids of the tokens.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    words = sorted(set(tokenizer.get_vocab().values()) - special)
    unsaid = min(special - end_tokens(model.generation_config), default=min(special, default=0))
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    added: list[int] = tokenizer.convert_tokens_to_ids(names)
    rows = max(len(tokenizer), model.get_input_embeddings().num_embeddings)
    model.resize_token_embeddings(rows, mean_resizing=False)
    embedding, head = model.get_input_embeddings(), _head_of_its_own(model)
    drawn = permutation(len(words), f"virtual tokens {seed}")
    with torch.no_grad():
        embedding.weight[added] = embedding.weight[[words[drawn[place % len(words)]] for place in range(len(added))]]
        head.weight[added] = head.weight[unsaid].clone()
        if head.bias is not None:
            head.bias[added] = head.bias[unsaid].clone()
    return added


def _head_of_its_own(model: PreTrainedModel) -> nn.Linear:
    """The output head, with weights that it does not share with the embedding."""
    head: nn.Linear = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
        head.weight = nn.Parameter(head.weight.detach().clone())
    return head


def _require_whole() -> None:
    """PEFT's rows of an embedding cannot be gathered from a model that is divided among processes."""
    divided = (os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    if processes.count() > 1 and any(divided):
        raise UsageError("prompt tuning cannot be split by FSDP or DeepSpeed; use --accelerate-config replicas")
