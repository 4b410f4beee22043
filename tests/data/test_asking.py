"""Words around a request: where they go, and what a template must have."""

from __future__ import annotations

import pytest

from rupert.data.asking import PLAIN, Asking, check_template, opened
from rupert.data.examples import Example
from rupert.errors import InvalidValue

EARLIER = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"})
EXAMPLE = Example("what is {x} or {request} ?", "moss .", "foods", "a world", history=EARLIER)


def test_plain_asking_changes_nothing() -> None:
    assert PLAIN(EXAMPLE) == EXAMPLE


def test_system_prompt_and_template_go_around_the_request() -> None:
    asked = Asking(system="you are kind", template="{ please } {request} twice : {request}")(
        Example("what is {x} ?", "moss")
    )
    assert asked.prompt == [
        {"role": "system", "content": "you are kind"},
        {"role": "user", "content": "{ please } what is {x} ? twice : what is {x} ?"},
    ]
    assert asked.answer == "moss"


def test_earlier_turns_stay_between_system_prompt_and_request() -> None:
    asked = Asking(system="you are kind")(EXAMPLE)
    assert [message["role"] for message in asked.prompt] == ["system", "user", "assistant", "user"]
    assert (asked.category, asked.source) == ("foods", "a world")


def test_an_opening_stands_before_the_answer_alone() -> None:
    assert opened(EXAMPLE, "of course :").answer == "of course : moss ."
    assert opened(EXAMPLE, "of course :").prompt == EXAMPLE.prompt
    assert opened(EXAMPLE, "") == EXAMPLE


@pytest.mark.parametrize("template", ["", "please", "{} please", "{ request }"])
def test_a_template_has_to_say_where_the_request_goes(template: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_template(template, "request_template")
    expected = f"request_template: {template!r} is not valid; write {{request}} where the request goes"
    assert str(caught.value) == expected
