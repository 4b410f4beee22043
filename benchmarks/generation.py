"""Tokens a second of greedy answers: one request at a time, in padded batches, and in rupert's dynamic batches."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table

from rupert.data import sources
from rupert.models.generation import Prompt, decode, generate
from rupert.models.loading import LoadedModel, ModelSettings, load

REQUESTS = ("stand-ins:scored", "pairs:test")
LOWEST_SPEED_UP = 4.0

Ids = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one way did.

    Attributes:
        name: of the way.
        batch_size: requests at once.
        seconds: wall time.
        tokens_a_second: tokens of all answers over the seconds; end tokens count, padding does not.
        rows: sequences that went through the model to give one token each, prompts not counted: those of complete
            answers and of padding are what padded batches waste.
        times: how many times as fast as one request at a time.
        same: answers that are those of one request at a time.
    """

    name: str
    batch_size: int
    seconds: float
    tokens_a_second: float
    rows: int
    times: float
    same: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the benchmark found."""

    model: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    max_new_tokens: int
    threads: int
    ways: list[Way]


@dataclass(slots=True)
class Count:
    """Seconds, and rows of passes over one token each."""

    seconds: float = 0.0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What one way cost, and its answers."""

    name: str
    batch_size: int
    count: Count
    texts: list[str]


def main() -> None:
    """Run the benchmark, print its table, and exit with 1 where the target is missed."""
    begun = begin("generation", _options())
    arguments = begun.arguments
    loaded = load(ModelSettings(model=arguments.model, device=arguments.device, dtype=arguments.dtype))
    outcome = _measure(loaded, arguments)
    Console().print(_table(outcome))
    last, details = outcome.ways[-1], asdict(outcome)
    figures = (
        Figure(
            what=f"answers in batches of {last.batch_size}: times as fast as one at a time",
            value=last.times,
            unit="times",
            at_least=LOWEST_SPEED_UP,
        ),
        Figure(what="tokens a second in these", value=last.tokens_a_second),
    )
    raise SystemExit(begun.end(details.pop("ways"), figures, details))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--requests", type=int, default=32, help=f"half of them from each of {', '.join(REQUESTS)}")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32])
    return parser


def _measure(loaded: LoadedModel, arguments: argparse.Namespace) -> Outcome:
    new = arguments.max_new_tokens
    prompts = [example.prompt for spec in REQUESTS for example in sources.load(spec)[: arguments.requests // 2]]
    half = len(prompts) // 2
    _one_by_one(loaded, prompts[:1], 8)
    # Half of the requests one by one before and half after, so that a machine that slows down favours nobody.
    alone = Count()
    with _counting(loaded, alone):
        reference = _one_by_one(loaded, prompts[:half], new)
    batched = [run for size in arguments.batch_sizes for run in _batched(loaded, prompts, new, size)]
    with _counting(loaded, alone):
        reference += _one_by_one(loaded, prompts[half:], new)
    texts, tokens = [decode(loaded.tokenizer, ids) for ids in reference], sum(map(len, reference))
    runs = [Run("one at a time", 1, alone, texts), *sorted(batched, key=lambda run: run.name)]
    return Outcome(
        model=arguments.model,
        requests=len(prompts),
        prompt_tokens=sum(len(_encode(loaded, prompt)) for prompt in prompts),
        answer_tokens=tokens,
        max_new_tokens=new,
        threads=torch.get_num_threads(),
        ways=[
            Way(
                name=run.name,
                batch_size=run.batch_size,
                seconds=run.count.seconds,
                tokens_a_second=tokens / run.count.seconds,
                rows=run.count.rows,
                times=alone.seconds / run.count.seconds,
                same=sum(one == other for one, other in zip(run.texts, texts, strict=True)),
            )
            for run in runs
        ],
    )


def _batched(loaded: LoadedModel, prompts: list[Prompt], new: int, size: int) -> list[Run]:
    """Padded batches and rupert's, one after the other."""
    padded, dynamic = Count(), Count()
    with _counting(loaded, padded):
        of_padded = _padded(loaded, prompts, new, size)
    with _counting(loaded, dynamic):
        of_dynamic = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=new, batch_size=size)
    return [Run("padded batches", size, padded, of_padded), Run("rupert", size, dynamic, of_dynamic)]


def _one_by_one(loaded: LoadedModel, prompts: Sequence[Prompt], new: int) -> list[Ids]:
    """The token ids of each answer, with its end token."""
    return [_continue(loaded, [_encode(loaded, prompt)], new)[0] for prompt in prompts]


def _padded(loaded: LoadedModel, prompts: Sequence[Prompt], new: int, size: int) -> list[str]:
    """Prompts sorted by length, in batches that each last as long as their longest answer."""
    encoded = [_encode(loaded, prompt) for prompt in prompts]
    by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    texts = [""] * len(encoded)
    for start in range(0, len(encoded), size):
        indices = by_length[start : start + size]
        answers = _continue(loaded, [encoded[index] for index in indices], new)
        for index, ids in zip(indices, answers, strict=True):
            texts[index] = decode(loaded.tokenizer, ids)
    return texts


def _continue(loaded: LoadedModel, rows: list[Ids], new: int) -> list[Ids]:
    tokenizer = loaded.tokenizer
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(loaded.device)
    with torch.inference_mode():
        output = loaded.model.generate(
            **inputs, max_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def _encode(loaded: LoadedModel, prompt: Prompt) -> Ids:
    return loaded.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)


@contextmanager
def _counting(loaded: LoadedModel, count: Count) -> Iterator[None]:
    """Add to a count what happens within."""

    def add(_model: Any, _inputs: Any, options: dict[str, Any]) -> None:
        rows, width = options["input_ids"].shape
        count.rows += rows * (width == 1)

    hook = loaded.model.register_forward_pre_hook(add, with_kwargs=True)
    start = time.perf_counter()
    try:
        yield
    finally:
        count.seconds += time.perf_counter() - start
        hook.remove()


def _table(outcome: Outcome) -> Table:
    table = Table(
        title=f"{outcome.model}: {outcome.requests} requests of {outcome.prompt_tokens} tokens, answers of "
        f"{outcome.answer_tokens}, at most {outcome.max_new_tokens} each"
    )
    for heading in ("way", "batch", "seconds", "tokens/s", "times as fast", "rows", "same"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way in outcome.ways:
        table.add_row(
            way.name,
            str(way.batch_size),
            f"{way.seconds:.1f}",
            f"{way.tokens_a_second:.1f}",
            f"{way.times:.2f}",
            f"{way.rows:,}",
            f"{way.same}/{outcome.requests}",
        )
    table.caption = (
        f"threads: {outcome.threads}; "
        f"target: rupert's largest batches at least {LOWEST_SPEED_UP} times as fast as one request at a time"
    )
    return table


if __name__ == "__main__":
    main()
