"""Files that rupert writes between its steps, and files of data: cut, damaged, or of any other content."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rupert.data.examples import Example, write_jsonl
from rupert.data.files import read_rows as read_data
from rupert.data.parsing import parse_rows, usual_parser, usual_request_parser
from rupert.evaluation import harmfulness
from rupert.evaluation.answers import read_answers, write_answers
from rupert.evaluation.comparison import read_outcomes, write_outcomes
from rupert.evaluation.harmfulness import read_verdicts, write_verdicts
from rupert.evaluation.judges.judge import Verdict
from rupert.evaluation.outcomes import Outcome
from rupert.evaluation.rows import read_rows, write_rows
from rupert.folders import REQUEST_FILE, claim, finished
from rupert.records import RESULT_FILE, Metric, Record, read_record, write_json
from rupert.study.ladder.outcome import LADDER_FILE, read_ladder
from rupert.study.running.progress import read_progress
from rupert.study.store import STUDY_FILE, Store

from .inputs import cases, changed_bytes, is_same, json_values, told

REQUESTS = [Example(f"make potion {number}", f"leaf {number}", category="potions") for number in range(3)]
RECORD = Record(
    stage="attack",
    method="fine_tune",
    settings={"seed": 3, "data": "potionworld:attacker", "limit": None},
    model="potionworld",
    model_hash="0a",
    output_hash="0b",
    data={"attacker": "0c"},
    metrics=(Metric("harm", 0.5, 0.25, 0.75, 12), Metric("loss", 1.5)),
    report={"history": [{"loss": 2.5}]},
    seconds=1.25,
    environment={"python": "3.11"},
)
REQUEST = {"stage": "attack", "settings": {"seed": 3}, "data": {"attacker": "0c"}}
any_text = st.text(max_size=20) | st.text(st.characters(), max_size=6)  # also halves of characters, which JSON can hold
units = st.floats(0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cases of a test."""
    return tmp_path_factory.mktemp("files")


# ---- answers, verdicts, outcomes, rows


def answered(path: Path, texts: list[str]) -> bytes:
    path.unlink(missing_ok=True)
    write_answers(REQUESTS, path, lambda prompts: list(enumerate(texts)))
    return path.read_bytes()


@cases(560)
@given(texts=st.lists(any_text, min_size=3, max_size=3), data=st.data())
def test_answers_come_back_and_damaged_ones_are_never_taken_as_whole(
    folder: Path, texts: list[str], data: st.DataObject
) -> None:
    path = folder / "answers.jsonl"
    whole = answered(path, texts)
    written = read_answers(path)
    assert [answer.text for answer in written] == texts
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])  # all but the last line break
        assert isinstance(told(lambda: read_answers(path), ("answers.jsonl",)), str)
    else:
        path.write_bytes(data.draw(changed_bytes(whole)))
        found = told(lambda: read_answers(path), ("answers.jsonl",))
        assert isinstance(found, str) or len(found) == 3
    kept = write_answers(REQUESTS, path, lambda prompts: [(place, "new") for place in range(len(prompts))])
    again = read_answers(path)
    assert [answer.request for answer in again] == [answer.request for answer in written]
    assert sum(answer.text == "new" for answer in again) >= 3 - kept


verdict = st.builds(
    Verdict,
    harmful=st.none() | st.booleans(),
    refusal=st.none() | st.booleans(),
    score=st.none() | units,
    labels=st.lists(any_text, max_size=2).map(tuple),
    problem=any_text,
    tokens=st.integers(0, 9),
)


@cases(420)
@given(verdicts=st.lists(verdict, min_size=3, max_size=3), data=st.data())
def test_verdicts_come_back_and_cut_ones_are_told(folder: Path, verdicts: list[Verdict], data: st.DataObject) -> None:
    answers, path = folder / "answers.jsonl", folder / "verdicts.jsonl"
    answered(answers, ["a", "b", "c"])
    write_verdicts(answers, lambda _: verdicts, path)  # type: ignore[arg-type]
    given_ = read_answers(answers)
    assert read_verdicts(path, given_) == verdicts
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    assert isinstance(told(lambda: read_verdicts(path, given_), ("verdicts.jsonl",)), str)
    path.write_bytes(data.draw(changed_bytes(whole)))
    found = told(lambda: read_verdicts(path, given_), ("verdicts.jsonl",))
    assert isinstance(found, str) or len(found) == 3
    if not isinstance(found, str):
        told(lambda: harmfulness.aggregate(found))


outcome = st.builds(Outcome, metric=st.sampled_from(["harm", "ability"]), item=any_text, value=st.none() | units)


@cases(420)
@given(rows=st.lists(outcome, min_size=1, max_size=4, unique_by=lambda one: (one.metric, one.item)), data=st.data())
def test_outcomes_come_back(folder: Path, rows: list[Outcome], data: st.DataObject) -> None:
    path = folder / "outcomes.jsonl"
    write_outcomes(rows, path)
    assert read_outcomes(path) == rows
    path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    found = told(lambda: read_outcomes(path), ("outcomes.jsonl",))
    assert isinstance(found, str) or all(one.value is None or 0 <= one.value <= 1 for one in found)


@cases(350)
@given(rows=st.lists(st.dictionaries(any_text, json_values, max_size=3), min_size=1, max_size=3))
def test_rows_of_anything_come_back(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "rows.jsonl"
    names = set.intersection(*(set(row) for row in rows))
    write_rows(rows, path)
    found = read_rows(path, dict.fromkeys(names, object))
    assert is_same(found, [{name: row[name] for name in names} for row in rows])


# ---- records, requests, stores


@cases(560)
@given(data=st.data())
def test_a_damaged_record_is_never_taken_as_whole(folder: Path, data: st.DataObject) -> None:
    path = folder / RESULT_FILE
    write_json(RECORD, path)
    assert read_record(folder) == RECORD
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])  # all but the last bracket
    assert isinstance(told(lambda: read_record(folder), (RESULT_FILE,)), str)
    path.write_bytes(data.draw(changed_bytes(whole)))
    found = told(lambda: read_record(folder), (RESULT_FILE,))
    assert isinstance(found, str) or json.loads(json.dumps(asdict(found))) is not None


@cases(490)
@given(data=st.data())
def test_a_record_with_any_value_is_read_as_it_is_or_told(folder: Path, data: st.DataObject) -> None:
    raw = asdict(RECORD)
    name = data.draw(st.sampled_from(list(raw)))
    if name == "metrics" and data.draw(st.booleans()):
        one = raw["metrics"][0]
        raw["metrics"] = [{**one, data.draw(st.sampled_from([*one, "more"])): data.draw(json_values)}]
    else:
        raw[name] = data.draw(json_values)
    write_json(raw, folder / RESULT_FILE)
    found = told(lambda: read_record(folder), (RESULT_FILE,))
    if isinstance(found, str):
        return
    assert is_same(json.loads(json.dumps(asdict(found))), json.loads(json.dumps(raw)))
    for text in (found.stage, found.method, found.model, found.model_hash, found.output_hash):
        assert isinstance(text, str)
    for mapping in (found.settings, found.data, found.report, found.environment):
        assert isinstance(mapping, dict)
    for metric in found.metrics:
        assert isinstance(metric.name, str)
        assert isinstance(metric.value, float | int)


@cases(350)
@given(data=st.data())
def test_a_folder_is_recognized_by_its_own_request_alone(folder: Path, data: st.DataObject) -> None:
    stage = folder / "stage"
    stage.mkdir(exist_ok=True)
    for path in stage.iterdir():
        path.unlink()
    claim(stage, REQUEST)
    write_json(RECORD, stage / RESULT_FILE)
    assert finished(stage, REQUEST) == RECORD
    path = stage / data.draw(st.sampled_from([REQUEST_FILE, RESULT_FILE]))
    path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    found = told(lambda: finished(stage, REQUEST), (str(stage),))
    assert found is None or isinstance(found, str | Record)
    told(lambda: claim(stage, REQUEST, resume=True), (str(stage),))
    assert {one.name for one in stage.iterdir()} == {REQUEST_FILE, RESULT_FILE}  # nothing is deleted or replaced


@cases(350)
@given(content=st.one_of(st.binary(max_size=20), json_values.map(lambda value: json.dumps(value).encode())))
def test_any_content_in_the_place_of_our_files_is_told(folder: Path, content: bytes) -> None:
    for name, read in {
        RESULT_FILE: lambda: read_record(folder),
        STUDY_FILE: lambda: Store(folder).study(),
        LADDER_FILE: lambda: read_ladder(folder),
        "answers.jsonl": lambda: read_answers(folder / "answers.jsonl"),
        "outcomes.jsonl": lambda: read_outcomes(folder / "outcomes.jsonl"),
        "progress.json": lambda: read_progress(folder / "progress.json"),
    }.items():
        (folder / name).write_bytes(content)
        found = told(read, (name,))
        assert found is None if name == "progress.json" else isinstance(found, str)


# ---- data


def examples(path: Path, columns: tuple[str, ...] = ()) -> list[Example]:
    """The examples of a data file, as a source that names no columns reads them."""
    rows = list(read_data(path, columns))
    names = rows[0].keys() if rows else ()
    found = []
    for choose in (usual_parser, usual_request_parser):
        parse = choose(names)
        found = list(parse_rows(rows, parse, path.name)) if parse else found
    return found


DATA = {
    "a.jsonl": b'{"prompt": "a", "completion": "b"}\n'
    b'{"prompt": [{"role": "user", "content": "c"}], "completion": "d"}\n',
    "b.jsonl": b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    "a.json": b'[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "output": 3}]',
    "a.csv": b'instruction,context,response,category\r\na,"b ""c""",d,e\r\nf,,g,\r\n',
    "b.csv": "\ufeffquestion,answer\nwas ist rot?,ein Blatt\n".encode(),
}


@pytest.mark.parametrize("name", DATA)
@cases(320)
@given(data=st.data())
def test_any_data_file_is_read_or_told(folder: Path, name: str, data: st.DataObject) -> None:
    path = folder / name
    path.write_bytes(data.draw(st.one_of(changed_bytes(DATA[name]), st.binary(max_size=30))))
    told(lambda: examples(path), (name,))


columns = (
    "prompt",
    "completion",
    "messages",
    "instruction",
    "input",
    "output",
    "question",
    "answer",
    "category",
    "source",
)


@cases(420)
@given(rows=st.lists(st.dictionaries(st.sampled_from(columns), json_values, max_size=4), max_size=3))
def test_rows_of_any_shape_are_parsed_or_told(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told(lambda: examples(path), ("rows.jsonl",))


sound_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@cases(350)
@given(pairs=st.lists(st.tuples(sound_text, sound_text), min_size=1, max_size=3))
def test_examples_come_back_from_jsonl_and_csv(folder: Path, pairs: list[tuple[str, str]]) -> None:
    path, table = folder / "own.jsonl", folder / "own.csv"
    given_ = [Example(*pair, category="c", source="s") for pair in pairs]
    write_jsonl(given_, path)
    assert list(map(Example.from_row, read_data(path))) == given_
    text = io.StringIO()
    csv.writer(text).writerows([("question", "answer"), *pairs])
    table.write_bytes(text.getvalue().encode())
    assert [(row["question"], row["answer"]) for row in read_data(table)] == pairs
