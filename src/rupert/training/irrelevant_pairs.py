"""Harmful instructions with irrelevant responses, from the datasets' names to the pairs that SDD trains on."""

from __future__ import annotations

from dataclasses import dataclass

from rupert.data import sources
from rupert.data.examples import require
from rupert.data.filtering import balanced
from rupert.data.pairing import Pairing, pair
from rupert.models.embedding import MINILM, check_installed, load_encoder, shipped_encoder
from rupert.models.embedding import check as check_encoder
from rupert.settings import check_not_negative, check_positive, check_range, setting

# Datasets whose texts' embeddings ship with rupert.
EMBEDDED = frozenset({"potionworld", "potionworld:benign", "potionworld:defender"})


@dataclass(frozen=True, kw_only=True)
class PairingSettings:
    """How pairs are made; the defaults are those of SDD (Chen et al., ACL 2025, arXiv 2507.21182)."""

    instructions: str = setting("beavertails:unsafe", "dataset whose instructions are harmful")
    responses: tuple[str, ...] = setting(("lima", "alpaca"), "datasets whose answers are paired with them")
    num_pairs: int = setting(8000, "pairs, balanced over the categories of harm (paper: 8,000; 500 already work)")
    threshold: float = setting(0.25, "largest cosine similarity of instruction and response")
    max_draws: int = setting(50, "draws an instruction, before the least similar response is taken")
    encoder: str = setting("all-MiniLM-L6-v2", "SentenceBERT that measures the similarity")
    seed: int = setting(0, "of the draws")

    def __post_init__(self) -> None:
        check_positive(self, "num_pairs", "max_draws")
        check_range(self, "threshold", -1.0, 1.0)
        check_not_negative(self, "seed")

    @property
    def datasets(self) -> dict[str, str]:
        """Instructions and responses."""
        responses = {f"responses {number}": spec for number, spec in enumerate(self.responses, start=1)}
        return {"instructions": self.instructions, **responses}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist and the texts can be compared.

        Raises:
            UsageError: they do not, or sentence-transformers is needed and not installed.
        """
        sources.check(self.instructions, "instructions")
        for spec in self.responses:
            sources.check(spec, "responses")
        check_encoder(self.encoder)
        if self.encoder != MINILM or not {self.instructions, *self.responses} <= EMBEDDED:
            check_installed()


def make_pairs(settings: PairingSettings) -> Pairing:
    """Load the datasets and pair them.

    Raises:
        UsageError: a dataset that does not exist, is out of reach or too small.
    """
    requests = sources.load(settings.instructions, field="instructions")
    require(requests, settings.num_pairs, f"num_pairs: {settings.instructions}")
    instructions = balanced(requests, settings.num_pairs, settings.seed)
    responses = [response for spec in settings.responses for response in sources.load(spec, field="responses")]
    texts = [*(example.instruction for example in instructions), *(example.answer for example in responses)]
    return pair(
        instructions,
        responses,
        shipped_encoder(texts, settings.encoder) or load_encoder(settings.encoder),
        threshold=settings.threshold,
        max_draws=settings.max_draws,
        seed=settings.seed,
    )
