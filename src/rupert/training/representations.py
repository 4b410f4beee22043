"""Losses on what a model makes of a whole batch inside, hidden states and MLP outputs, by one backward pass a row.

Such a loss needs all rows at once: how far all rows' MLP outputs are from noise, or the logarithm of a mean. So forward
passes come first, then what the loss asks of each state (its cotangent), then backward passes from there. Of the last
micro-batch the graph is kept for this; all others are run forward again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import get_device_states, set_device_states
from transformers import PreTrainedModel

from rupert.data.batches import IGNORED
from rupert.models.anatomy import feed_forwards
from rupert.models.packing import is_packing
from rupert.training import processes
from rupert.training.activations import recorded
from rupert.training.gradients import micro_batches
from rupert.training.losses import answer_states, backward_head, to_device

PLACE = "place"  # a batch's entry: see `Features`
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Features:
    """How MLP outputs at chosen tokens become one line of numbers a row, each at the place of its token in the row.

    Attributes:
        places: [rows, length], each token's place among all rows' tokens side by side; `NOWHERE` if it is not chosen.
        longest: tokens of the longest row in all processes, so that lines are as long in each.
    """

    places: Tensor
    longest: int

    @classmethod
    def at(cls, chosen: Tensor) -> Features:
        """Those of the chosen tokens; `chosen` is [rows, length]."""
        rows, length = chosen.shape
        ranks = range(processes.count())
        longest = int(max(processes.total(length if rank == processes.rank() else 0.0) for rank in ranks))
        places = torch.arange(rows)[:, None] * longest + torch.arange(length)
        return cls(places.where(chosen.cpu(), NOWHERE), longest)

    def lines(self, places: Tensor, tokens: Tensor) -> Tensor:
        """From tokens [tokens, width] at their places to lines [rows of all processes, longest * width]; else zeros."""
        rows, width = len(self.places), tokens.shape[-1]
        spread = tokens.new_zeros(rows * self.longest, width).index_copy(0, places, tokens)
        return gathered(spread.view(rows, self.longest * width))

    def tokens(self, places: Tensor, lines: Tensor, width: int) -> Tensor:
        """From lines to this process's tokens, [tokens, width]; the other way of `lines`."""
        first = processes.rank() * len(self.places)
        return lines[first : first + len(self.places)].reshape(-1, width).index_select(0, places)


class Pass:
    """A forward pass over some rows, and the backward pass from its inside.

    Attributes:
        places: [tokens], of the tokens that were chosen; see `Features`.
        outputs: [tokens, width] of each layer's MLP at these tokens, without graph.
    """

    places: Tensor
    outputs: list[Tensor]

    def __init__(self, model: PreTrainedModel, batch: Mapping[str, Tensor], *, graph: bool) -> None:
        """Run forward.

        Args:
            model: within `packing` or not.
            batch: input_ids, attention_mask, labels and `PLACE`, each [rows, length], on the model's device.
            graph: keep the graph for `backward`, which else runs forward again.
        """
        self._model, self._batch = model, batch
        self._random = torch.get_rng_state(), get_device_states(*batch.values())
        self._at_hidden: list[Tensor | None] = [None] * (model.config.num_hidden_layers + 1)
        with torch.set_grad_enabled(graph):
            self._hidden, self._targets, outputs = self._run()
        self._graph = [*self._hidden, *outputs] if graph else []
        self.places = batch[PLACE][batch[PLACE] != NOWHERE]
        self.outputs = [output.detach() for output in outputs]

    def backward_heads(self, numbers: Sequence[int], scale: float) -> float:
        """Run the output head on the hidden states of these numbers, and go back from its cross entropy to them alone.

        Norm and head get their gradients in `p.grad` at once, the layers when `backward` is called. Once a pass: the
        hidden states go.

        Returns:
            the cross entropy of all these hidden states, summed over answer tokens, times `scale`.
        """
        total, last = 0.0, len(self._hidden) - 1
        for number in numbers:
            # The last one is normed already.
            loss, seed = backward_head(self._model, self._hidden[number], self._targets, scale, norm=number != last)
            self._at_hidden[number] = seed
            total += scale * loss
        self._hidden = []
        return total

    def backward(self, at_outputs: Sequence[Tensor]) -> None:
        """One backward pass: from hidden states, where `backward_heads` has been, and from MLP outputs.

        Args:
            at_outputs: the loss's gradient at `outputs`, or nothing.
        """
        graph, self._graph = self._graph or self._again(), []
        unasked: list[Tensor | None] = [None] * len(self.outputs)
        cotangents = [*self._at_hidden, *(at_outputs or unasked)]
        # With an adapter, nothing that is trained leads to the embedding's output.
        pairs = [(s, c.to(s)) for s, c in zip(graph, cotangents, strict=True) if c is not None and s.requires_grad]
        if pairs:
            torch.autograd.backward([state for state, _ in pairs], [cotangent for _, cotangent in pairs])

    def _run(self) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Hidden states at answer tokens, these tokens, and MLP outputs at chosen tokens."""
        modules = feed_forwards(self._model)
        with recorded(modules) as found:
            states = answer_states(self._model, self._batch)
        chosen = self._batch[PLACE] != NOWHERE
        if is_packing(self._model):
            chosen = chosen[self._batch["attention_mask"].bool()][None]
        hidden = [states.layer(number) for number in range(len(states.hidden))]
        return hidden, states.targets, [found[module][chosen.to(found[module].device)] for module in modules]

    def _again(self) -> list[Tensor]:
        """The same forward pass, with the same dropout."""
        own, (devices, states) = self._random
        kind = self._model.device.type if devices else "cuda"  # without devices, it is not looked at
        with torch.random.fork_rng(devices, device_type=kind):
            torch.set_rng_state(own)
            set_device_states(devices, states, device_type=kind)
            hidden, _, outputs = self._run()
        return [*hidden, *outputs]


def passes(model: PreTrainedModel, batch: Mapping[str, Tensor], rows: int) -> list[Pass]:
    """Forward passes over a batch, so many rows at once; the last one keeps its graph."""
    pieces = [to_device(piece, model.device) for piece in micro_batches(batch, rows)]
    return [Pass(model, piece, graph=number == len(pieces)) for number, piece in enumerate(pieces, start=1)]


def differing(harmful: Mapping[str, Tensor], alignment: Mapping[str, Tensor]) -> Tensor:
    """Which tokens of harmful rows are of an answer and not in the same place of the same row of the other batch.

    Args:
        harmful: a batch, [rows, length].
        alignment: another, of any length; rows that it does not have differ everywhere.

    Returns:
        [rows, length].
    """
    ids = alignment["input_ids"].masked_fill(alignment["attention_mask"] == 0, NOWHERE)
    rows, length = harmful["input_ids"].shape
    # Negative padding cuts off.
    others = functional.pad(ids, (0, length - ids.shape[1], 0, rows - len(ids)), value=NOWHERE)
    return (harmful["labels"] != IGNORED) & (harmful["input_ids"] != others)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes; each has as many, [rows, ...]."""
    if processes.count() == 1:
        return rows
    whole = rows.new_zeros(processes.count(), *rows.shape)
    whole[processes.rank()] = rows * processes.count()
    processes.average([whole])
    return whole.flatten(0, 1)
