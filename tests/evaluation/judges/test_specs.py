"""Judges as they are written: names, settings after a question mark, and what their files are called."""

from __future__ import annotations

import pytest

from rupert.errors import UsageError
from rupert.evaluation.judges import JUDGES, PRESETS, RefusalWords, parse_judges
from rupert.evaluation.judges.classifier import Classifier
from rupert.evaluation.judges.language_model import LanguageModel
from rupert.evaluation.judges.oracle import Oracle
from rupert.evaluation.judges.specs import identity, label


def test_a_name_is_the_judge_with_its_defaults() -> None:
    assert parse_judges(["oracle"]) == {"oracle": Oracle()}
    assert parse_judges(["beaver-dam-7b"]) == {"beaver-dam-7b": PRESETS["beaver-dam-7b"]}


def test_settings_follow_a_question_mark() -> None:
    spec = (
        "language_model?model=judge&rubric=strongreject&base_url=http://127.0.0.1:8000/v1%26x&concurrency=2&cache=none"
    )
    (judge,) = parse_judges([spec]).values()
    assert judge == LanguageModel(
        model="judge", rubric="strongreject", base_url="http://127.0.0.1:8000/v1&x", concurrency=2, cache=None
    )


def test_settings_of_a_preset_can_be_changed_and_lists_have_commas() -> None:
    (judge,) = parse_judges(["beaver-dam-7b?threshold=0.4&harmful_labels=a,b"]).values()
    assert isinstance(judge, Classifier)
    assert (judge.threshold, judge.harmful_labels) == (0.4, ("a", "b"))
    assert judge.template == PRESETS["beaver-dam-7b"].template  # type: ignore[attr-defined]


def test_each_has_a_file_of_its_own() -> None:
    specs = ["refusal_words", "language_model?model=a/b&rubric=strongreject&cache=none&concurrency=2", "language_model"]
    assert list(parse_judges(specs)) == ["refusal_words", "language_model-b-strongreject", "language_model"]
    assert label("classifier?model=/some/where/../mine/&threshold=0.4&device=cuda:0") == "classifier-mine-threshold-0.4"
    long = [label(f"next_token?model=m&template={text}{{request}}{{answer}}") for text in ("x" * 90, "x" * 91)]
    assert all(len(name) <= 40 and name.startswith("next_token-m-template-xx") for name in long)
    assert long[0] != long[1]


def test_how_a_judge_runs_is_no_part_of_what_it_says() -> None:
    (one,) = parse_judges(["language_model?model=a&concurrency=2&timeout=5&base_url=http://127.0.0.1:1/v1"]).values()
    (other,) = parse_judges(["language_model?model=a"]).values()
    assert identity(one) == identity(other)
    (strict,) = parse_judges(["language_model?model=a&rubric=strongreject"]).values()
    assert identity(strict) != identity(other)
    assert identity(Oracle()) == {"version": 2}  # what it says of an answer has changed once
    assert "version" not in identity(RefusalWords())


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["orakel"], "judges: 'orakel' is unknown; did you mean 'oracle'?"),
        (["oracle", "refusal_words", "oracle"], "judges: 'oracle' is named twice; name each judge once"),
        (
            ["language_model?model"],
            "judges: 'language_model?model' is not valid; write NAME or NAME?setting=value&setting=value",
        ),
        (["language_model?"], "judges: 'language_model?' is not valid; write NAME or NAME?setting=value&setting=value"),
        (["language_model?modell=a"], "judges: language_model: setting: 'modell' is unknown; did you mean 'model'?"),
        (
            ["language_model?concurrency=many"],
            "judges: language_model: concurrency: 'many' is not valid; give a whole number",
        ),
        (["language_model?concurrency=0"], "judges: language_model: concurrency: 0 is not valid; must be above 0"),
    ],
)
def test_mistakes_are_one_line(specs: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_judges(specs)
    assert str(raised.value) == message


def test_no_name_is_a_judge_and_a_preset() -> None:
    assert not set(JUDGES) & set(PRESETS)
