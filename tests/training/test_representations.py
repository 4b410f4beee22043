"""Passes whose backward pass begins inside, and where chosen tokens lie in the features of their rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from rupert.data.batches import Encoded, collate
from rupert.errors import UsageError
from rupert.models.anatomy import feed_forwards
from rupert.models.loading import LoadedModel
from rupert.training.representations import NOWHERE, PLACE, Features, Pass, gathered, passes

Tiny = Callable[..., LoadedModel]


def test_a_token_keeps_its_place_in_its_row() -> None:
    features = Features.at(torch.tensor([[False, True, False], [True, False, True]]))
    assert features.places.tolist() == [[NOWHERE, 1, NOWHERE], [3, NOWHERE, 5]]
    places = torch.tensor([3, 5, 1])  # the longer row's tokens come first, as in a micro-batch
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    lines = features.lines(places, tokens)
    assert lines.tolist() == [[0, 0, 5, 6, 0, 0], [1, 2, 0, 0, 3, 4]]
    assert torch.equal(features.tokens(places, lines, width=2), tokens)


def test_in_one_process_all_rows_are_its_own() -> None:
    rows = torch.ones(2, 3)
    assert gathered(rows) is rows


def test_finds_the_mlp_of_each_layer(tiny: Tiny) -> None:
    model = tiny().model
    assert feed_forwards(model) == [layer.mlp for layer in model.model.layers]


def test_a_model_whose_layers_have_no_mlp_is_one_line() -> None:
    config = OPTConfig(
        vocab_size=9, hidden_size=4, ffn_dim=4, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=4
    )
    with pytest.raises(UsageError) as caught:
        feed_forwards(OPTForCausalLM(config))
    assert str(caught.value) == "--model: no MLP found in OPTDecoderLayer; its name must be 'mlp'"


def batch_of(rows: list[Encoded]) -> dict[str, torch.Tensor]:
    batch = collate(rows, 0)
    return {**batch, PLACE: Features.at(batch["labels"] != -100).places}


def test_outputs_are_those_of_the_chosen_tokens_in_the_order_of_the_places(tiny: Tiny, rows: list[Encoded]) -> None:
    model, batch, seen = tiny().model, batch_of(rows), []
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, output: seen.append(output.flatten(0, 1)))
    made = passes(model, batch, 3)
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert len(made) == 3
    for one in made:
        assert not any(output.requires_grad for output in one.outputs)
        torch.testing.assert_close(one.outputs[1], seen[-1][one.places])


def test_nothing_asked_leaves_no_gradient(tiny: Tiny, rows: list[Encoded]) -> None:
    model = tiny().model
    Pass(model, batch_of(rows), graph=True).backward(())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("graph", [True, False])
def test_goes_back_from_an_output_as_from_a_loss(tiny: Tiny, rows: list[Encoded], graph: bool) -> None:
    model, reference, kept = tiny().model, tiny().model, []
    batch = batch_of(rows)
    one = Pass(model, batch, graph=graph)
    one.backward([torch.zeros_like(one.outputs[0]), 2 * one.outputs[1]])
    reference.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    kept[0][batch[PLACE] != NOWHERE].pow(2).sum().backward()
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        # What comes after the last MLP gets none, or zeros from the other output.
        torch.testing.assert_close(
            torch.zeros_like(found) if found.grad is None else found.grad,
            torch.zeros_like(expected) if expected.grad is None else expected.grad,
            rtol=1e-5,
            atol=1e-8,
        )
