"""Write the sentence embeddings of Potionworld's texts that ship with rupert: `python docs/generate_sentences.py`.

It needs the extras `pairing` and `offline`. Nothing else writes the file: the last digits of
an embedding differ from one machine to the next.
"""

from __future__ import annotations

from rupert.data import sources
from rupert.models.embedding import SENTENCES_FILE, load_encoder, write_sentences


def texts() -> list[str]:
    """What SDD pairs in Potionworld: the defender's requests and the benign answers."""
    requests = {example.instruction for example in sources.load("potionworld:defender")}
    return sorted(requests | {example.answer for example in sources.load("potionworld:benign")})


if __name__ == "__main__":
    write_sentences(load_encoder(), texts(), SENTENCES_FILE)
