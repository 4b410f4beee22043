"""The store: what stands in its place, who works on it, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from rupert.errors import FolderError, UsageError
from rupert.study.store import Store

IDENTITY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "s")
    store.open({"study": "s"})
    return store


def test_only_a_new_an_empty_or_an_own_folder_becomes_a_store(tmp_path: Path, store: Store) -> None:
    store.open({"study": "another"})  # an own one
    (tmp_path / "empty").mkdir()
    Store(tmp_path / "empty").open({})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("my life's work")
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"full' holds other files; name a new or empty folder"):
        Store(tmp_path / "full").open({})
    with pytest.raises(FolderError, match=r"file' is a file; name a new or empty folder"):
        Store(tmp_path / "file").open({})
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_stage_is_found_by_its_identity_under_whatever_label(store: Store) -> None:
    working = store.working("attack", IDENTITY)
    working.mkdir()
    assert store.place("attack", IDENTITY) is None
    place = store.publish(working, "attack", "seam-fine_tune-1e-4", IDENTITY)
    assert place.name == f"seam-fine_tune-1e-4-{IDENTITY[:12]}"
    assert store.place("attack", IDENTITY) == place
    assert store.place("attack", OTHER) is None
    assert store.place("evaluate", IDENTITY) is None
    assert not working.exists()


def test_a_store_that_lost_a_folder_has_nothing_in_it(store: Store) -> None:
    (store.folder / "attack").rmdir()
    assert store.place("attack", IDENTITY) is None


def test_one_works_on_a_stage_at_a_time(store: Store) -> None:
    with store.lock(IDENTITY) as first, store.lock(IDENTITY) as second, store.lock(OTHER) as other:
        assert (first, second, other) == (True, False, True)
        assert store.is_locked(IDENTITY)
    assert not store.is_locked(IDENTITY)
    with store.lock(IDENTITY) as again:
        assert again


def test_many_may_read_what_nobody_changes(store: Store) -> None:
    with store.lock(IDENTITY, shared=True) as first, store.lock(IDENTITY, shared=True) as second:
        assert (first, second) == (True, True)
        assert not store.is_locked(IDENTITY)  # nobody works on it
        with store.lock(IDENTITY) as changing:
            assert not changing


def test_asking_who_works_leaves_nothing_behind(store: Store) -> None:
    assert not store.is_locked(IDENTITY)
    assert not list((store.folder / "locks").iterdir())


def test_a_file_system_without_locks_is_told_in_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match="--output-dir: its file system has no locks"), store.lock(IDENTITY):
        pass


def test_what_is_damaged_is_moved_and_never_over_something_else(store: Store) -> None:
    kept = []
    for text in ("first", "second"):
        working = store.working("attack", IDENTITY)
        working.mkdir()
        (working / "file").write_text(text)
        kept.append(store.set_aside(working))
    assert [(path / "file").read_text() for path in kept] == ["first", "second"]
    assert {path.parent for path in kept} == {store.folder / "damaged"}
