"""What an endpoint has to be given, found out before anything is asked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from rupert.errors import InvalidValue, MissingDependency, UnknownName, UsageError
from rupert.evaluation.judges.completions import is_listed, one_line, read_models
from rupert.evaluation.judges.endpoint import Endpoint, check_url
from rupert.evaluation.judges.rubrics import Reply

from .asked_endpoint import ask
from .endpoint_server import EndpointServer, Response, as_json, failure, models


def test_the_addresss_variable(server: EndpointServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    elsewhere = replace(endpoint, base_url="")
    elsewhere.check()
    assert elsewhere.identity() == endpoint.identity() == ["endpoint", server.url, "judge", 0.0, 64]
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    with pytest.raises(InvalidValue, match="OPENAI_BASE_URL: 'nonsense'"):
        elsewhere.check()


@pytest.mark.parametrize("secret", ["two words", "line\nline", "gr\u00fc\u00dfe", "\u2026"])
def test_a_key_that_cannot_be_sent_is_not_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with pytest.raises(UsageError, match="'OPENAI_API_KEY' holds characters that no key has") as raised:
        endpoint.check()
    assert secret not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "'api.openai.com/v1' is not valid; write an address such as http://127.0.0.1:8000/v1"),
        ("ftp://host/v1", "is not valid"),
        ("http://", "is not valid"),
        ("http://host:99999", "is not valid"),
        ("http://[::1/v1", "is not valid"),
        ("http://a..b/v1", "is not valid"),
        ("http://ho st/v1", "is not valid"),
        ("http://host/\x00", "is not valid"),
    ],
)
def test_an_address_that_is_none(url: str, message: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        check_url(url, "base_url")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://me:sk-secret@host/v1", "http://sk-secret@host/v1", "http://host/v1?key=sk-secret"]
)
def test_an_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="base_url: holds a user, a password or a query") as raised:
        check_url(url, "base_url")
    assert "sk-secret" not in str(raised.value)


@pytest.fixture
def echo(key: str) -> Callable[[int], Response]:
    """Makes a server's failure that repeats the key, also where the message is cut."""
    long = f"you sent\x1b[2J Bearer {key}\n".ljust(190, "-") + key
    return lambda status: failure(status, long)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_the_key_is_never_repeated(
    server: EndpointServer,
    endpoint: Endpoint,
    echo: Callable[[int], Response],
    key: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.models = echo(status)
    server.answer = lambda body: echo(status)
    said = [repr(endpoint), str(endpoint.identity())]
    if status in (401, 403, 500):
        with pytest.raises(UsageError) as raised:
            endpoint.check()
        said.append(str(raised.value))
        assert raised.value.__suppress_context__  # a traceback shows no more
    (reply,) = ask(endpoint)
    said += [reply.problem, caplog.text]
    for text in said:
        assert key[:6] not in text
    assert reply.problem.isprintable()
    assert len(reply.problem) <= 230
    if status != 401:
        assert "you sent\ufffd[2J Bearer [key] -" in reply.problem


def test_the_key_is_not_repeated_by_an_error_in_a_reply(server: EndpointServer, endpoint: Endpoint, key: str) -> None:
    server.answer = lambda body: as_json({"error": {"message": f"no credit for {key}"}})
    assert ask(endpoint) == [Reply(problem="no credit for [key]")]
    server.models = models(f"model of {key}")
    with pytest.raises(UnknownName, match=r"model of \[key\]"):
        endpoint.check()


def test_one_line() -> None:
    assert one_line(" a\n\tb\x07 k\u202e ", "k") == "a b\ufffd [key]\\u202e"
    assert len(one_line("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("name", "listed", "found"),
    [
        ("llama3", "llama3:latest", True),
        ("llama3:8b", "llama3", True),
        ("gemini", "models/gemini", True),
        ("owner/name", "owner/name", True),
        ("llama", "llama3", False),
        ("llama3:8b", "llama3:70b", False),
    ],
)
def test_names_that_servers_take_for_the_listed_one(name: str, listed: str, found: bool) -> None:
    assert is_listed(name, ["other", listed]) == found


def test_a_list_of_models_is_read_without_trust() -> None:
    assert read_models('{"data": [{"id": "a"}, {"id": 1}, "b", {}, null]}') == ["a"]
    assert read_models('{"data": 5}') == read_models("[]") == []
    assert read_models("<html>") is None


def test_without_the_library(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependency, match=r"openai is not installed; pip install 'rupert\[judges\]'"):
        endpoint.check()
