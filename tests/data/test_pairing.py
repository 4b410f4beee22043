"""The pairing rule, checked with hand-made embeddings: each text says its own angle in degrees."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from rupert.data.examples import Example
from rupert.data.pairing import Vectors, pair
from rupert.errors import DataError, InvalidValue


class Protractor:
    """Encodes the text "30 a" as the unit vector at 30 degrees, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        angles = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    @property
    def seen(self) -> list[str]:
        return [text for call in self.calls for text in call]


def asking(*texts: str) -> list[Example]:
    return [Example(text, "", source="asked") for text in texts]


def answering(*texts: str) -> list[Example]:
    return [Example("", text, source="answered") for text in texts]


def many(count: int) -> tuple[list[Example], list[Example]]:
    """Instructions between 0 and 90 degrees and responses between 0 and 180: about two in five are too similar."""
    generator = np.random.default_rng(7)
    questions = [f"{angle:.3f} q{index}" for index, angle in enumerate(generator.uniform(0, 90, count))]
    answers = [f"{angle:.3f} a{index}" for index, angle in enumerate(generator.uniform(0, 180, 5 * count))]
    return asking(*questions), answering(*answers)


def test_pair_keeps_the_instruction_and_takes_the_answer() -> None:
    history = ({"role": "system", "content": "Be brief."},)
    asked = Example("0 q", "own answer", category="theft", source="asked", history=history)
    pairing = pair([asked], answering("90 a"), Protractor())
    assert pairing.examples == (Example("0 q", "90 a", category="theft", source="asked+answered", history=history),)
    assert pairing.similarities == pytest.approx([0.0], abs=1e-6)
    assert (pairing.draws, pairing.fallbacks, pairing.encoded) == (1, 0, 2)


def test_every_accepted_response_obeys_the_threshold() -> None:
    instructions, responses = many(200)
    pairing = pair(instructions, responses, Protractor(), threshold=0.25)
    for example, similarity in zip(pairing.examples, pairing.similarities, strict=True):
        angles = [float(text.split()[0]) for text in (example.instruction, example.answer)]
        assert similarity == pytest.approx(np.cos(np.radians(angles[0] - angles[1])), abs=1e-5)
        assert similarity <= 0.25
    assert pairing.fallbacks == 0
    assert pairing.draws > 200


def test_a_similarity_equal_to_the_threshold_is_accepted() -> None:
    pairing = pair(asking("0 q"), answering("0 a"), Protractor(), threshold=1.0)
    assert (pairing.draws, pairing.fallbacks) == (1, 0)


def test_fallback_is_the_least_similar_that_was_seen() -> None:
    encode = Protractor()
    responses = answering(*(f"{angle} a" for angle in range(1, 61)))
    pairing = pair(asking("0 q"), responses, encode, max_draws=5, seed=3)
    seen = [text for text in encode.seen if text.endswith("a")]
    assert len(seen) == pairing.draws == 5
    assert pairing.fallbacks == 1
    assert pairing.examples[0].answer == max(seen, key=lambda text: float(text.split()[0]))


def test_a_refused_response_is_not_drawn_again() -> None:
    pairing = pair(asking("0 q"), answering("10 a", "20 a", "30 a", "30 a"), Protractor(), max_draws=50)
    assert pairing.draws == 3
    assert pairing.examples[0].answer == "30 a"
    assert pairing.fallbacks == 1


def test_one_draw_is_enough_to_be_given_a_response() -> None:
    pairing = pair(asking("0 q"), answering("90 a", "90 b"), Protractor(), max_draws=1)
    assert len(pairing.examples) == 1
    with pytest.raises(InvalidValue, match="max_draws: 0 is not valid; give at least 1"):
        pair(asking("0 q"), answering("90 a"), Protractor(), max_draws=0)


def test_the_only_acceptable_response_is_found_when_all_may_be_drawn() -> None:
    responses = answering(*(f"{angle} a" for angle in range(40)), "90 b")
    pairing = pair(asking("0 q", "1 q", "2 q"), responses, Protractor(), max_draws=41)
    assert [example.answer for example in pairing.examples] == ["90 b"] * 3
    assert pairing.fallbacks == 0


def test_same_seed_same_pairs() -> None:
    instructions, responses = many(60)
    first, second, other = (pair(instructions, responses, Protractor(), seed=seed) for seed in (5, 5, 6))
    assert first.examples == second.examples
    assert np.array_equal(first.similarities, second.similarities)
    assert first.summary() == second.summary()
    assert first.examples != other.examples


def test_a_pair_depends_on_no_other_instruction() -> None:
    instructions, responses = many(60)
    whole = pair(instructions, responses, Protractor())
    assert pair(instructions[:20], responses, Protractor()).examples == whole.examples[:20]
    replaced = [*asking("45 other"), *instructions[1:]]
    assert pair(replaced, responses, Protractor()).examples[1:] == whole.examples[1:]


def test_accepted_pairs_stay_when_more_draws_are_allowed() -> None:
    instructions, responses = many(60)
    few, more = (pair(instructions, responses, Protractor(), max_draws=count) for count in (2, 50))
    kept = few.similarities <= 0.25
    assert 0 < kept.sum() < 60
    assert np.array_equal(few.similarities[kept], more.similarities[kept])


def test_the_order_in_which_the_encoder_works_does_not_matter() -> None:
    instructions, responses = many(60)
    plain = Protractor()

    def one_by_one_backwards(texts: Sequence[str]) -> Vectors:
        return np.concatenate([plain([text]) for text in reversed(texts)])[::-1]

    assert (
        pair(instructions, responses, one_by_one_backwards).examples
        == pair(instructions, responses, Protractor()).examples
    )


def test_only_what_is_drawn_is_encoded_and_only_once() -> None:
    instructions, responses = many(200)
    encode = Protractor()
    pairing = pair(instructions, responses, encode)
    assert len(encode.seen) == len(set(encode.seen)) == pairing.encoded
    assert pairing.encoded <= len(instructions) + pairing.draws
    assert len(encode.seen) < len(responses)
    assert {example.answer for example in pairing.examples} <= set(encode.seen)


def test_one_sorted_call_a_round() -> None:
    encode = Protractor()
    pair(asking("0 question", "0 q"), answering("1 a", "100 longer", "2 b"), encode, max_draws=3)
    assert 1 <= len(encode.calls) <= 3
    assert all(call == sorted(call, key=lambda text: (len(text), text)) for call in encode.calls)


def test_equal_texts_are_encoded_once() -> None:
    encode = Protractor()
    pairing = pair(asking(*["0 q"] * 4), answering(*["90 a"] * 3), encode)
    assert sorted(encode.seen) == ["0 q", "90 a"]
    assert (pairing.encoded, pairing.draws) == (2, 4)


def test_of_equal_answers_the_first_ones_source_is_kept() -> None:
    responses = [Example("", "90 a", source="first"), Example("", "90 a", source="second")]
    assert pair(asking("0 q"), responses, Protractor()).examples[0].source == "asked+first"


def test_every_response_is_equally_likely() -> None:
    pairing = pair(asking(*["0 q"] * 3000), answering(*(f"90 {name}" for name in "abc")), Protractor())
    counts = np.unique([example.answer for example in pairing.examples], return_counts=True)[1]
    assert counts == pytest.approx([1000] * 3, abs=130)  # five standard deviations


def test_histogram_and_summary() -> None:
    pairing = pair(asking("0 a", "0 b"), answering("180 c"), Protractor())
    assert pairing.histogram(bins=4).tolist() == [2, 0, 0, 0]
    similar = pair(asking("0 a"), answering("0 c"), Protractor())
    assert similar.histogram(bins=4).tolist() == [0, 0, 0, 1]
    summary = json.loads(json.dumps(similar.summary()))
    histogram = summary.pop("similarity_histogram")
    assert summary == {
        "pairs": 1,
        "draws": 1,
        "fallbacks": 1,
        "encoded": 2,
        "mean_similarity": 1.0,
        "highest_similarity": 1.0,
    }
    assert len(histogram) == 40
    assert sum(histogram) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold: 1.5 is not valid; give a cosine from -1 to 1"),
        ({"threshold": float("nan")}, "threshold: nan is not valid; give a cosine from -1 to 1"),
        ({"max_draws": 0}, "max_draws: 0 is not valid; give at least 1"),
        ({"seed": -1}, "seed: -1 is not valid; give 0 or more"),
    ],
)
def test_settings_outside_their_domain(settings: dict[str, float], message: str) -> None:
    encode = Protractor()
    with pytest.raises(InvalidValue) as error:
        pair(asking("0 q"), answering("90 a"), encode, **settings)
    assert str(error.value) == message
    assert encode.calls == []


@pytest.mark.parametrize(
    ("instructions", "responses", "message"),
    [
        ([], answering("90 a"), "instructions: 0 examples, 1 needed; add rows"),
        (asking("0 q"), [], "responses: 0 examples, 1 needed; add rows"),
        (asking("0 q", " "), answering("90 a"), "instructions: row 2 has an empty prompt; remove or fill it"),
        (asking("0 q"), answering("90 a", "\n"), "responses: row 2 has an empty answer; remove or fill it"),
    ],
)
def test_data_that_cannot_be_paired(instructions: list[Example], responses: list[Example], message: str) -> None:
    encode = Protractor()
    with pytest.raises(DataError) as error:
        pair(instructions, responses, encode)
    assert str(error.value) == message
    assert encode.calls == []
