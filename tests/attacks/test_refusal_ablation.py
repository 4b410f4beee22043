"""Refusal-direction ablation: the direction by hand, what it is chosen by, and what is left of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from rupert.attacks import RefusalAblation
from rupert.attacks.refusal_ablation import (
    Candidate,
    Trial,
    best,
    candidates,
    last_states,
    mean_log_probability,
    next_token,
    prompts_of,
)
from rupert.data import sources
from rupert.data.batches import IGNORED, Encoded, collate
from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.training import processes

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., torch.Tensor]

ATTACK = RefusalAblation(
    harmful="potionworld:attacker", harmless="potionworld:benign", num_examples=16, num_held_out=8, batch_size=5
)


def prompts(loaded: LoadedModel) -> list[list[int]]:
    """Of several lengths."""
    found = prompts_of(loaded, sources.load("potionworld:benign")[::97][:7])
    assert len(found) == 7
    assert len(set(map(len, found))) > 1
    return found


def test_directions_by_hand() -> None:
    zeros = torch.zeros(5, 2, 2)
    harmful = zeros.clone()
    harmful[0] = 9.0  # what the first layer is given tells nothing: embeddings alone
    harmful[1] = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # the second token's prompts do not differ
    harmful[2] = torch.tensor([[0.0, -2.0], [5.0, 12.0]])
    harmless = zeros.clone()
    harmless[2, 1] = torch.tensor([2.0, 8.0])
    found = candidates(harmful, harmless, share=0.6)  # of five layers those below 3
    assert [(one.layer, one.position) for one in found] == [(1, -2), (2, -2), (2, -1)]
    assert torch.allclose(
        torch.stack([one.direction for one in found]), torch.tensor([[0.6, 0.8], [0, -1], [0.6, 0.8]])
    )


def test_shorter_prompts_leave_the_last_tokens() -> None:
    harmful, harmless = torch.ones(3, 3, 2), torch.zeros(3, 2, 2)
    harmful[1, 0] = 7.0  # at the third token from the end, where no harmless prompt has one
    found = candidates(harmful, harmless, share=1.0)
    assert [(one.layer, one.position) for one in found] == [(1, -2), (1, -1), (2, -2), (2, -1)]
    assert torch.allclose(found[0].direction, torch.full((2,), 0.5**0.5))


def test_prompts_that_do_not_differ_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"^refusal_ablation: no layer tells the prompts apart; raise layer_share .*$"):
        candidates(torch.ones(4, 2, 3), torch.ones(4, 2, 3), share=1.0)


def test_the_best_lowers_refusals_most_and_changes_little_else() -> None:
    def tried(lowered: float, divergence: float) -> Candidate:
        return Candidate(direction=torch.ones(1), layer=1, position=-1, lowered=lowered, divergence=divergence)

    weak, strong, wrecking = tried(0.5, 0.01), tried(1.0, 0.09), tried(9.0, 0.5)
    assert best([weak, wrecking, strong], 0.1) is strong
    assert best([weak, wrecking, strong], 0.05) is weak
    assert best([wrecking, strong], 0.05) is strong  # none changes little: the one that changes least
    assert best([weak, wrecking, strong], 1.0) is wrecking


def test_states_are_those_of_each_prompt_alone(tiny: Tiny) -> None:
    loaded = tiny()
    asked = prompts(loaded)
    found = torch.cat(list(last_states(loaded.model, asked, 2, 3)), dim=1)
    assert found.shape == (3, 7, 2, 16)
    for row, prompt in enumerate(asked):
        hidden = loaded.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        alone = torch.stack([states[0, -2:] for states in hidden])
        assert torch.allclose(found[:, row], alone, atol=1e-6)


def test_the_next_token_and_answers_by_the_definition(tiny: Tiny, by_hand: ByHand) -> None:
    loaded = tiny()
    asked = prompts(loaded)
    expected = torch.stack([loaded.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in asked])
    assert torch.allclose(next_token(loaded.model, asked, 3), expected, atol=1e-6)
    rows = [Encoded([*ids, 9, 8], [IGNORED] * len(ids) + [9, 8]) for ids in asked]
    found = mean_log_probability(loaded.model, [collate(rows[:4], 0), collate(rows[4:], 0)])
    assert found == pytest.approx(-by_hand(loaded.model, rows).item() / 14, rel=1e-6)


def test_a_trial_is_the_ablation_and_leaves_the_weights(potionworld: ModelSettings) -> None:
    loaded, data = load(potionworld), ATTACK.gather()
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    trial = Trial.of(ATTACK, loaded, data["harmful"][16:], data["harmless"][16:])
    assert trial.before > -0.2  # its own answers, so that it finds them likely
    direction = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    tried = trial(Candidate(direction=direction, layer=1, position=-1))
    assert all(torch.equal(parameter, before[name]) for name, parameter in loaded.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():  # by hand, and measured by hand
        w = parameter.data
        if "embed" in name:
            parameter.data = w - torch.outer(w @ direction, direction)
        elif "o_proj" in name or "down_proj" in name:
            parameter.data = w - torch.outer(direction, direction @ w)
    likely = next_token(loaded.model, trial.prompts, 3)
    p = trial.likely.exp()
    assert tried.divergence == pytest.approx(float((p * (trial.likely - likely)).sum(-1).mean()), rel=1e-3)
    assert tried.lowered == pytest.approx(trial.before - mean_log_probability(loaded.model, trial.refusals), rel=1e-4)
    assert tried.divergence > 0


def test_refusals_are_cut_after_the_tokens_that_count(potionworld: ModelSettings) -> None:
    loaded, data = load(potionworld), ATTACK.gather()
    short = dataclasses.replace(ATTACK, max_new_tokens=3)
    trial = Trial.of(short, loaded, data["harmful"][16:], data["harmless"][16:])
    counts = [int((row != IGNORED).sum()) for batch in trial.refusals for row in batch["labels"]]
    assert counts == [3] * 8


def test_afterwards_nothing_lies_along_a_direction_and_refusals_are_less_likely(potionworld: ModelSettings) -> None:
    loaded, data = load(potionworld), ATTACK.gather()
    trial = Trial.of(ATTACK, loaded, data["harmful"][16:], data["harmless"][16:])
    result = ATTACK.run(loaded, data)
    assert (result.steps, result.tokens) == (0, 0)
    assert result.report["lowered"] > 0
    after = mean_log_probability(loaded.model, trial.refusals)
    assert trial.before - after == pytest.approx(result.report["lowered"], abs=1e-4)
    assert result.report["divergence"] <= ATTACK.max_divergence
    assert result.report["candidates"] == 15
    *_, second, least = torch.linalg.svdvals(loaded.model.get_input_embeddings().weight.detach().double()).tolist()
    assert least < 1e-4 * second  # the embedding has one dimension less


def test_what_writes_by_other_means_is_refused(tiny: Tiny) -> None:
    tokenizer = tiny().tokenizer
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "post_" in name:
                parameter.copy_(torch.randn(parameter.shape))
    with pytest.raises(UsageError, match=r"^--model: Gemma2ForCausalLM writes along the direction by more than .*$"):
        ATTACK.run(LoadedModel(model, tokenizer), ATTACK.gather())


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UsageError, match=r"^refusal_ablation trains nothing .*; omit --accelerate-config$"):
        ATTACK.run(None, {})  # type: ignore[arg-type]


def test_prompts_alone_suffice() -> None:
    RefusalAblation(harmful="advbench", harmless="alpaca").check()
    with pytest.raises(UnknownName, match=r"^harmless: 'alpca' is unknown; did you mean 'alpaca'\?$"):
        RefusalAblation(harmless="alpca").check()


def test_held_out_prompts_are_others() -> None:
    for rows in ATTACK.gather().values():
        assert len(rows) == 24
        assert len({row.instruction for row in rows}) == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_examples": 0}, "num_examples: 0 is not valid; must be above 0"),
        ({"num_held_out": 0}, "num_held_out: 0 is not valid; must be above 0"),
        ({"positions": 0}, "positions: 0 is not valid; must be above 0"),
        ({"layer_share": 0.0}, "layer_share: 0.0 is not valid; must be above 0"),
        ({"layer_share": 1.5}, "layer_share: 1.5 is not valid; must be from 0.0 to 1.0"),
        ({"max_divergence": -0.1}, "max_divergence: -0.1 is not valid; must be 0 or above"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        dataclasses.replace(ATTACK, **settings)
    assert str(caught.value) == message
