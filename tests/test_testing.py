"""The rules that other packages test their methods by: each finds what breaks it, and passes what does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from rupert import testing
from rupert.attacks import Attacked, FineTune
from rupert.defenses import SDD
from rupert.evaluation.judges import Answer, Oracle, RefusalWords, Verdict
from rupert.training.objective import Draw, Gathered, Metrics, Step

TRAINED: dict[str, Any] = {"per_device_train_batch_size": 4, "max_length": 64, "learning_rate": 1e-3}
PAIRS: dict[str, Any] = TRAINED | {"pairs": "potionworld:defender"}
ROWS: dict[str, Any] = TRAINED | {"data": "potionworld:attacker", "num_examples": 8, "max_steps": 2}


def around(change: Callable[[Any, Any, Draw, Metrics], Metrics | None]) -> type[SDD]:
    """SDD, after whose step something else is done."""

    @dataclass(frozen=True, kw_only=True)
    class Changed(SDD):
        """SDD, changed."""

        def start(self, model: Any) -> Step:
            plain = super().start(model)

            def step(draw: Draw) -> Metrics:
                metrics = plain(draw)
                return change(self, model, draw, metrics) or metrics

            return step

    return Changed


def weight(model: Any) -> torch.nn.Parameter:
    parameter: torch.nn.Parameter = next(model.parameters())
    return parameter


def no_gradient(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    model.zero_grad()


def infinite_gradient(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    weight(model).grad.fill_(float("inf"))  # type: ignore[union-attr]


def no_loss(_: Any, model: Any, draw: Draw, metrics: Metrics) -> Metrics:
    return {"something": metrics["loss"]}


def tensor_loss(_: Any, model: Any, draw: Draw, metrics: Metrics) -> Metrics:
    return {"loss": torch.tensor(metrics["loss"])}  # type: ignore[dict-item]


def weights(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    with torch.no_grad():
        weight(model).add_(1.0)


def mode(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    model.eval()


def frozen(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    weight(model).requires_grad_(False)


def hook(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    model.register_forward_hook(print)


def per_pass(defense: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    weight(model).grad.mul_(defense.per_device_train_batch_size)  # type: ignore[union-attr]


def chance(_: Any, model: Any, draw: Draw, metrics: Metrics) -> None:
    weight(model).grad.mul_(1 + os.urandom(1)[0] + os.urandom(1)[0] / 256)  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class OneMore(SDD):
    """SDD that gathers what nobody draws."""

    def gather(self) -> Gathered:
        streams = super().gather().streams
        return Gathered({**streams, "benign": streams["pairs"]})


@dataclass(frozen=True, kw_only=True)
class Forgetful(SDD):
    """SDD whose settings are not what they were made with."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = SDD.__hash__


DEFENSES = [
    (testing.leaves_a_finite_gradient, around(no_gradient), "the gradient is zero"),
    (testing.leaves_a_finite_gradient, around(infinite_gradient), "the gradient is not finite"),
    (testing.reports_a_finite_loss, around(no_loss), "no 'loss' among its metrics ['something']"),
    (testing.reports_a_finite_loss, around(tensor_loss), "no finite float: ['loss']"),
    (testing.leaves_the_model_as_it_was, around(weights), "a step changed ['model.embed_tokens.weight']"),
    (testing.leaves_the_model_as_it_was, around(frozen), "a step changed ['model.embed_tokens.weight trained']"),
    (testing.leaves_the_model_as_it_was, around(mode), "a step changed [' mode', "),
    (testing.leaves_the_model_as_it_was, around(hook), "a step left hooks on the model"),
    (testing.adds_micro_batches_up, around(per_pass), "another gradient in micro-batches of one row"),
    (testing.hardens_by_its_seed, around(chance), "two hardenings with one seed differ"),
    (testing.draws_what_it_declares, OneMore, "gathers {"),
    (testing.survives_yaml, Forgetful, "other settings after JSON"),
]


@pytest.mark.parametrize(("rule", "method", "message"), DEFENSES)
def test_a_rule_finds_the_defense_that_breaks_it(rule: Callable[[Any], None], method: type[SDD], message: str) -> None:
    rule(SDD(**PAIRS))
    with pytest.raises(AssertionError) as caught:
        rule(method(**PAIRS))
    assert str(caught.value).startswith(message)


def test_every_rule_for_defenses_is_broken_once() -> None:
    assert {rule for rule, *_ in DEFENSES} == set(testing.DEFENSE_RULES)


def changed_attack(change: Callable[[Attacked], Attacked]) -> FineTune:
    """Fine-tuning, after which something else is done."""

    @dataclass(frozen=True, kw_only=True)
    class Changed(FineTune):
        """Fine-tuning, changed."""

        def run(self, *given: Any) -> Attacked:
            return change(super().run(*given))

    return Changed(**ROWS)


def with_weights(tuned: Attacked, value: float) -> Attacked:
    with torch.no_grad():
        weight(tuned.loaded.model).fill_(value)
    return tuned


def hooked(tuned: Attacked) -> Attacked:
    tuned.loaded.model.model.register_forward_hook(print)
    return tuned


def in_training(tuned: Attacked) -> Attacked:
    tuned.loaded.model.train()
    return tuned


@pytest.mark.parametrize(
    ("rule", "change", "message"),
    [
        (
            testing.attacks_by_its_seed,
            lambda tuned: with_weights(tuned, os.urandom(1)[0] + os.urandom(1)[0] / 256),
            "two attacks with one seed differ",
        ),
        (
            testing.attacks_by_its_seed,
            lambda tuned: with_weights(tuned, float("inf")),
            "a weight is not finite",
        ),
        (
            testing.attacks_by_its_seed,
            lambda tuned: replace(tuned, loaded=testing._potionworld()),
            "the attack changed no weight",
        ),
        (testing.returns_a_model_as_it_is_used, in_training, "the model is in training mode"),
        (testing.returns_a_model_as_it_is_used, hooked, "the attack left hooks on the model"),
        (
            testing.returns_a_model_as_it_is_used,
            lambda tuned: replace(tuned, report={"layers": (1, 2)}),
            "the report is no JSON",
        ),
    ],
)
def test_a_rule_finds_the_attack_that_breaks_it(
    rule: Callable[[Any], None], change: Callable[[Attacked], Attacked], message: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        rule(changed_attack(change))
    assert str(caught.value) == message


@pytest.mark.parametrize("rule", testing.ATTACK_RULES)
def test_fine_tuning_holds_to_the_rules(rule: Callable[[Any], None]) -> None:
    rule(FineTune(**ROWS))


@pytest.mark.parametrize("rule", testing.JUDGE_RULES)
@pytest.mark.parametrize("judge", [Oracle(), RefusalWords()])
def test_judges_hold_to_the_rules(rule: Callable[[Any], None], judge: Any) -> None:
    rule(judge)


def in_order(answers: Sequence[Answer]) -> list[Verdict]:
    return [Verdict(harmful=number == 0, refusal=False) for number, _ in enumerate(answers)]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda _: [Verdict(None, None)], "verdicts of no answers"),
        (lambda answers: [Verdict(None, None)] * min(len(answers), 1), "not one Verdict an answer"),
        (lambda answers: [True] * len(answers), "not one Verdict an answer"),
        (in_order, "a verdict depends on the answers around it"),
    ],
)
def test_a_rule_finds_the_judge_that_breaks_it(judge: Any, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        testing.says_one_verdict_an_answer(judge)
    assert str(caught.value) == message
