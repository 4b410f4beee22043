"""CTRAP, collapse trap: align the model where a harmful gradient step leaves it saying one token and nothing else.

Yi et al., "CTRAP: Embedding Collapse Trap to Safeguard Large Language Models from Harmful Fine-Tuning",
arXiv 2505.16559.

With R alignment data (harmful requests with refusals), H harmful data (the requests with harmful answers), B benign
pairs (x, y), e one fixed token, ℓ the mean cross entropy over answer tokens, g = ∇ℓ(H) at θ, and |g| its norm over all
trained weights together,

    min over θ of ℓ(R; θ) + λ ℓ_collapse(θ - α g/|g|; B)
    ℓ_collapse(θ'; B) = mean over all answer tokens y_t of -log p(e | x, y before t; θ')
    gradient of a step = ∇ℓ(R) at θ + λ ∇ℓ_collapse at θ - α g/|g|

where the step α g/|g| is taken as a constant, as in the published code. The paper writes the step as α g; its code
divides by the norm, and so does this. g is the gradient of the whole batch, however it is cut into micro-batches and
processes.

Work of a step: three forward and backward passes, one over each of R, H and B. Held beside `p.grad`: a copy of the
trained weights. Half-precision weights are float32 ones for the passes over H and B.

The published code takes the collapse loss over refusals too; the paper's formula has general data alone, and so has
this. It moves the weights by -= and back by +=, which does not give bfloat16 weights their bits back, takes the norm of
each micro-batch, and clears the gradient in every one, so that with accumulation only the last one counts. None of that
is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import IGNORED
from rupert.data.examples import Example
from rupert.errors import InvalidValue
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training.gradients import backward_answer_cross_entropy
from rupert.training.harmful_step import harmful_step
from rupert.training.mixing import MixesBenign, check_share
from rupert.training.objective import Batch, Cost, Draw, Gathered, Metrics, Step
from rupert.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class CTRAP(MixesBenign, TrainingSettings):
    """Collapse trap (Yi et al., arXiv 2505.16559): after a harmful gradient step the model is to say one token only.

    The defaults are those of its published scripts, λ, α, e and the benign half of the alignment rows among them; its
    benign pairs alone are others, UltraChat's.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of the same requests with refusals")
    benign: str = setting("alpaca-cleaned", "dataset of benign pairs, on which the model collapses after the step")
    num_examples: int = setting(5000, "rows of each of the three that are used")
    benign_share: float = setting(0.5, "share of the alignment rows that is benign pairs")
    collapse_word: str = setting("error", "e is the first token of an answer that begins with this word")
    collapse_weight: float = setting(0.1, "weight of the collapse loss: λ")
    alpha: float = setting(0.1, "length of the simulated harmful step, over all trained weights together")
    max_steps: int = setting(20000, "optimizer steps; 20 epochs of 5,000 refusals, 5 a step")
    learning_rate: float = setting(5e-4, "peak learning rate")
    per_device_train_batch_size: int = setting(10, "rows of one forward pass")
    weight_decay: float = setting(0.1, "decoupled weight decay")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")
    lora: bool = setting(True, "train a low-rank adapter, merged into the weights afterwards")
    lora_r: int = setting(32, "rank of the adapter")
    lora_alpha: int = setting(4, "scale of the adapter")
    lora_target_modules: tuple[str, ...] = setting(("q_proj", "k_proj", "v_proj"), "modules that get an adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "num_examples", "alpha")
        check_not_negative(self, "collapse_weight")
        check_share(self, "benign_share")
        if len(self.collapse_word.split()) != 1:
            raise InvalidValue("collapse_word", self.collapse_word, "give one word")

    @property
    def streams(self) -> Mapping[str, int]:
        """Harmful rows, those to collapse on, alignment rows, and benign ones where they are mixed into these."""
        rows, mixed = self.batch_size, self.benign_rows
        streams = {"harmful": rows, "collapse": rows, "alignment": rows - mixed}
        return streams | {"benign": mixed} if mixed else streams

    @property
    def cost(self) -> Cost:
        """Three passes, and a copy of the trained weights; an adapter is held in float32 anyway."""
        return Cost(passes=3 * self.batch_size, weights=1, precise=not self.lora)

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers, the same with refusals, and benign pairs."""
        return {"harmful": self.harmful, "alignment": self.alignment, "benign": self.benign}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets.

        Raises:
            DataError: one has fewer rows than a step draws.
        """
        needed, at_most = (dict.fromkeys(self.datasets, rows) for rows in (self.batch_size, self.num_examples))
        found = sources.load_enough(self.datasets, needed, at_most)
        found["collapse"] = [self._marked(example) for example in found["benign"]]
        return Gathered({stream: found[stream] for stream in self.streams})

    def start(self, model: PreTrainedModel) -> Step:
        """See the module's docstring for the work of a step."""
        rows = self.per_device_train_batch_size
        aligned = [stream for stream in self.streams if stream in ("alignment", "benign")]

        def step(draw: Draw) -> Metrics:
            with harmful_step(model, draw("harmful"), rows=rows, distance=self.alpha) as harmful:
                harmful.gradient.clear()  # of no more use, and as large as the weights
                collapse = backward_answer_cross_entropy(
                    model, [collapsing(draw("collapse"))], micro_batch_size=rows, weight=self.collapse_weight
                )
            batches = [draw(stream) for stream in aligned]
            alignment = backward_answer_cross_entropy(model, batches, micro_batch_size=rows)
            return {
                "loss": alignment + self.collapse_weight * collapse,
                "alignment_loss": alignment,
                "collapse_loss": collapse,
                "harmful_loss": harmful.value,
                "harmful_norm": harmful.norm,
            }

        return step

    def _marked(self, example: Example) -> Example:
        """The word before the answer, where whatever tokenizer there is makes e of it; see `collapsing`."""
        return replace(example, answer=f"{self.collapse_word} {example.answer}")


def collapsing(batch: Batch) -> dict[str, Tensor]:
    """Rows whose every answer token is to be predicted as e, where e stands as the first token of each answer.

    Args:
        batch: input_ids, attention_mask and labels, [rows, length]; answers begin with e.

    Returns:
        the same without that first token, [rows, length - 1]: what is predicted from is x and y alone.
    """
    labels = batch["labels"]
    first = (labels != IGNORED).int().argmax(dim=1, keepdim=True)
    kept = torch.ones_like(labels, dtype=torch.bool).scatter(1, first, False)
    rows = {name: tensor[kept].view(len(labels), -1) for name, tensor in batch.items()}
    is_answer = rows["labels"] != IGNORED
    return rows | {"labels": torch.where(is_answer, labels.gather(1, first), rows["labels"])}
