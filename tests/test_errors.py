"""The tree of errors: drawn in full, and each comes through pickle as it was, because stages run in other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from rupert import errors
from rupert.errors import InvalidValue, MissingDependency, RupertError, UnknownName


def tree(root: type[RupertError]) -> Iterator[type[RupertError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


MADE: dict[type[RupertError], RupertError] = {
    UnknownName: UnknownName("method", "sem", ["seam", "sdd"]),
    InvalidValue: InvalidValue("beta", -1.0, "must be above 0"),
    MissingDependency: MissingDependency("ray", "ray"),
}


@pytest.mark.parametrize("kind", tree(RupertError))
def test_every_error_comes_through_pickle_as_it_was(kind: type[RupertError]) -> None:
    error = MADE.get(kind) or kind("what went wrong")
    error.add_note("where")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error) != ""
        assert again.exit_code == error.exit_code
        assert again.__notes__ == ["where"]


@pytest.mark.parametrize("kind", tree(RupertError))
def test_every_error_is_drawn(kind: type[RupertError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
