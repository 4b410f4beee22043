"""The answers that a page holds: which, how many, and none that nobody asked to see."""

from __future__ import annotations

from collections.abc import Iterator

from rupert.errors import DataError
from rupert.evidence import Evidence, Exchange, MeasuredCell, Opinion, Reply
from rupert.records import Metric
from rupert.report.answers import BUDGET, HIDDEN, LONGEST, answers, legible


def cell(attack: str, missing: tuple[str, ...] = ()) -> MeasuredCell:
    metrics = (Metric("harm", 0.0),)
    return MeasuredCell(seed=0, defense="sdd", attack=attack, origins=(), metrics=metrics, missing=missing)


def evidence(exchanges: dict[str, list[Exchange]], *cells: MeasuredCell) -> Evidence:
    def found(one: MeasuredCell) -> Iterator[Exchange]:
        if one.attack not in exchanges:
            raise DataError(f"{one.attack}: damaged")
        yield from exchanges[one.attack]

    return Evidence(
        study="s",
        model="m",
        command="",
        seeds=(0,),
        defenses={"sdd": {}},
        attacks={},
        notes=(),
        cells=cells,
        rows=(),
        all_rows=(),
        exchanges=found,
    )


def reply(text: str, *, harmful: bool = False, problem: str = "") -> Reply:
    said = (Opinion("judge", harmful=harmful, refusal=False, score=4.5, problem=problem),)
    return Reply(text, "harmful" if harmful else "irrelevant", said, is_hidden=harmful)


def exchange(number: int, request: str, after: Reply, before: Reply | None = None, *, hidden: bool = False) -> Exchange:
    return Exchange(number, request, "theft", hidden, before, after)


def test_rows_point_into_lists_that_hold_each_text_once() -> None:
    rows = [exchange(0, "ask", reply("same"), reply("same")), exchange(1, "ask", reply("other"))]
    found = answers(evidence({"fine_tune-0.0001": rows}, cell("fine_tune-0.0001")))
    assert found.data["texts"] == ["ask", "same", "other"]
    assert found.data["defenses"] == ["sdd"]
    assert found.data["attacks"] == ["lr 1e-4"]
    assert found.data["cells"] == [(0, 0, 0)]
    assert found.data["opinions"] == ["judge: not harmful, score 4.5"]
    assert found.data["rows"] == [[0, 0, 0, 0, 0, [0, 1, 0, 0], [0, 1, 0, 0]], [0, 1, 0, 0, 0, [], [0, 2, 0, 0]]]
    assert (found.total, found.kept, found.step, found.hidden) == (2, 2, 1, 0)


def test_a_text_that_is_hidden_anywhere_is_nowhere_in_the_file() -> None:
    rows = [
        exchange(0, "real request", reply("poison", harmful=True, problem="said poison"), hidden=True),
        exchange(1, "ask", reply("poison")),
    ]
    study = evidence({"none": rows}, cell("none"))
    found = answers(study)
    assert found.data["texts"] == ["ask"]
    assert "poison" not in repr(found.data)
    assert found.data["rows"][0][3] == found.data["rows"][1][6][1] == HIDDEN
    assert found.hidden == 2
    shown = answers(study, show_unsafe=True)
    assert shown.data["texts"] == ["real request", "poison", "ask"]
    assert "judge: harmful, score 4.5 (said poison)" in shown.data["opinions"]
    assert shown.data["rows"][0][6][3] == 1  # and is marked, so that it stands behind a click


def test_a_page_is_kept_small_by_leaving_out_the_same_requests_of_every_model() -> None:
    count = 2 * BUDGET // LONGEST // 2
    rows = [exchange(number, f"ask {number}", reply(f"{number} " + "x" * LONGEST)) for number in range(count)]
    found = answers(evidence({"none": rows, "recovery": rows}, cell("none"), cell("recovery")))
    assert found.step == 3
    kept = [[row[1] for row in found.data["rows"] if row[0] == model] for model in (0, 1)]
    assert kept[0] == kept[1] == list(range(0, count, 3))
    assert found.total == 2 * count
    assert found.kept == len(kept[0]) + len(kept[1])


def test_answers_that_cannot_be_read_are_named() -> None:
    found = answers(
        evidence({"none": []}, cell("none"), cell("recovery"), cell("benign", missing=("evaluate: to do",)))
    )
    assert found.problems == ("The answers of sdd / recovery / seed 0 cannot be shown: recovery: damaged.",)
    assert found.data == {}


def test_texts_are_legible_and_not_endless() -> None:
    assert legible("one\ntwo\tthree\x00") == "one\ntwo threeU+0000"
    assert legible("x" * (LONGEST + 1234)) == "x" * LONGEST + " … (1,234 more characters)"
