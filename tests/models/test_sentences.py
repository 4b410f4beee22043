"""The embeddings that ship with rupert: whose they are, and that pairs come out as with the encoder itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rupert.data import sources
from rupert.data.filtering import balanced
from rupert.data.pairing import pair
from rupert.defenses import SDD
from rupert.errors import MissingDependency
from rupert.models.embedding import load_encoder, shipped_encoder
from rupert.settings import fields_of
from rupert.training.irrelevant_pairs import PairingSettings, make_pairs

DEMO = PairingSettings(instructions="potionworld:defender", responses=("potionworld:benign",), num_pairs=40)


def test_they_are_what_minilm_makes_of_the_texts() -> None:
    texts = [example.instruction for example in sources.load("potionworld:defender")][::40]
    shipped = shipped_encoder(texts)
    assert shipped is not None
    assert shipped(texts) == pytest.approx(load_encoder(device="cpu")(texts), abs=2e-4)
    assert shipped(texts).dtype == np.float32


def test_every_text_that_the_demo_pairs_is_there() -> None:
    requests = [example.instruction for example in sources.load(DEMO.instructions)]
    answers = [example.answer for spec in DEMO.responses for example in sources.load(spec)]
    assert shipped_encoder([*requests, *answers]) is not None


def test_another_text_or_another_encoder_is_not_theirs() -> None:
    assert shipped_encoder(["a text of nobody"]) is None
    assert shipped_encoder([], "owner/encoder") is None


def test_pairs_of_potionworld_need_no_package_and_are_those_of_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = load_encoder(device="cpu")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    DEMO.check()
    made = make_pairs(DEMO)
    requests, answers = (sources.load(spec) for spec in (DEMO.instructions, *DEMO.responses))
    expected = pair(balanced(requests, 40, 0), answers, encode)
    assert made.examples == expected.examples
    assert made.draws == expected.draws


@pytest.mark.parametrize(
    "other", [{"instructions": "stand-ins:defender"}, {"responses": ("pairs",)}, {"encoder": "owner/encoder"}]
)
def test_other_pairs_without_the_package_are_refused_before_anything_is_read(
    other: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    values = {field.name: getattr(DEMO, field.name) for field in fields_of(PairingSettings)} | other
    with pytest.raises(MissingDependency, match=r"^sentence-transformers is not installed; pip install 'rupert\[pair"):
        SDD(**values).check()
