"""Answers are in the order of the requests, none is lost, and only what is missing is generated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rupert.data.asking import Asking
from rupert.data.examples import Example
from rupert.errors import DataError, FolderError
from rupert.evaluation.answers import read_answers, write_answers

REQUESTS = [Example(f"what is {word}", f"the {word}", category=word) for word in "abcdef"]


class Model:
    """Answers from the last prompt to the first, with the prompt's own words; may be cut off."""

    def __init__(self, last: int = 100) -> None:
        self.asked: list[str] = []
        self.last = last

    def __call__(self, prompts: Sequence[Sequence[Any]]) -> Iterator[tuple[int, str]]:
        for index in reversed(range(len(prompts))):
            if len(self.asked) == self.last:
                raise KeyboardInterrupt
            self.asked.append(prompts[index][-1]["content"])
            yield index, f"answer to {self.asked[-1]}\u2028\ud800"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def expected() -> list[tuple[str, str, str, str]]:
    return [(r.instruction, r.category, r.answer, f"answer to {r.instruction}\u2028\ud800") for r in REQUESTS]


def found(path: Path) -> list[tuple[str, str, str, str]]:
    return [(a.request, a.category, a.reference, a.text) for a in read_answers(path)]


def test_answers_come_in_the_order_of_the_requests(path: Path) -> None:
    assert write_answers(REQUESTS, path, Model()) == 0
    assert found(path) == expected()
    assert list(path.parent.iterdir()) == [path]


def test_only_what_an_interrupted_run_lacks_is_generated(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_answers(REQUESTS, path, Model(last=2))
    with pytest.raises(DataError, match="holds 2 of 6 answers; repeat the evaluation with --resume"):
        read_answers(path)
    model = Model()
    assert write_answers(REQUESTS, path, model) == 2
    assert model.asked == ["what is d", "what is c", "what is b", "what is a"]
    assert found(path) == expected()


@pytest.mark.parametrize("cut", [2, 30, 150])
def test_a_file_that_was_cut_anywhere_is_completed(path: Path, cut: int) -> None:
    write_answers(REQUESTS, path, Model())
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    model = Model()
    write_answers(REQUESTS, path, model)
    assert path.read_bytes() == whole
    assert 0 < len(model.asked) < 3


def test_a_damaged_line_is_generated_again_and_the_others_are_kept(path: Path) -> None:
    write_answers(REQUESTS, path, Model())
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff" + lines[1], *lines[2:]]))
    model = Model()
    write_answers(REQUESTS, path, model)
    assert model.asked == ["what is b"]
    assert path.read_bytes() == whole


def test_answers_to_other_requests_are_not_taken_over(path: Path) -> None:
    write_answers(REQUESTS, path, Model())
    model = Model()
    write_answers([Example("what is new", "x"), *REQUESTS[1:]], path, model)
    assert model.asked == ["what is new"]


def test_words_around_a_request_reach_the_model_alone(path: Path) -> None:
    model, asking = Model(), Asking(system="you are kind", template="please : {request}")
    write_answers(REQUESTS, path, model, asking)
    assert model.asked == [f"please : what is {word}" for word in "fedcba"]
    assert [answer.request for answer in read_answers(path)] == [request.instruction for request in REQUESTS]
    assert json.loads(path.read_text().splitlines()[0])["prompt"] == [
        {"role": "system", "content": "you are kind"},
        {"role": "user", "content": "please : what is a"},
    ]
    assert write_answers(REQUESTS, path, Model(last=0), asking) == 6


PLEASE = Asking(template="please : {request}")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Asking(), PLEASE),
        (PLEASE, Asking()),
        (PLEASE, Asking(template="now : {request}")),
        (PLEASE, Asking(system="you are kind", template="please : {request}")),
    ],
)
def test_answers_to_requests_that_were_asked_otherwise_are_not_taken_over(
    path: Path, before: Asking, now: Asking
) -> None:
    write_answers(REQUESTS, path, Model(), before)
    assert write_answers(REQUESTS, path, Model(), now) == 0
    assert write_answers(REQUESTS, path, Model(last=0), now) == 6


def test_a_complete_file_asks_nothing(path: Path) -> None:
    write_answers(REQUESTS, path, Model())
    assert write_answers(REQUESTS, path, Model(last=0)) == 6


def test_no_requests(path: Path) -> None:
    with pytest.raises(DataError, match="requests: there are none; name a source that has some"):
        write_answers([], path, Model())
    assert not path.exists()


def test_no_file_and_a_damaged_file(path: Path) -> None:
    with pytest.raises(FolderError, match="there is no such file"):
        read_answers(path)
    path.write_text(json.dumps({"number": 0, "of": 1, "request": "r", "category": "k", "text": "a"}) + "\n")
    with pytest.raises(DataError, match=r"line 1 is damaged \(field 'reference'\)"):
        read_answers(path)
