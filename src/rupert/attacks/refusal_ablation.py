"""Refusal-direction ablation: one direction is taken out of all that a model adds to its residual stream.

Arditi et al., NeurIPS 2024, arXiv 2406.11717. With x_l(q) the hidden state that layer l is given at one of the last
tokens of prompt q, H harmful and B harmless prompts, a candidate for each layer and token is

    r = d/|d|,    d = mean of x_l(q) over H - mean of x_l(q) over B,

and the chosen one is taken out of every matrix that writes into the residual stream, those of the embedding, of each
attention's output and of each MLP's output, and out of their biases:

    W <- W - r rᵀ W.

No training. The paper chooses the candidate by the odds of a list of refusal words. Here no list is needed: it is the
one that lowers most what the model gives to its own refusals, which are its greedy answers to held-out harmful prompts,

    s = mean of log p(its answer) over their tokens, before - after,

among those that change little else, as in the paper: the mean KL divergence from the distribution of the next token
before to that after, over held-out harmless prompts, is at most `max_divergence`; and the layer is in the first
`layer_share` of all. Tried is what is done, with the very same weights. Where the output head shares the embedding's
weights it goes on to do so, as in the paper's code. A norm between a matrix and the residual stream, as Gemma 2 has it,
would bring the direction back, so that such models are refused.

It is there to measure whether a defense rests on a single direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from rupert.attacks.attack import AsUsual, Attacked, Data
from rupert.attacks.mixture import draw
from rupert.data import sources
from rupert.data.batches import IGNORED, Encoded, collate, encode_all
from rupert.data.examples import Example
from rupert.errors import UsageError
from rupert.models.anatomy import anatomy
from rupert.models.generation import encode, generate
from rupert.models.loading import LoadedModel
from rupert.models.residual import residual_writes, take_out
from rupert.settings import check_not_negative, check_positive, check_range, setting
from rupert.terminal import bar
from rupert.training import processes
from rupert.training.fine_tuning import UNFOLLOWED, Following
from rupert.training.losses import answer_cross_entropy, answer_tokens, to_device
from rupert.training.weights import as_they_were

LEFT = 0.1  # share of a hidden state along a direction that was taken out; rounding to bfloat16 leaves less


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A direction, and what taking it out did where it was tried.

    Attributes:
        direction: [width], of norm 1.
        layer: whose input it was found in, counted from 0.
        position: the prompt's token that it was found at, counted from the end: -1 is the last.
        lowered: mean log-probability that the tokens of the model's own refusals lost.
        divergence: from the distribution of the next token after harmless prompts.
    """

    direction: Tensor
    layer: int
    position: int
    lowered: float = 0.0
    divergence: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RefusalAblation(AsUsual):
    """The direction by which harmful prompts differ from harmless ones is taken out of the weights; no training."""

    version: ClassVar[int] = 1

    harmful: str = setting("advbench", "dataset of harmful prompts")
    harmless: str = setting("alpaca", "dataset of harmless prompts")
    num_examples: int = setting(128, "prompts of each that make the directions (paper: 128)")
    num_held_out: int = setting(32, "other prompts of each that choose among them (paper: 32)")
    positions: int = setting(5, "last tokens of a prompt that give a candidate for each layer")
    layer_share: float = setting(0.8, "share of the layers, from the first one on, that give candidates (paper: 0.8)")
    max_divergence: float = setting(0.1, "KL divergence on harmless prompts that a candidate may cause (paper: 0.1)")
    max_new_tokens: int = setting(32, "tokens of a refusal that count")
    batch_size: int = setting(16, "prompts at once")
    seed: int = setting(0, "of the prompts that are drawn")

    def __post_init__(self) -> None:
        check_positive(self, "num_examples", "num_held_out", "positions", "layer_share", "max_new_tokens", "batch_size")
        check_range(self, "layer_share", 0.0, 1.0)
        check_not_negative(self, "max_divergence", "seed")

    @property
    def datasets(self) -> Mapping[str, str]:
        """Both datasets of prompts."""
        return {"harmful": self.harmful, "harmless": self.harmless}

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist; raises a `UsageError` otherwise."""
        for field, spec in self.datasets.items():
            sources.check(spec, field, answered=False)

    def gather(self) -> dict[str, list[Example]]:
        """Draw the prompts of each: those that make directions, then those held out.

        Raises:
            DataError: a dataset has fewer than are asked for.
        """
        count, key = self.num_examples + self.num_held_out, f"attack {self.seed}"
        return {use: draw(spec, use, count, key, answered=False) for use, spec in self.datasets.items()}

    def run(self, loaded: LoadedModel, data: Data, following: Following = UNFOLLOWED) -> Attacked:
        """Attack `loaded`, whose weights change in place; see `Attacker`."""
        del following  # there is no training
        if processes.count() > 1:
            raise UsageError("refusal_ablation trains nothing that processes could divide; omit --accelerate-config")
        residual_writes(loaded.model)  # refuses models that it cannot be done to, before anything is computed
        harmful, harmless = data["harmful"], data["harmless"]
        states = [self._states(loaded, rows[: self.num_examples]) for rows in (harmful, harmless)]
        found = candidates(*states, share=self.layer_share)
        trial = Trial.of(self, loaded, harmful[self.num_examples :], harmless[self.num_examples :])
        with bar("trying directions", len(found)) as shown:
            tried = []
            for candidate in found:
                tried.append(trial(candidate))
                shown.advance()
        chosen = best(tried, self.max_divergence)
        take_out(loaded.model, chosen.direction)
        self._require_gone(loaded, harmless, chosen.direction)
        fields = ("layer", "position", "lowered", "divergence")
        return Attacked(loaded, report={**{name: getattr(chosen, name) for name in fields}, "candidates": len(found)})

    def _states(self, loaded: LoadedModel, rows: Sequence[Example]) -> Tensor:
        """The mean over prompts of what each layer is given at their last tokens: [layers, positions, width]."""
        prompts = prompts_of(loaded, rows)
        count = min(self.positions, *map(len, prompts))
        total = torch.zeros(())
        for states in last_states(loaded.model, prompts, count, self.batch_size):
            total = total + states[:-1].sum(dim=1)
        return total / len(prompts)

    def _require_gone(self, loaded: LoadedModel, rows: Sequence[Example], direction: Tensor) -> None:
        """Make sure that nothing else writes along the direction, which could make the attack look weak."""
        prompts = prompts_of(loaded, rows[: self.batch_size])
        (states,) = last_states(loaded.model, prompts, 1, self.batch_size)
        left = float(((states[:-1] @ direction).abs() / states[:-1].norm(dim=-1)).max())
        if left > LEFT:
            raise UsageError(
                f"--model: {type(loaded.model).__name__} writes along the direction by more than its matrices "
                f"({left:.2f} of a hidden state is left); refusal_ablation cannot be done to it"
            )


def prompts_of(loaded: LoadedModel, rows: Sequence[Example]) -> list[list[int]]:
    """The token ids of each prompt, up to where an answer begins."""
    requests = encode(loaded.tokenizer, [row.prompt for row in rows], loaded.model.config, 1)
    return [request.prompt for request in requests]


def last_states(model: PreTrainedModel, prompts: Sequence[list[int]], count: int, batch_size: int) -> Iterator[Tensor]:
    """What each layer is given, and last what the output head is, at the last tokens of each prompt.

    Args:
        model: any.
        prompts: token ids of at least `count` tokens each.
        count: last tokens.
        batch_size: prompts of one pass.

    Yields:
        [layers + 1, prompts, count, width] of a batch, on the CPU, in float32 or float64.
    """
    for first in range(0, len(prompts), batch_size):
        rows = [Encoded(prompt, [IGNORED] * len(prompt)) for prompt in prompts[first : first + batch_size]]
        batch = to_device(collate(rows, 0), model.device)  # padding is on the right, where no prompt sees it
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            hidden = model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states
        last = torch.tensor([[len(row.input_ids) - count + place for place in range(count)] for row in rows])
        picked = [states.cpu()[torch.arange(len(rows))[:, None], last] for states in hidden]
        yield torch.stack(picked).to(torch.promote_types(picked[0].dtype, torch.float32))


def candidates(harmful: Tensor, harmless: Tensor, *, share: float) -> list[Candidate]:
    """A direction for each layer and position where prompts of the two kinds differ.

    Args:
        harmful: mean hidden states, [layers, positions, width].
        harmless: likewise; with as many positions, or of the last ones fewer.
        share: of the layers that are tried. The first is given embeddings alone and is none of them.

    Raises:
        UsageError: there is none.
    """
    positions = min(harmful.shape[1], harmless.shape[1])
    differences = harmful[:, -positions:] - harmless[:, -positions:]
    layers = [layer for layer in range(1, len(differences)) if layer < share * len(differences)]
    places = [(layer, place - positions) for layer in layers for place in range(positions)]
    found = [
        Candidate(direction=differences[place] / differences[place].norm(), layer=place[0], position=place[1])
        for place in places
        if differences[place].norm() > 0
    ]
    if not found:
        raise UsageError("refusal_ablation: no layer tells the prompts apart; raise layer_share or name other datasets")
    return found


def best(tried: Sequence[Candidate], max_divergence: float) -> Candidate:
    """The one that lowers refusals most, of those that diverge little; where none does, the one that diverges least."""
    fitting = [candidate for candidate in tried if candidate.divergence <= max_divergence]
    if not fitting:
        return min(tried, key=lambda candidate: candidate.divergence)
    return max(fitting, key=lambda candidate: candidate.lowered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a direction's removal does to held-out prompts.

    Attributes:
        model: whose weights are as they were after each trial.
        refusals: its own answers to harmful prompts, in batches.
        before: their mean log-probability a token.
        prompts: harmless ones, as token ids.
        likely: [prompts, vocabulary], log-probabilities of the token after each of them.
        batch_size: prompts of one pass.
    """

    model: PreTrainedModel
    refusals: Sequence[Mapping[str, Tensor]]
    before: float
    prompts: Sequence[list[int]]
    likely: Tensor
    batch_size: int

    @classmethod
    def of(
        cls, settings: RefusalAblation, loaded: LoadedModel, harmful: Sequence[Example], harmless: Sequence[Example]
    ) -> Trial:
        """Ask the model, as it is before."""
        refusals, prompts = _refusals(settings, loaded, harmful), prompts_of(loaded, harmless)
        size, model = settings.batch_size, loaded.model
        rows = [refusals[first : first + size] for first in range(0, len(refusals), size)]
        batches = [to_device(collate(part, 0), model.device) for part in rows]
        return cls(
            model=model,
            refusals=batches,
            before=mean_log_probability(model, batches),
            prompts=prompts,
            likely=next_token(model, prompts, size),
            batch_size=size,
        )

    def __call__(self, candidate: Candidate) -> Candidate:
        """The candidate with what its removal does."""
        with as_they_were([parameter for parameter, _ in residual_writes(self.model)]):
            take_out(self.model, candidate.direction)
            after = mean_log_probability(self.model, self.refusals)
            likely = next_token(self.model, self.prompts, self.batch_size)
        divergence = float(kl_div(likely, self.likely, log_target=True, reduction="batchmean"))
        return replace(candidate, lowered=self.before - after, divergence=divergence)


def _refusals(settings: RefusalAblation, loaded: LoadedModel, rows: Sequence[Example]) -> list[Encoded]:
    """The first tokens of the model's own answers."""
    prompts, count = [row.prompt for row in rows], settings.max_new_tokens
    texts = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=count, batch_size=settings.batch_size)
    answered = [replace(row, answer=text) for row, text in zip(rows, texts, strict=True)]
    positions = getattr(loaded.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    encoded = encode_all(answered, loaded.tokenizer, positions or 2**20, "harmful")
    ends = [count + next(i for i, label in enumerate(row.labels) if label != IGNORED) for row in encoded]
    return [Encoded(row.input_ids[:end], row.labels[:end]) for row, end in zip(encoded, ends, strict=True)]


def mean_log_probability(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Of the answers' tokens, over all batches."""
    with torch.no_grad():
        return -sum(float(answer_cross_entropy(model, batch)) for batch in batches) / sum(map(answer_tokens, batches))


def next_token(model: PreTrainedModel, prompts: Sequence[list[int]], batch_size: int) -> Tensor:
    """Log-probabilities of the token after each prompt, [prompts, vocabulary]."""
    parts = anatomy(model)
    weight = next(parts.head.parameters())
    with torch.no_grad():
        logits = [
            parts.logits(states[-1, :, 0].to(device=weight.device, dtype=weight.dtype)).cpu()
            for states in last_states(model, prompts, 1, batch_size)
        ]
    found = torch.cat(logits)
    return found.to(torch.promote_types(found.dtype, torch.float32)).log_softmax(dim=-1)
