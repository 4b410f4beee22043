"""Answers to chat prompts, greedy or sampled, in batches that finished answers leave and waiting requests join."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from rupert.errors import DataError, RunError
from rupert.models.sampling import GREEDY, Sampling, sampled
from rupert.terminal import bar

Prompt = Sequence[Mapping[str, Any]]  # chat messages

# Rows times the longest row, padding included. A Llama of 7 B parameters keeps half a MiB a token in bfloat16: 8 GiB.
BATCH_TOKENS = 16_384
# Settings that leave greedy decoding as it is, or that both ways of decoding here give themselves. A model with any
# other, such as a repetition penalty, is decoded by Transformers, so that one unknown here still has its effect.
GREEDY_SETTINGS = {
    *("_from_model_config", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("decoder_start_token_id", "use_cache", "max_length", "max_new_tokens"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
PASSED = {"input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep"}  # to a model's forward


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[str]:
    """The greedy answers of `answers`, in the order of the prompts."""
    found = {}
    with bar("answering", len(prompts)) as shown:
        for index, text in answers(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size):
            found[index] = text
            shown.advance()
    return [found[index] for index in range(len(prompts))]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling = GREEDY,
) -> Iterator[tuple[int, str]]:
    """Answer each prompt; yield a prompt's index and its answer as soon as that is complete, in any order.

    In float32 a greedy answer is token for token that of Transformers' `generate` for the prompt alone, but that it
    ends where the model's positions do. A sampled one depends on its prompt and the seed. The longest prompts come
    first, so that what does not fit in memory shows at once; then the batch is halved, and its answers are begun again.

    Args:
        model: on its device; in evaluation mode until the iterator is exhausted or closed, then as it was.
        tokenizer: its chat template makes the prompts' text.
        prompts: chat messages, each ending in the user's.
        max_new_tokens: of each answer.
        batch_size: prompts at once, where `BATCH_TOKENS` allows as many.
        sampling: how the next token is chosen.

    Raises:
        DataError: a prompt leaves no room for an answer within the model's positions; before anything is generated.
        RunError: memory is not enough for a single prompt.
    """
    requests = encode(tokenizer, prompts, model.config, max_new_tokens)
    if sampling.temperature:
        for request in requests:
            request.draw(sampling)
    return _complete(model, tokenizer, requests, batch_size)


@dataclass(slots=True)
class Request:
    """A prompt on the way to its answer.

    Attributes:
        index: its place among the prompts.
        prompt: token ids.
        limit: how many tokens its answer may have.
        answer: token ids, as many as there are by now.
        temperature: of a sampled answer.
        draws: of a sampled answer, a number from 0 to 1 for each of its tokens; empty for a greedy one.
    """

    index: int
    prompt: list[int]
    limit: int
    answer: list[int] = field(default_factory=list)
    temperature: float = 0.0
    draws: list[float] = field(default_factory=list)

    def draw(self, sampling: Sampling) -> None:
        """Draw what decides its tokens beforehand, so that it is the same when it is begun again."""
        self.temperature, self.draws = sampling.temperature, sampling.draws(self.prompt, self.limit)

    def is_complete(self, ends: frozenset[int]) -> bool:
        """Whether the answer has ended or may have no more tokens."""
        return len(self.answer) == self.limit or self.answer[-1] in ends


def encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], config: PreTrainedConfig, max_new_tokens: int
) -> list[Request]:
    """The prompts as the chat template puts them, each with the limit that the model's positions leave to its answer.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    requests = []
    for index, prompt in enumerate(prompts):
        ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
        limit = min(max_new_tokens, positions - len(ids)) if positions else max_new_tokens
        if limit < 1:
            raise DataError(
                f"requests: number {index + 1} has {len(ids)} tokens, and the model has {positions} positions "
                "for it and its answer; shorten it or leave it out"
            )
        requests.append(Request(index, ids, limit))
    return requests


def decode(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int]) -> str:
    """An answer's text, without special tokens and white space around it."""
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def end_tokens(settings: GenerationConfig) -> frozenset[int]:
    """The token ids that end an answer."""
    ends = settings.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def is_plainly_greedy(settings: GenerationConfig) -> bool:
    """Whether the likeliest token is the next one: nothing in a model's generation settings changes its scores."""
    return set(settings.to_diff_dict()) <= GREEDY_SETTINGS


def _complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], batch_size: int
) -> Iterator[tuple[int, str]]:
    waiting = deque(sorted(requests, key=lambda request: len(request.prompt), reverse=True))
    batch = DynamicBatch(model, tokenizer) if _selects_rows(model) else WholeBatch(model, tokenizer)
    was_training = model.training
    model.eval()
    try:
        while waiting or batch.running:
            complete = _step(batch, waiting, batch_size)
            if complete is None:
                batch_size = _halve(batch, waiting)
                continue
            for request in complete:
                yield request.index, decode(tokenizer, request.answer)
    finally:
        model.train(was_training)


def _step(batch: DynamicBatch | WholeBatch, waiting: deque[Request], batch_size: int) -> list[Request] | None:
    """The batch's step; None where memory was not enough."""
    try:
        with torch.inference_mode():
            return batch.step(waiting, batch_size)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    return None  # only here is the error gone, and with it the tensors that its traceback holds


def _halve(batch: DynamicBatch | WholeBatch, waiting: deque[Request]) -> int:
    """Put what was running back to the front of those waiting; the size of the next batches."""
    if len(batch.running) == 1:
        (request,) = batch.running
        raise RunError(
            f"out of memory with a single request (number {request.index + 1}, {len(request.prompt)} tokens and "
            f"{request.limit} new ones at most); lower max_new_tokens, or choose a smaller dtype or another device"
        )
    for request in reversed(batch.running):
        request.answer.clear()
        waiting.appendleft(request)
    size = len(batch.running) // 2
    batch.clear()
    clear_device_cache(garbage_collection=True)
    return size


def _room(waiting: deque[Request], running: Sequence[Request], batch_size: int) -> int:
    """How many of those waiting may join those running; one may always that would be alone."""
    longest = max((len(request.prompt) + request.limit for request in running), default=0)
    rows = len(running)
    for request in islice(waiting, batch_size - len(running)):
        longest = max(longest, len(request.prompt) + request.limit)
        if rows and (rows + 1) * longest > BATCH_TOKENS:
            break
        rows += 1
    return rows - len(running)


def _selects_rows(model: PreTrainedModel) -> bool:
    """Whether rows can leave and join a model's batch, because its cache is plain keys and values of whole rows.

    A sliding window, a recurrent state, a cache that the generation settings name, or inputs that the model prepares
    itself are left to Transformers.
    """
    layers = DynamicCache(config=model.config).layers
    return (
        is_plainly_greedy(model.generation_config)
        and all(type(layer) is DynamicLayer for layer in layers)
        and getattr(type(model), "prepare_inputs_for_generation", None) is GenerationMixin.prepare_inputs_for_generation
        and set(inspect.signature(model.forward).parameters) >= PASSED
    )


class DynamicBatch:
    """A batch that each complete answer leaves at once, and that waiting requests join when a quarter of it is free.

    A quarter, because those running wait while the prompts of those that join are read. Every row ends at the right
    edge of the cache, so that its tokens, its padding and its positions follow from the length of its request.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.running: list[Request] = []
        self._model = model
        self._pad_token_id = tokenizer.pad_token_id
        self._ends = end_tokens(model.generation_config)
        self._cache: DynamicCache | None = None

    def step(self, waiting: deque[Request], batch_size: int) -> list[Request]:
        """One pass of the model: over the prompts of the requests that join, or else over one token of each row."""
        joining = _room(waiting, self.running, batch_size)
        if joining and (joining == len(waiting) or 4 * joining >= len(self.running) + joining):
            self._join([waiting.popleft() for _ in range(joining)])
        else:
            assert self._cache is not None
            self._read(self.running, [request.answer[-1:] for request in self.running], self._cache)
        complete = [request for request in self.running if request.is_complete(self._ends)]
        if complete:
            self._leave()
        return complete

    def clear(self) -> None:
        """Forget the running requests and their keys and values."""
        self.running = []
        self._cache = None

    def _join(self, requests: list[Request]) -> None:
        self.running = [*self.running, *requests]  # first, because reading them may need too much memory
        cache = DynamicCache(config=self._model.config)
        self._read(requests, [request.prompt for request in requests], cache)
        if self._cache is not None:
            width = max(self._cache.get_seq_length(), cache.get_seq_length())
            for mine, joining in zip(self._cache.layers, cache.layers, strict=True):
                joining.keys = torch.cat([_widen(mine.keys, width), _widen(joining.keys, width)])
                joining.values = torch.cat([_widen(mine.values, width), _widen(joining.values, width)])
        self._cache = cache

    def _leave(self) -> None:
        rows = [row for row, request in enumerate(self.running) if not request.is_complete(self._ends)]
        going_on = [self.running[row] for row in rows]
        if going_on and self._cache is not None:
            # An answer's last token was not read yet. What lies before the longest row is padding of all rows.
            width = max(len(request.prompt) + len(request.answer) - 1 for request in going_on)
            for layer in self._cache.layers:
                layer.keys, layer.values = _select(layer.keys, rows, width), _select(layer.values, rows, width)
        else:
            self._cache = None
        self.running = going_on  # last, because to select rows may need too much memory

    def _read(self, requests: Sequence[Request], tokens: Sequence[Sequence[int]], cache: DynamicCache) -> None:
        """Read the tokens that the cache lacks, and append to each answer the likeliest next one."""
        device = self._model.device
        places = _places([len(request.prompt) + len(request.answer) for request in requests])
        inputs = _pad_left(tokens, self._pad_token_id)
        logits = self._model(
            input_ids=inputs.to(device),
            attention_mask=(places >= 0).long().to(device),
            position_ids=places[:, -inputs.shape[1] :].clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        counts = [len(request.answer) for request in requests]
        for request, token in zip(requests, _choose(logits[:, -1], requests, counts).tolist(), strict=True):
            request.answer.append(token)


class WholeBatch:
    """A batch that Transformers' `generate` answers whole, so that it lasts as long as its longest answer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.running: list[Request] = []
        self._model = model
        self._tokenizer = tokenizer

    def step(self, waiting: deque[Request], batch_size: int) -> list[Request]:
        """Answer the next batch; its requests have one limit, because `generate` takes only one."""
        limit = waiting[0].limit
        fitting = islice(waiting, _room(waiting, [], batch_size))
        self.running = list(takewhile(lambda request: request.limit == limit, fitting))
        for _ in self.running:
            waiting.popleft()
        inputs = _pad_left([request.prompt for request in self.running], self._tokenizer.pad_token_id)
        places = _places([len(request.prompt) for request in self.running])
        output = self._model.generate(
            input_ids=inputs.to(self._model.device),
            attention_mask=(places >= 0).long().to(self._model.device),
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=False,
            pad_token_id=self._tokenizer.pad_token_id,
            tokenizer=self._tokenizer,  # it finds stop strings
            logits_processor=LogitsProcessorList(
                [_Drawn(self.running, inputs.shape[1])] if self.running[0].draws else []
            ),
        )
        for request, tokens in zip(self.running, output[:, inputs.shape[1] :].tolist(), strict=True):
            request.answer = tokens  # padding after the end is special tokens, which have no text
        complete = self.running
        self.clear()
        return complete

    def clear(self) -> None:
        """Forget the running requests."""
        self.running = []


class _Drawn(LogitsProcessor):
    """Leaves greedy decoding no token but the one that was drawn."""

    def __init__(self, requests: Sequence[Request], width: int) -> None:
        self._requests = requests
        self._width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores among which the likeliest is taken, [rows, words], from those of the model."""
        count = input_ids.shape[1] - self._width
        chosen = _choose(scores, self._requests, [count] * len(self._requests))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _choose(scores: Tensor, requests: Sequence[Request], counts: Sequence[int]) -> Tensor:
    """[rows], the next token of each request, from scores [rows, words] and how many tokens its answer has."""
    if not requests[0].draws:
        return scores.argmax(dim=-1)
    draws = [request.draws[count] for request, count in zip(requests, counts, strict=True)]
    return sampled(scores, torch.tensor(draws, device=scores.device), requests[0].temperature)


def _pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> Tensor:
    """[rows, longest], each row at the right edge."""
    longest = max(map(len, rows))
    return torch.tensor([[pad_token_id] * (longest - len(row)) + list(row) for row in rows])


def _places(lengths: Sequence[int]) -> Tensor:
    """[rows, longest], where a token stands in its row if that ends at the right edge; negative in its padding."""
    longest = max(lengths)
    return torch.arange(longest) - (longest - torch.tensor(lengths)[:, None])


def _widen(states: Tensor, width: int) -> Tensor:
    """From [rows, heads, tokens, size] to [rows, heads, width, size], with zeros on the left."""
    return pad(states, (0, 0, width - states.shape[2], 0))


def _select(states: Tensor, rows: list[int], width: int) -> Tensor:
    """From [rows, heads, tokens, size] to [len(rows), heads, width, size], the right edge of some rows."""
    return states[rows, :, -width:]
