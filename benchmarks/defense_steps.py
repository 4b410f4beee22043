"""What one step of each defense takes, as a multiple of a plain fine-tuning step on the same batch.

The same batch: rows of every stream of a step have the same numbers of tokens, and the plain step is one forward and
one backward pass over as many rows as the settings call a batch, all in one micro-batch. So a pass over any stream is
worth one plain step, however long a real dataset's answers are: SDD and Vaccine go over one stream; Booster over
refusals once and over harmful rows twice; RepNoise and random mapping over two streams once; CTRAP over three; SEAM
over three, and over two of them again by double backward; TAR over K batches of an attack, K / 4 held-out ones and
one benign one. Neither side takes the optimizer's step, but for TAR's inner ones, which are its own work. Parameters
in full.

`least` is how many passes the defense's own `cost` says; what is no pass (output heads of hidden states, second
derivatives) is listed beside it. T-Vaccine's first step, which finds probabilities on harmful rows, is not timed: it
comes once in 200 steps, and is less than half a row a step with the paper's settings, which `cost` rounds to one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, pairwise
from statistics import median
from typing import Any

import torch
from measuring import now
from outcome import Figure, begin, options
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.data.examples import Example
from rupert.defenses import DEFENSES
from rupert.models.anatomy import layers
from rupert.models.chat_templates import DEFAULT_CHAT_TEMPLATE
from rupert.models.loading import LoadedModel, ModelSettings, is_potionworld, load
from rupert.training.gradients import backward_answer_cross_entropy
from rupert.training.objective import Cost

# At most so many plain steps; None: as measured. TAR's is in inner steps.
TARGETS: Mapping[str, float] = {"vaccine": 2.2, "t_vaccine": 2.0, "booster": 3.2, "repnoise": 2.5}
TAR_TARGET = 1.4
STAND_INS = ("stand-ins:defender", "pairs:train")  # requests, and what answers are made of
POTIONWORLD = ("potionworld:defender", "potionworld:benign")
SHARES = (0.7, 0.9, 1.1, 1.3)  # of the mean row's tokens, in turn: rows of several lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One defense.

    Attributes:
        cost: what it says of itself, in rows.
        rows: of a plain step.
        ratios: of each of its steps to the mean of the plain ones before and after it.
        seconds: of each of its steps.
        plain_seconds: of each plain step.
        limit: what is asked for; None for nothing.
    """

    cost: Cost
    rows: int
    ratios: tuple[float, ...]
    seconds: tuple[float, ...]
    plain_seconds: tuple[float, ...]
    limit: float | None

    @property
    def ratio(self) -> float:
        """The median."""
        return median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Whether it does what is asked for; true where nothing is."""
        return self.limit is None or self.ratio <= self.limit


def main() -> None:
    """Run the benchmark, print its table, and exit with 1 where a target is missed."""
    begun = begin("defense_steps", _options())
    arguments = begun.arguments
    results = {name: _measure(name, arguments) for name in arguments.defenses}
    title = f"one step, in plain steps of {arguments.rows} rows of about {arguments.tokens} tokens: {arguments.model}"
    Console().print(_table(title, results))
    rows = [{"defense": name, **asdict(one), "ratio": one.ratio} for name, one in results.items()]
    figures = [
        Figure(what=f"a step of {name} in plain fine-tuning steps", value=one.ratio, unit="times", at_most=one.limit)
        for name, one in results.items()
    ]
    raise SystemExit(begun.end(rows, figures, {"threads": torch.get_num_threads()}))


def _options() -> argparse.ArgumentParser:
    parser = options((__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2", help="embedded or on disk")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--rows", type=int, default=4, help="of a batch")
    parser.add_argument("--tokens", type=int, default=64, help="of the mean row")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each defense")
    parser.add_argument(
        "--inner-steps", type=int, default=64, help="K of TAR; below 16 its other passes weigh too much"
    )
    parser.add_argument("--defenses", nargs="+", choices=DEFENSES, default=list(DEFENSES))
    return parser


def _measure(name: str, arguments: argparse.Namespace) -> Result:
    """A fresh model for each, because a defense may freeze what it does not train."""
    settings = ModelSettings(model=arguments.model, device=arguments.device)
    loaded = load(settings)
    if not is_potionworld(settings):
        loaded.tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE  # SmolLM2's own opens with 22 tokens of instructions
    defense = _defense(name, loaded, arguments)
    specs = POTIONWORLD if is_potionworld(settings) else STAND_INS
    rows = Rows(loaded.tokenizer, sources.load(specs[0]), sources.load(specs[1]), arguments.tokens)
    # The same requests in every stream, with answers of the same lengths; CTRAP takes a token off each row of one.
    batches = {
        stream: rows.batch(size, own=number, longer=int(stream == "collapse"))
        for number, (stream, size) in enumerate(defense.streams.items(), 1)
    }
    plain_batch = rows.batch(arguments.rows)
    loaded.model.train()
    step = defense.start(loaded.model)

    def plain() -> None:
        backward_answer_cross_entropy(loaded.model, [plain_batch], micro_batch_size=arguments.rows)

    timings = _interleaved(loaded.model, plain, lambda: step(batches.__getitem__), arguments.repeats)
    limit = TAR_TARGET * arguments.inner_steps if name == "tar" else TARGETS.get(name)
    return Result(cost=defense.cost, rows=arguments.rows, limit=limit, **timings)


def _defense(name: str, loaded: LoadedModel, arguments: argparse.Namespace) -> Any:
    """With the paper's defaults, but for the batch, and one micro-batch that holds all of it; data play no part."""
    few = max(1, len(layers(loaded.model)) // 4)
    own: dict[str, dict[str, Any]] = {
        "t_vaccine": {"trained_layers": min(8, few), "harmful_batches": 1},
        "tar": {"inner_steps": arguments.inner_steps},
    }
    settings = {"per_device_train_batch_size": arguments.rows, "lora": False, "max_length": 2 * arguments.tokens}
    return DEFENSES[name](**settings, **own.get(name, {}))


def _interleaved(
    model: nn.Module, plain: Callable[[], object], step: Callable[[], object], repeats: int
) -> dict[str, tuple[float, ...]]:
    """Plain and other steps in turn, so that what else the machine does hits both; the first of each is not timed."""
    plain()
    _timed(model, step)
    plain_seconds, seconds = [_timed(model, plain)], []
    for _ in range(repeats):
        seconds.append(_timed(model, step))
        plain_seconds.append(_timed(model, plain))
    around = pairwise(plain_seconds)
    ratios = [taken / ((before + after) / 2) for taken, (before, after) in zip(seconds, around, strict=True)]
    return {"ratios": tuple(ratios), "seconds": tuple(seconds), "plain_seconds": tuple(plain_seconds)}


def _timed(model: nn.Module, work: Callable[[], object]) -> float:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    device = next(model.parameters()).device
    start = now(device)
    work()
    return now(device) - start


@dataclass(frozen=True, slots=True)
class Rows:
    """Where batches come from.

    Attributes:
        tokenizer: of the model.
        requests: whose requests all streams have.
        answers: what answers are made of.
        tokens: of the mean row.
    """

    tokenizer: PreTrainedTokenizerBase
    requests: Sequence[Example]
    answers: Sequence[Example]
    tokens: int

    def batch(self, rows: int, own: int = 0, longer: int = 0) -> Mapping[str, Tensor]:
        """So many rows; `own` makes answers another stream's, and `longer` adds tokens to each row."""
        texts = cycle(example.answer for example in self.answers[17 * own :])
        lengths = (round(share * self.tokens) + longer for share in cycle(SHARES))
        requests = islice(cycle(self.requests), rows)
        encoded = [_row(one, self.tokenizer, length, texts) for one, length in zip(requests, lengths, strict=False)]
        return collate(encoded, self.tokenizer.pad_token_id)


def _row(example: Example, tokenizer: PreTrainedTokenizerBase, tokens: int, texts: Iterator[str]) -> Encoded:
    """A row of exactly `tokens` tokens: answers are joined until it is long enough, and cut."""
    answered = replace(example, answer=next(texts))
    while len(encode(answered, tokenizer, tokens).input_ids) < tokens:
        answered = replace(answered, answer=f"{answered.answer} {next(texts)}")
    return encode(answered, tokenizer, tokens)


def _table(title: str, results: Mapping[str, Result]) -> Table:
    table = Table(title=title)
    table.add_column("defense", no_wrap=True)
    for heading in ("plain steps", "range", "least", "beside", "at most", "seconds"):
        table.add_column(heading, justify="right")
    for name, one in results.items():
        table.add_row(
            name,
            f"{one.ratio:.2f}",
            f"{min(one.ratios):.2f} to {max(one.ratios):.2f}",
            f"{one.cost.passes / one.rows:.2f}",
            _beside(one),
            "-" if one.limit is None else f"{one.limit:.1f} {'met' if one.is_met else 'MISSED'}",
            f"{median(one.seconds):.3f} / {median(one.plain_seconds):.3f}",
        )
    return table


def _beside(result: Result) -> str:
    """What is no pass: per row of a batch."""
    cost = result.cost
    parts = {"backward": cost.backwards, "2nd": cost.products, "heads": cost.head_rows}
    return ", ".join(f"{rows / result.rows:g} {name}" for name, rows in parts.items() if rows) or "-"


if __name__ == "__main__":
    main()
