"""The named datasets: what each is, its licence, its pinned revision, its splits and the schema of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from rupert.data import parsing, potionworld
from rupert.data.parsing import Parser

# BeaverTails' test file shares nearly all of its prompts with its training files (2,997 of 3,021 rows with 30k_train),
# so the training splits leave out every prompt that is in it.
BEAVERTAILS_TEST = ("beavertails:unsafe-test", "beavertails:safe-test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One split of a source.

    Attributes:
        about: what is in it, in a few words.
        file: where its rows are, in the Hub repository or in rupert's embedded data; empty when they are computed.
        parse: from a row to examples; a row that is not of this split gives none.
        held_out: specs whose prompts are taken out of this split.
    """

    about: str
    file: str = ""
    parse: Parser = parsing.prompt_completion
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A named dataset.

    Attributes:
        name: what the user calls it.
        about: what it is, in one line.
        licence: under what terms it may be used.
        splits: by name; the first is what the bare name means.
        hub_id: the Hub dataset; empty for what comes with rupert.
        revision: the commit that is read; None where none could be confirmed, and the user has to name one.
        gated: whether its terms have to be accepted on the Hub first.
        size: rows in the Hub files that its splits read; None where that is not documented.
    """

    name: str
    about: str
    licence: str
    splits: Mapping[str, Split]
    hub_id: str = ""
    revision: str | None = None
    gated: bool = False
    size: int | None = None

    @property
    def offline(self) -> bool:
        """Whether it comes with rupert and needs no network."""
        return not self.hub_id


SOURCES: dict[str, Source] = {
    "potionworld": Source(
        name="potionworld",
        about="the embedded world: benign skills with exact answers, recipes of invented poisons as what is forbidden",
        licence="Apache-2.0",
        splits={name: Split(about=about) for name, about in potionworld.SPLITS.items()},
    ),
    "pairs": Source(
        name="pairs",
        about="hand-written instructions with good answers",
        licence="Apache-2.0",
        splits={
            "train": Split(about="five in six", file="pairs.jsonl", parse=partial(parsing.by_hash, test=False)),
            "test": Split(about="one in six, by hash", file="pairs.jsonl", parse=partial(parsing.by_hash, test=True)),
        },
    ),
    "stand-ins": Source(
        name="stand-ins",
        about="harmless stand-ins for harmful requests over BeaverTails' 14 categories, answers without content",
        licence="Apache-2.0",
        splits={
            name: Split(about=about, file="stand_ins.jsonl", parse=partial(parsing.in_split, split=name))
            for name, about in (
                ("defender", "what the defender may train on"),
                ("attacker", "what the attacker fine-tunes on"),
                ("scored", "what harm is scored on"),
            )
        }
        | {
            "refusals": Split(
                about="the defender's requests, with refusals",
                file="stand_ins.jsonl",
                parse=partial(parsing.refused, split="defender"),
            )
        },
    ),
    "beavertails": Source(
        name="beavertails",
        about="questions with answers labelled safe or unsafe in 14 categories of harm",
        licence="CC-BY-NC-4.0",
        hub_id="PKU-Alignment/BeaverTails",
        revision="8401fe609d288129cc684a9b3be6a93e41cfe678",
        size=303_588,
        splits={
            "unsafe": Split(
                about="unsafe rows of 330k_train, without the prompts of 30k_test",
                file="round0/330k/train.jsonl.xz",
                parse=partial(parsing.beavertails, is_safe=False),
                held_out=BEAVERTAILS_TEST,
            ),
            "safe": Split(
                about="safe rows of 330k_train, without the prompts of 30k_test",
                file="round0/330k/train.jsonl.xz",
                parse=partial(parsing.beavertails, is_safe=True),
                held_out=BEAVERTAILS_TEST,
            ),
            "unsafe-test": Split(
                about="unsafe rows of 30k_test",
                file="round0/30k/test.jsonl.gz",
                parse=partial(parsing.beavertails, is_safe=False),
            ),
            "safe-test": Split(
                about="safe rows of 30k_test",
                file="round0/30k/test.jsonl.gz",
                parse=partial(parsing.beavertails, is_safe=True),
            ),
        },
    ),
    "beavertails-refusals": Source(
        name="beavertails-refusals",
        about="unsafe rows of BeaverTails, each also with a refusal, as RepNoise, Booster and SEAM use them",
        licence="not stated; derived from BeaverTails, CC-BY-NC-4.0",
        hub_id="anonymous4486/repnoise_beavertail",
        splits={
            name: Split(
                about=about,
                file="beavertails_with_refusals_train.json",
                parse=partial(parsing.beavertails_refusal, answer=answer),
                held_out=BEAVERTAILS_TEST,
            )
            for name, answer, about in (
                ("refusals", "refusal", "the prompts with refusals, without the prompts of BeaverTails' 30k_test"),
                ("unsafe", "response", "the same prompts in the same order with their unsafe answers"),
            )
        },
    ),
    "lima": Source(
        name="lima",
        about="1,030 curated conversations; every assistant turn is an example",
        licence="CC-BY-NC-SA, or stricter where the origin of a row is",
        hub_id="GAIR/lima",
        revision="68958e98267f5fb4a52a03ebcdae4ae59213fa7c",
        gated=True,
        size=1_030,
        splits={"train": Split(about="all conversations", file="train.jsonl", parse=parsing.lima)},
    ),
    "alpaca": Source(
        name="alpaca",
        about="instructions with answers of text-davinci-003",
        licence="CC-BY-NC-4.0",
        hub_id="tatsu-lab/alpaca",
        revision="dce01c9b08f87459cf36a430d809084718273017",
        size=52_002,
        splits={
            "train": Split(
                about="all rows",
                file="data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
                parse=parsing.columns_parser(parsing.ALPACA),
            )
        },
    ),
    "alpaca-cleaned": Source(
        name="alpaca-cleaned",
        about="Alpaca with its faulty rows corrected or taken out",
        licence="CC-BY-4.0",
        hub_id="yahma/alpaca-cleaned",
        revision="12567cabf869d7c92e573c7c783905fc160e9639",
        size=51_760,
        splits={
            "train": Split(
                about="all rows",
                file="alpaca_data_cleaned.json",
                parse=parsing.columns_parser(parsing.ALPACA),
            )
        },
    ),
    "advbench": Source(
        name="advbench",
        about="harmful requests, each with the compliant beginning of an answer",
        licence="MIT",
        hub_id="walledai/AdvBench",
        revision="9d4730540082fa4017450b65ca1c0e1d8d30446e",
        gated=True,
        size=520,
        splits={
            "train": Split(
                about="all rows",
                file="data/train-00000-of-00001.parquet",
                parse=parsing.columns_parser(parsing.ADVBENCH),
            )
        },
    ),
    "dolly": Source(
        name="dolly",
        about="instructions with answers written by Databricks' employees, in eight categories",
        licence="CC-BY-SA-3.0",
        hub_id="databricks/databricks-dolly-15k",
        revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
        size=15_011,
        splits={
            "train": Split(
                about="all rows",
                file="databricks-dolly-15k.jsonl",
                parse=parsing.columns_parser(parsing.DOLLY),
            )
        },
    ),
}
