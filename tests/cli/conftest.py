"""A live page over a study by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rupert.cli.viewing import news as telling
from rupert.cli.viewing.server import Server

from .view_by_hand import ByHand, served


@pytest.fixture
def by_hand(tmp_path: Path) -> ByHand:
    return ByHand(tmp_path / "s")


@pytest.fixture
def server(by_hand: ByHand) -> Iterator[Server]:
    with served(by_hand.store.folder) as running:
        yield running


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking does not wait for its share of the time."""
    monkeypatch.setattr(telling, "PATIENCE", 0.0)
