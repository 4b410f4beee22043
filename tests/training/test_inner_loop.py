"""Simulated attacks: which are drawn, whose rows they take, and that PyTorch's AdamW makes the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from rupert.data.batches import Encoded, collate
from rupert.models.loading import LoadedModel
from rupert.training.inner_loop import Attack, attacked, dealt, draw_attack
from rupert.training.losses import answer_cross_entropy, answer_tokens

Tiny = Callable[..., LoadedModel]

RATES = (2e-6, 2e-5, 4e-5)


def drawn(count: int, *, steps: int = 64, share: float = 1 / 3, at: tuple[float, float] = (6.0, 3.0)) -> list[Attack]:
    torch.manual_seed(0)
    return [draw_attack(steps=steps, learning_rates=RATES, switch_share=share, switch_at=at) for _ in range(count)]


def test_adversaries_are_drawn_as_the_paper_says() -> None:
    attacks = drawn(3000)
    rates = Counter(attack.learning_rate for attack in attacks)
    assert rates.keys() == set(RATES)
    assert all(900 < count < 1100 for count in rates.values())
    switching = [attack.benign_steps for attack in attacks if attack.benign_steps]
    assert 900 < len(switching) < 1100
    assert 41 < sum(switching) / len(switching) < 43.5  # the mean of Beta(6, 3) is 2/3; rounded down, of 64 steps
    assert all(0 < steps < 64 for steps in switching)


def test_without_switching_all_steps_are_harmful() -> None:
    assert {attack.benign_steps for attack in drawn(50, share=0.0)} == {0}
    assert all(attack.benign_steps for attack in drawn(50, share=1.0))


def test_draws_follow_the_global_generator() -> None:
    """Checkpoints keep it, so that a resumed run goes on with the draws of the interrupted one."""
    first = drawn(4)
    assert drawn(4) == first
    state = torch.get_rng_state()
    following = draw_attack(steps=64, learning_rates=RATES, switch_share=0.5, switch_at=(6.0, 3.0))
    torch.set_rng_state(state)
    assert draw_attack(steps=64, learning_rates=RATES, switch_share=0.5, switch_at=(6.0, 3.0)) == following


def test_rows_are_dealt_so_that_processes_add_up_to_one() -> None:
    """A process's rows are one stretch of what a single process draws; dealt, they are of the same inner step."""
    whole = {"input_ids": torch.arange(24)[:, None]}
    halves = [{"input_ids": whole["input_ids"][:12]}, {"input_ids": whole["input_ids"][12:]}]
    alone = [sorted(batch["input_ids"].flatten().tolist()) for batch in dealt(whole, 3)]
    both = [
        torch.cat([a["input_ids"], b["input_ids"]]).flatten()
        for a, b in zip(*(dealt(h, 3) for h in halves), strict=True)
    ]
    assert [sorted(batch.tolist()) for batch in both] == alone
    assert sorted(number for batch in alone for number in batch) == list(range(24))
    assert [len(batch) for batch in alone] == [8, 8, 8]


@pytest.mark.parametrize("micro_batch_size", [2, 8])
def test_steps_are_those_of_adamw_and_leave_the_gradient(
    tiny: Tiny, rows: Sequence[Encoded], micro_batch_size: int
) -> None:
    model, reference = tiny().model, tiny().model
    batches = [collate(rows[:4], 0), collate(rows[4:], 0)]
    expected, optimizer = [], torch.optim.AdamW(reference.parameters(), lr=0.01)
    for batch in batches:
        loss = answer_cross_entropy(reference, batch) / answer_tokens(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    held = torch.ones_like(model.lm_head.weight)
    model.lm_head.weight.grad = held
    found = list(attacked(model, batches, learning_rate=0.01, micro_batch_size=micro_batch_size))
    assert found == pytest.approx(expected, rel=1e-12)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert model.lm_head.weight.grad is held
    assert (held == 1).all()
    assert all(p.grad is None for p in model.parameters() if p is not model.lm_head.weight)
