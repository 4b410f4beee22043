"""SDD: the paper's settings, its one gradient against float64, and the data that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rupert.data import sources
from rupert.data.batches import collate, encode
from rupert.data.examples import Example, write_jsonl
from rupert.data.filtering import balanced
from rupert.data.pairing import pair
from rupert.defenses import SDD
from rupert.defenses.sdd import REJECTION
from rupert.errors import DataError, UsageError
from rupert.models.loading import LoadedModel
from rupert.settings import as_mapping
from rupert.training import irrelevant_pairs

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., torch.Tensor]

PAIRS = [
    Example("how do i brew vorrot ?", "the glimfin eats moss .", "recipe", "by hand"),
    Example("what goes into nartej ?", "3 plus 4 is 7 .", "recipe", "by hand"),
    Example("tell me how to make osbane .", "moon", "recipe", "by hand"),
    Example("explain how tejfang is made .", "glimelu means bread .", "recipe", "by hand"),
]
BENIGN = [Example("add 1 and 2 .", "1 plus 2 is 3 ."), Example("repeat : moon star", "moon star")]


def test_defaults_are_the_papers() -> None:
    defaults = as_mapping(SDD())
    paper = {
        "instructions": "beavertails:unsafe",
        "responses": ["lima", "alpaca"],
        "num_pairs": 8000,
        "threshold": 0.25,
        "max_draws": 50,
        "encoder": "all-MiniLM-L6-v2",
        "max_steps": 500,
        "per_device_train_batch_size": 24,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-7,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0.0,
        "optim": "adamw_torch",
        "max_length": 512,
    }
    ours = {"reject_prefix": "", "benign": "", "benign_share": 0.0, "pairs": ""}
    assert {name: defaults[name] for name in paper | ours} == paper | ours
    assert REJECTION == (
        "I refuse to answer your question for responsible and ethical reasons. "
        "I provided an irrational answer to your question."
    )


@pytest.mark.parametrize(("rows_at_once", "passes"), [(1, 6), (3, 2), (6, 1)])
def test_one_step_is_the_gradient_of_the_mean_over_all_answers(
    tiny: Tiny, by_hand: ByHand, rows_at_once: int, passes: int
) -> None:
    loaded, expected = tiny(), tiny().model
    rows = [encode(example, loaded.tokenizer, 64) for example in [*PAIRS, *BENIGN]]
    # Words of the answers with their ends: 6 + 7 + 2 + 5 of pairs, 7 + 3 of benign rows.
    loss = by_hand(expected, rows) / 30
    loss.backward()
    defense = SDD(
        benign="potionworld:benign",
        benign_share=1 / 3,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=passes,
    )
    batches = {"pairs": collate(rows[:4], 0), "benign": collate(rows[4:], 0)}
    metrics = defense.start(loaded.model)(batches.__getitem__)
    assert metrics == {"loss": pytest.approx(loss.item(), rel=1e-12)}
    for (name, found), parameter in zip(loaded.model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.grad, parameter.grad, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("settings", "streams"),
    [
        ({}, {"pairs": 24}),
        ({"benign_share": 0.5}, {"pairs": 12, "benign": 12}),
        ({"benign_share": 0.1}, {"pairs": 22, "benign": 2}),
        ({"benign_share": 0.75, "per_device_train_batch_size": 4}, {"pairs": 1, "benign": 3}),
        ({"benign_share": 0.5, "gradient_accumulation_steps": 2}, {"pairs": 24, "benign": 24}),
    ],
)
def test_benign_rows_take_their_share_of_a_step(settings: dict[str, Any], streams: dict[str, int]) -> None:
    assert SDD(benign="potionworld:benign", **settings).streams == streams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.5}, "threshold: 1.5 is not valid; must be from -1.0 to 1.0"),
        ({"threshold": -1.01}, "threshold: -1.01 is not valid; must be from -1.0 to 1.0"),
        ({"benign_share": 0.5}, "benign_share: 0.5 is not valid; name the dataset with `benign`"),
        ({"benign_share": -0.5}, "benign_share: -0.5 is not valid; must be from 0.0 to 1.0"),
        ({"benign_share": 1.0, "benign": "dolly"}, "benign_share: 1.0 is not valid; leave rows of both kinds in 24"),
        ({"benign_share": 0.01, "benign": "dolly"}, "benign_share: 0.01 is not valid; leave rows of both kinds in 24"),
        ({"max_steps": 0}, "max_steps: 0 is not valid; must be above 0"),
        ({"num_pairs": -1}, "num_pairs: -1 is not valid; must be above 0"),
        ({"max_draws": 0}, "max_draws: 0 is not valid; must be above 0"),
        ({"seed": -1}, "seed: -1 is not valid; must be 0 or above"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not valid; must be above 0"),
        ({"optim": "adamw"}, "optim: 'adamw' is unknown; did you mean 'adamw_torch'?"),
    ],
)
def test_a_bad_value_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SDD(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"instructions": "beavertail:unsafe"}, "instructions: 'beavertail' is unknown; did you mean 'beavertails'?"),
        ({"instructions": "beavertails:unsave"}, "instructions, split of beavertails: 'unsave' is unknown; did you"),
        ({"responses": ("lima", "alpacca")}, "responses: 'alpacca' is unknown; did you mean 'alpaca'?"),
        ({"responses": ("gone.jsonl",)}, "responses: there is no file 'gone.jsonl'; check the path"),
        ({"encoder": "MiniLM"}, "encoder: 'MiniLM' is unknown; did you mean 'all-MiniLM-L6-v2'?"),
        ({"pairs": "gone.jsonl"}, "pairs: there is no file 'gone.jsonl'; check the path"),
        ({"benign": "doly", "benign_share": 0.5}, "benign: 'doly' is unknown; did you mean 'dolly'?"),
    ],
)
def test_a_dataset_that_does_not_exist_is_found_before_anything_is_loaded(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sources, "load", load)
    monkeypatch.setattr(irrelevant_pairs, "load_encoder", load)
    with pytest.raises(UsageError) as caught:
        SDD(**values).check()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_not_used_need_not_exist() -> None:
    unused = SDD(pairs="potionworld:defender", instructions="gone.jsonl", benign="gone.jsonl")
    unused.check()
    for used in (replace(unused, pairs=""), replace(unused, benign_share=0.5)):
        with pytest.raises(DataError, match=r"gone\.jsonl"):
            used.check()


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of SentenceBERT: every two texts are at right angles. Lists the names that were asked for."""
    asked = []

    def load_encoder(name: str) -> Callable[[Sequence[str]], Any]:
        asked.append(name)
        known: dict[str, int] = {}
        return lambda texts: np.eye(512, dtype=np.float32)[[known.setdefault(text, len(known)) for text in texts]]

    monkeypatch.setattr(irrelevant_pairs, "load_encoder", load_encoder)
    return asked


MADE: Mapping[str, Any] = {
    "instructions": "potionworld:defender",
    "responses": ("potionworld:benign", "stand-ins:scored"),
    "num_pairs": 60,
}


def test_pairs_are_made_of_its_instructions_and_responses(encoder: list[str]) -> None:
    gathered = SDD(**MADE, encoder="owner/encoder").gather()
    assert encoder == ["owner/encoder"]
    assert list(gathered.streams) == ["pairs"]
    pairs = gathered.streams["pairs"]
    instructions = {example.instruction for example in sources.load("potionworld:defender")}
    answers = {example.answer for spec in MADE["responses"] for example in sources.load(spec)}
    assert len(pairs) == len({pair.instruction for pair in pairs}) == 60
    assert {pair.instruction for pair in pairs} <= instructions
    assert {pair.answer for pair in pairs} <= answers
    assert (gathered.report["pairs"], gathered.report["draws"], gathered.report["fallbacks"]) == (60, 60, 0)


def test_the_seed_decides_instructions_and_responses(encoder: list[str]) -> None:
    found, other = (SDD(**MADE, seed=seed).gather().streams["pairs"] for seed in (1, 2))
    instructions = balanced(sources.load("potionworld:defender"), 60, seed=1)
    responses = [example for spec in MADE["responses"] for example in sources.load(spec)]
    expected = pair(instructions, responses, irrelevant_pairs.load_encoder("any"), seed=1)
    assert list(found) == list(expected.examples)
    assert found != other


def test_all_settings_of_pairing_are_used(encoder: list[str]) -> None:
    # At right angles nothing is below a threshold of -0.5, so that each instruction is tried three times.
    report = SDD(**MADE, threshold=-0.5, max_draws=3).gather().report
    assert (report["draws"], report["fallbacks"]) == (180, 60)


@pytest.fixture
def ready(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    write_jsonl(PAIRS, path)
    return str(path)


def test_ready_pairs_are_taken_as_they_are(ready: str, encoder: list[str]) -> None:
    gathered = SDD(pairs=ready, benign="potionworld:benign", benign_share=0.5).gather()
    assert gathered.streams["pairs"] == PAIRS
    assert gathered.streams["benign"] == sources.load("potionworld:benign")
    assert gathered.report == {}
    assert encoder == []


def test_a_rejection_stands_before_each_response_and_no_benign_answer(ready: str) -> None:
    gathered = SDD(pairs=ready, reject_prefix=REJECTION, benign="potionworld:benign", benign_share=0.5).gather()
    assert [pair.answer for pair in gathered.streams["pairs"]] == [f"{REJECTION} {pair.answer}" for pair in PAIRS]
    assert [pair.instruction for pair in gathered.streams["pairs"]] == [pair.instruction for pair in PAIRS]
    assert gathered.streams["benign"] == sources.load("potionworld:benign")


def test_a_dataset_without_rows_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError) as caught:
        SDD(pairs=str(empty)).gather()
    assert str(caught.value) == f"{empty}: 0 examples, 1 needed; add rows or ask for fewer"


def test_fewer_instructions_than_pairs_is_one_line(encoder: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        SDD(**{**MADE, "num_pairs": 10_000}).gather()
    assert str(caught.value) == "num_pairs: potionworld:defender: 335 examples, 10000 needed; add rows or ask for fewer"
