"""Rows for a tiny TAR."""

from __future__ import annotations

import pytest

from rupert.data import sources
from rupert.data.batches import encode

from .tar_by_hand import SOURCES, SPECS, STREAMS, Rows, Tiny


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    tokenizer, found = tiny().tokenizer, {}
    for number, (name, count) in enumerate(STREAMS.items()):
        examples = sources.load(SPECS[SOURCES.get(name, name)])[number::23][:count]
        found[name] = [encode(example, tokenizer, 64) for example in examples]
    return found
