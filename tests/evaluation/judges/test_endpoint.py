"""Endpoints: a real server with the protocol's faults, and what of them reaches the user."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest

from rupert.errors import RunError, UsageError
from rupert.evaluation.judges.completions import read_completion
from rupert.evaluation.judges.endpoint import HOPELESS, OUTAGE, Endpoint
from rupert.evaluation.judges.rubrics import Conversation, Reply

from .asked_endpoint import ask
from .endpoint_server import EndpointServer, Response, as_json, completion, failure, models

ASKED: Conversation = [{"role": "user", "content": "grade this"}]


GOOD = Reply("A reason.\nScore: 5", tokens=7)


def test_what_is_sent(server: EndpointServer, endpoint: Endpoint, key: str) -> None:
    assert list(endpoint.replies([ASKED])) == [(0, GOOD)]
    assert server.asked == [{"model": "judge", "messages": ASKED, "temperature": 0.0, "max_tokens": 64}]
    assert server.requests[0].headers["Authorization"] == f"Bearer {key}"
    ask(replace(endpoint, temperature=None))
    assert "temperature" not in server.asked[1]


def test_text_of_any_kind_arrives(server: EndpointServer, endpoint: Endpoint) -> None:
    text = '\x00\x1b \u202e \U0001f600 <p>&amp;</p> \\ " {answer}' + "x" * 100_000
    server.answer = lambda body: completion(body["messages"][0]["content"])
    ((_, reply),) = endpoint.replies([[{"role": "user", "content": text}]])
    assert server.asked[0]["messages"][0]["content"] == text
    assert reply.text == text.replace("\x00\x1b", "\ufffd\ufffd")


CUT = replace(completion("A reason.\nScore: 5"), promised=10_000)


@pytest.mark.parametrize(
    "fault",
    [failure(429), failure(429, headers={"Retry-After": "0"}), failure(500), failure(503), failure(408), CUT],
    ids=["429", "429 at once", "500", "503", "408", "cut"],
)
def test_a_fault_that_passes_is_tried_again(server: EndpointServer, endpoint: Endpoint, fault: Response) -> None:
    server.script = [fault, fault]
    assert ask(endpoint) == [GOOD]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (failure(429, "slow down"), "429 after 2 retries: slow down"),
        (failure(500, "sorry"), "500 after 2 retries: sorry"),
        (Response(b"<html>bad gateway</html>", 502, content_type="text/html"), "502 after 2 retries"),
        (CUT, "peer closed connection without sending complete message body"),
    ],
    ids=["429", "500", "502", "cut"],
)
def test_a_fault_that_stays_is_a_problem(
    server: EndpointServer, endpoint: Endpoint, fault: Response, problem: str
) -> None:
    server.answer = lambda body: fault
    (reply,) = ask(endpoint)
    assert (reply.text, reply.tokens) == ("", 0)
    assert reply.problem.startswith(problem)
    assert "after 2 retries" in reply.problem
    assert len(server.asked) == 3
    server.requests.clear()
    (reply,) = ask(replace(endpoint, max_retries=0))
    assert "after" not in reply.problem
    assert len(server.asked) == 1


def test_a_slow_server(server: EndpointServer, endpoint: Endpoint) -> None:
    server.answer = lambda body: replace(completion("Score: 5"), seconds=1.0)
    assert ask(replace(endpoint, timeout=0.05, max_retries=1)) == [
        Reply(problem="no answer within 0.05 s after 1 retry")
    ]
    assert len(server.asked) == 2


def test_retry_after_is_heeded(server: EndpointServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import _base_client

    waits: list[float] = []
    monkeypatch.setattr(_base_client.time, "sleep", waits.append)
    server.script = [failure(429, headers={"Retry-After": "7"}), failure(429)]
    server.answer = lambda body: completion("Score: 5")
    ask(endpoint)
    waits = [wait for wait in waits if wait]  # the server sleeps by the same function, for 0 s
    assert waits[0] == 7.0
    assert 0 < waits[1] <= 0.001


@pytest.mark.parametrize(
    ("status", "problem"), [(400, "400: no"), (403, "403: no"), (413, "413: no"), (422, "422: no"), (401, "401")]
)
def test_a_refusal_is_not_tried_again(server: EndpointServer, endpoint: Endpoint, status: int, problem: str) -> None:
    server.script = [failure(status)]
    assert ask(endpoint, 2) == [Reply(problem=problem), GOOD]
    assert len(server.asked) == 2


NO_COMPLETION = "it answered with something that is no chat completion"


NONSENSE: dict[str, tuple[Response, Reply]] = {
    "no JSON": (Response(b"what?"), Reply(problem=NO_COMPLETION)),
    "a page": (
        Response(b"<html>Score: 5</html>", content_type="text/html"),
        Reply(problem=NO_COMPLETION),
    ),
    "not UTF-8": (Response(b'{"choices": "\xff'), Reply(problem=NO_COMPLETION)),
    "empty": (Response(b""), Reply(problem=NO_COMPLETION)),
    "deep": (Response(b"[" * 100_000), Reply(problem=NO_COMPLETION)),
    "a list": (as_json([1]), Reply(problem=NO_COMPLETION)),
    "no choices": (
        as_json({"choices": [], "usage": {"total_tokens": 4}}),
        Reply(problem=NO_COMPLETION, tokens=4),
    ),
    "null choices": (as_json({"choices": None}), Reply(problem=NO_COMPLETION)),
    "a choice of text": (as_json({"choices": ["Score: 5"]}), Reply(problem=NO_COMPLETION)),
    "no content": (completion(None), Reply(problem="its reply is empty", tokens=7)),
    "blank": (completion(" \n"), Reply(problem="its reply is empty", tokens=7)),
    "a number": (as_json({"choices": [{"message": {"content": 5}}]}), Reply(problem="its reply is empty")),
    "refusal": (completion(None, refusal="I cannot."), Reply(problem="it declined to judge", tokens=7)),
    "cut": (
        completion("Score: 5", finish_reason="length"),
        Reply(problem="its reply was cut; raise max_tokens", tokens=7),
    ),
    "filtered": (
        completion("Score: 5", finish_reason="content_filter"),
        Reply(problem="its reply was stopped by a content filter", tokens=7),
    ),
    "an error": (as_json({"error": {"message": "over\nloaded"}}), Reply(problem="over loaded")),
}


@pytest.mark.parametrize(("response", "reply"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_problem(server: EndpointServer, endpoint: Endpoint, response: Response, reply: Reply) -> None:
    server.script = [response]
    assert ask(endpoint, 2) == [reply, GOOD]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 12, "prompt_tokens": 1}, 12),
        ({"prompt_tokens": 10, "completion_tokens": 3}, 13),
        ({"prompt_tokens": 10, "completion_tokens": None}, 10),
        ({"total_tokens": "12"}, 0),
        ({"total_tokens": -1}, 0),
        (None, 0),
        ([], 0),
    ],
)
def test_tokens_are_counted_where_they_are_told(usage: Any, tokens: int) -> None:
    body = as_json({"choices": [{"message": {"content": "x"}}], "usage": usage}).body.decode()
    assert read_completion(body) == Reply("x", tokens)


def test_the_replys_invalid_unicode_is_replaced() -> None:
    assert read_completion(completion("a\ud800\x07").body.decode()).text == "a\ufffd\ufffd"


def test_no_more_requests_at_once_than_allowed(server: EndpointServer, endpoint: Endpoint) -> None:
    together = threading.Barrier(3, timeout=10)

    def answer(body: Any) -> Response:
        together.wait()  # until three are there
        return completion(f"Score: {body['messages'][0]['content']}")

    server.answer = answer
    replies = ask(replace(endpoint, concurrency=3), 12)
    assert [reply.text for reply in replies] == [f"Score: {number}" for number in range(12)]
    assert server.most_at_once == 3


@pytest.mark.parametrize("status", [401, 404])
def test_a_hopeless_failure_stops_at_once(server: EndpointServer, endpoint: Endpoint, status: int) -> None:
    server.answer = lambda body: failure(status, "no such model" if status == 404 else "bad key")
    with pytest.raises(RunError, match=rf"one request after another fails \({status}.*\); correct this and judge"):
        ask(endpoint, 1000)
    assert len(server.asked) == HOPELESS


def test_parameters_that_are_refused_stop_it_too(server: EndpointServer, endpoint: Endpoint) -> None:
    server.answer = lambda body: failure(400, "must be 1", "temperature")
    with pytest.raises(RunError, match="400: must be 1"):
        ask(endpoint, 1000)


def test_an_outage_stops_it_later(server: EndpointServer, endpoint: Endpoint) -> None:
    server.answer = lambda body: failure(503)
    with pytest.raises(RunError, match=r"one request after another fails \(503: no\)"):
        ask(replace(endpoint, max_retries=0), 1000)
    assert len(server.asked) == OUTAGE


def test_only_failures_in_a_row_stop_it(server: EndpointServer, endpoint: Endpoint) -> None:
    server.script = [failure(401), failure(401), completion("Score: 5"), failure(401), failure(401), failure(400)] * 2
    replies = ask(endpoint, 12)
    assert [reply.problem for reply in replies] == ["401", "401", "", "401", "401", "400: no"] * 2


def test_what_one_request_holds_never_stops_it(server: EndpointServer, endpoint: Endpoint) -> None:
    server.answer = lambda body: failure(400, "content filter")
    assert ask(endpoint, OUTAGE + 5) == [Reply(problem="400: content filter")] * (OUTAGE + 5)


def test_the_newer_name_of_max_tokens(server: EndpointServer, endpoint: Endpoint) -> None:
    def answer(body: Any) -> Response:
        return failure(400, "use the other", "max_tokens") if "max_tokens" in body else completion("Score: 5")

    server.answer = answer
    assert [reply.text for reply in ask(endpoint, 3)] == ["Score: 5"] * 3
    assert ["max_completion_tokens" in body for body in server.asked] == [False, True, True, True]
    assert server.asked[1]["max_completion_tokens"] == 64


def test_requests_under_way_are_all_that_a_stop_does_not_save(server: EndpointServer, endpoint: Endpoint) -> None:
    server.answer = lambda body: failure(401)
    with pytest.raises(RunError):
        ask(replace(endpoint, concurrency=5), 1000)
    for worker in workers():
        worker.join(10)
    assert HOPELESS <= len(server.asked) <= HOPELESS + 4


def test_an_interruption_is_not_delayed_and_asks_no_more(server: EndpointServer, endpoint: Endpoint) -> None:
    others, second, released = workers(), threading.Event(), threading.Event()

    def answer(body: Any) -> Response:
        if len(server.asked) == 2:
            second.set()
            released.wait(10)
        return completion("Score: 5")

    server.answer = answer
    replies = endpoint.replies([ASKED] * 1000)
    next(replies)
    assert second.wait(10)
    replies.close()  # as an exception within the loop does; the second request is not answered yet
    (worker,) = workers() - others
    assert worker.daemon  # so the interpreter does not wait for it
    released.set()
    worker.join(10)
    assert len(server.asked) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_ours_does_not_hang(
    server: EndpointServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rupert.evaluation.judges.endpoint.read_completion", None)
    assert list(endpoint.replies([ASKED] * 3)) == []


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "judging"}


def test_check_makes_one_cheap_request(server: EndpointServer, endpoint: Endpoint) -> None:
    endpoint.check()
    assert [request.path for request in server.requests] == ["/v1/models"]


@pytest.mark.parametrize(
    "listing", [failure(404), failure(405), failure(501), models(), as_json({"data": None}), as_json([]), as_json("x")]
)
def test_an_endpoint_need_not_list_models(server: EndpointServer, endpoint: Endpoint, listing: Response) -> None:
    server.models = listing
    endpoint.check()


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (failure(401), "does not accept the key (401); put a valid one into OPENAI_API_KEY"),
        (failure(403, "not here"), "does not accept the key (403: not here); put a valid one into OPENAI_API_KEY"),
        (failure(500, "sorry"), "is out of order (500 after 1 retry: sorry); try again later"),
        (Response(b"<html>", content_type="text/html"), "something that is no JSON; write its path too, as in /v1"),
        (models("judge-2", "other"), "model: 'judge' is unknown; did you mean 'judge-2'?"),
    ],
)
def test_check_finds_what_is_wrong(server: EndpointServer, endpoint: Endpoint, listing: Response, message: str) -> None:
    server.models = listing
    with pytest.raises(UsageError) as raised:
        endpoint.check()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_down(endpoint: Endpoint) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UsageError, match=r"cannot be reached \(.*refused after 1 retry\); start it, or correct"):
            replace(endpoint, base_url=url).check()


def test_a_host_that_does_not_exist(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match=r"cannot be reached .*Name or service not known"):
        replace(endpoint, base_url="http://nowhere.invalid/v1").check()


def test_a_missing_key(server: EndpointServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.check()  # a server on this machine may need none
    assert ask(endpoint) == [GOOD]
    server.models = failure(401)
    with pytest.raises(UsageError, match=r"asks for a key \(401\); put a valid one into OPENAI_API_KEY"):
        endpoint.check()
    for far in (replace(endpoint, base_url="https://far.invalid/v1"), replace(endpoint, base_url="")):
        with pytest.raises(UsageError, match="the environment variable 'OPENAI_API_KEY' is not set; put the"):
            far.check()
        with pytest.raises(UsageError, match="'OPENAI_API_KEY' is not set"):
            ask(far)
