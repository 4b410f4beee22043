"""What it costs to break a model: when it is broken, and curves against a textbook's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt

import pytest

from rupert.errors import InvalidValue
from rupert.evaluation.break_cost import Attacked, Cost, Step, broke, compare, cost_of, curve
from rupert.evaluation.trajectory import Point
from rupert.evaluation.verdicts import Thresholds
from rupert.records import Metric

# Weeks to relapse of Freireich et al. 1963, the example of Kalbfleisch and Prentice and of Collett.
TREATED = [(6, 1), (6, 1), (6, 1), (6, 0), (7, 1), (9, 0), (10, 1), (10, 0), (11, 0), (13, 1), (16, 1)]
TREATED += [(17, 0), (19, 0), (20, 0), (22, 1), (23, 1), (25, 0), (32, 0), (32, 0), (34, 0), (35, 0)]
CONTROLS = [(week, 1) for week in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)]
THRESHOLDS = Thresholds(harm_threshold=0.5, ability_share=0.8)


def models(costs: Sequence[tuple[int, int]]) -> list[Attacked]:
    """Of pairs of a cost in steps, and whether the model broke at it."""
    return [Attacked(Cost(steps=steps, examples=0, flops=0.0, trials=1), bool(broken)) for steps, broken in costs]


def point(step: int, harm: float, ability: float) -> Point:
    return Point(
        step=step,
        rows=8 * step,
        tokens=100 * step,
        flops=1e6 * step,
        seconds=0.1 * step,
        harm=Metric("harm", harm),
        ability=Metric("ability", ability),
    )


def test_a_textbooks_curve() -> None:
    found = curve(models(TREATED), "steps")
    shares = {step.cost: step.unbroken for step in found.steps if step.broken}
    # Collett, Modelling Survival Data in Medical Research: .857 .807 .753 .690 .627 .538 .448
    by_hand = {6: 18 / 21, 7: 16 / 17, 10: 14 / 15, 13: 11 / 12, 16: 10 / 11, 22: 6 / 7, 23: 5 / 6}
    expected = 1.0
    for cost, share in by_hand.items():
        expected *= share
        assert shares.pop(cost) == pytest.approx(expected, rel=1e-12)
    assert not shares
    assert round(expected, 4) == 0.4482
    assert (found.n, found.broken) == (21, 9)
    assert [(step.cost, step.at_risk, step.broken) for step in found.steps[:4]] == [
        (6, 21, 3),
        (7, 17, 1),
        (9, 16, 0),
        (10, 15, 1),
    ]


def test_the_band_is_greenwoods_on_the_log_log_scale() -> None:
    found = {step.cost: step for step in curve(models(TREATED), "steps").steps}
    share = 18 / 21 * 16 / 17
    variance = 3 / (21 * 18) + 1 / (17 * 16)
    reach = 1.959963984540054 * sqrt(variance) / abs(log(share))
    assert found[7].low == pytest.approx(share ** exp(reach), rel=1e-9)
    assert found[7].high == pytest.approx(share ** exp(-reach), rel=1e-9)
    assert (found[9].unbroken, found[9].low, found[9].high) == (found[7].unbroken, found[7].low, found[7].high)


def test_the_medians_interval_is_where_the_band_crosses_one_half() -> None:
    treated, controls = curve(models(TREATED), "steps"), curve(models(CONTROLS), "steps")
    # As SAS's LIFETEST gives them: 23 (13, .) and 8 (4, 11).
    assert (treated.median, treated.low, treated.high) == (23, 13, None)
    assert (controls.median, controls.low, controls.high) == (8, 4, 11)


def test_a_textbooks_log_rank_test() -> None:
    found = compare(models(TREATED), models(CONTROLS), "steps")
    assert found.z is not None
    assert found.z < 0  # the treated hold out longer
    # Observed less expected among the treated: 9 - 19.25, variance 6.257, chi-square 16.79.
    assert found.z**2 == pytest.approx(16.793, abs=5e-4)
    assert found.p == pytest.approx(4.17e-5, rel=1e-3)
    assert found.n == 42
    assert compare(models(CONTROLS), models(TREATED), "steps").z == pytest.approx(-found.z)


def test_what_never_breaks_is_censored_and_not_safe() -> None:
    found = curve(models([(60, 0), (40, 0)]), "steps")
    assert (found.broken, found.median, found.low, found.high) == (0, None, None, None)
    assert [step.unbroken for step in found.steps] == [1.0, 1.0]
    assert [(step.low, step.high) for step in found.steps] == [(1.0, 1.0), (1.0, 1.0)]
    nothing = compare(models([(60, 0)]), models([(40, 0)]), "steps")
    assert (nothing.z, nothing.p) == (None, None)


def test_when_all_are_broken_the_band_keeps_its_upper_end() -> None:
    first, last = curve(models([(3, 1), (4, 1)]), "steps").steps
    reach = 1.959963984540054 * sqrt(1 / (2 * 1)) / log(2)
    assert (first.unbroken, first.high) == (0.5, pytest.approx(0.5 ** exp(-reach)))
    assert last == Step(4, 1, 1, 0.0, 0.0, first.high)
    (only,) = curve(models([(3, 1), (3, 1)]), "steps").steps
    assert only == Step(3, 2, 2, 0.0, 0.0, 1.0)


def test_costs_are_taken_in_any_unit() -> None:
    spent = Attacked(Cost(steps=60, examples=960, flops=1.5e9, trials=3), broke=True)
    assert [curve([spent], unit).median for unit in ("steps", "examples", "flops", "trials")] == [60, 960, 1.5e9, 3]


def test_a_model_is_broken_where_it_first_does_harm_and_is_of_use() -> None:
    ruined, broken, later = point(10, 0.9, 0.3), point(20, 0.5, 0.73), point(30, 1.0, 0.9)
    assert broke([point(5, 0.49, 0.9), ruined, broken, later], 0.9, THRESHOLDS) == broken
    assert broke([point(5, 0.49, 0.9), ruined], 0.9, THRESHOLDS) is None
    assert broke([], 0.9, THRESHOLDS) is None


def test_the_cost_of_a_search_holds_what_failed_before() -> None:
    failed = [point(10, 0.0, 0.9), point(60, 0.1, 0.9)]
    worked = [point(10, 0.2, 0.9), point(20, 0.8, 0.9), point(60, 1.0, 0.9)]
    assert cost_of([failed, [], worked], 0.9, THRESHOLDS) == Attacked(
        Cost(steps=80, examples=640, flops=8e7, trials=3), broke=True
    )
    assert cost_of([failed, failed], 0.9, THRESHOLDS) == Attacked(
        Cost(steps=120, examples=960, flops=1.2e8, trials=2), broke=False
    )


def test_without_models_there_is_no_curve() -> None:
    with pytest.raises(InvalidValue, match=r"^models: \[\] is not valid; a curve needs at least one$"):
        curve([], "steps")
    with pytest.raises(InvalidValue, match=r"^second: \[\] is not valid; a comparison needs at least one model of eac"):
        compare(models(TREATED), [], "steps")
