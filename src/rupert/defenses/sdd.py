"""SDD, self-degraded defense: answer harmful instructions with good but irrelevant text.

Chen et al., "SDD: Self-Degraded Defense against Malicious Fine-tuning", ACL 2025, arXiv 2507.21182.

Harmful instructions are paired with benign responses that have nothing to do with them, and the model is fine-tuned on
the pairs with the usual cross entropy over the response. Fine-tuning on harm then raises p(harmful > irrelevant | x),
so it must lower π(irrelevant | x); because that text is a good answer to something else, this lowers general ability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.examples import Example
from rupert.settings import check_positive, setting
from rupert.training.gradients import backward_answer_cross_entropy
from rupert.training.irrelevant_pairs import PairingSettings, make_pairs
from rupert.training.mixing import check_benign_share, mixed_rows
from rupert.training.objective import Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import TrainingSettings

REJECTION = (
    "I refuse to answer your question for responsible and ethical reasons. "
    "I provided an irrational answer to your question."
)


@dataclass(frozen=True, kw_only=True)
class SDD(PairingSettings, TrainingSettings):
    """Self-degraded defense (Chen et al., ACL 2025): fine-tune on harmful instructions with irrelevant good responses.

    The defaults are the paper's. `reject_prefix` makes it SDD_reject. `benign_share` is ours: on small models, benign
    pairs in each batch keep ability.
    """

    pairs: str = setting("", "ready pairs, from `rupert pair`; then nothing is paired")
    reject_prefix: str = setting("", "put before each response; the paper's SDD_reject: see `REJECTION`")
    benign: str = setting("", "dataset of benign pairs to mix in")
    benign_share: float = setting(0.0, "share of each batch that is benign pairs")
    max_steps: int = setting(500, "optimizer steps")
    learning_rate: float = setting(5e-7, "peak learning rate")
    per_device_train_batch_size: int = setting(24, "rows of one forward pass")

    def __post_init__(self) -> None:
        PairingSettings.__post_init__(self)
        TrainingSettings.__post_init__(self)
        check_positive(self, "max_steps")
        check_benign_share(self)

    @property
    def benign_rows(self) -> int:
        """Benign rows a step."""
        return mixed_rows(self, self.benign_share)

    @property
    def streams(self) -> Mapping[str, int]:
        """Pairs, and benign rows where they are asked for."""
        pairs = {"pairs": self.batch_size - self.benign_rows}
        return pairs | {"benign": self.benign_rows} if self.benign_rows else pairs

    @property
    def cost(self) -> Cost:
        """One forward and one backward pass over each row, and nothing beside the gradient."""
        return Cost(passes=self.batch_size)

    @property
    def datasets(self) -> dict[str, str]:
        """Ready pairs, or what is paired; benign rows where they are asked for."""
        pairs = {"pairs": self.pairs} if self.pairs else super().datasets
        return pairs | ({"benign": self.benign} if self.benign_rows else {})

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        if self.pairs:
            sources.check(self.pairs, "pairs")
        else:
            super().check()
        if self.benign_rows:
            sources.check(self.benign, "benign")

    def gather(self) -> Gathered:
        """Pair instructions with irrelevant responses, or read the pairs; load benign rows."""
        report: dict[str, Any] = {}
        if self.pairs:
            pairs: Sequence[Example] = sources.load(self.pairs, field="pairs")
        else:
            pairing = make_pairs(self)
            pairs, report = pairing.examples, pairing.summary()
        streams = {"pairs": [self._prefixed(example) for example in pairs]}
        if self.benign_rows:
            streams["benign"] = sources.load(self.benign, field="benign")
        return Gathered(streams, report)

    def start(self, model: PreTrainedModel) -> Step:
        """One forward and one backward pass a step; no buffer beside the gradient."""

        def step(draw: Draw) -> Metrics:
            batches = [draw(stream) for stream in self.streams]
            loss = backward_answer_cross_entropy(model, batches, micro_batch_size=self.per_device_train_batch_size)
            return {"loss": loss}

        return step

    def _prefixed(self, example: Example) -> Example:
        return replace(example, answer=f"{self.reject_prefix} {example.answer}") if self.reject_prefix else example
