"""Tasks whose data or packages fail: one line each, and nothing is lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import DataError, DiskFullError
from rupert.evaluation.ability.harness import load_task
from rupert.evaluation.ability.tasks import prepare_tasks

pytestmark = pytest.mark.usefixtures("own_cache")


def test_data_that_are_not_here_and_may_not_be_fetched(folder: Path) -> None:
    with pytest.raises(DataError) as raised:
        prepare_tasks(["local_hub"], str(folder))
    assert str(raised.value) == (
        "local_hub: its data are not in the local cache, and HF_HUB_OFFLINE forbids to fetch them; "
        "unset it, or use the task 'questions', which needs no network"
    )


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            ConnectionError("Couldn't reach 'nobody/nothing' on the Hub.\nmore"),
            r"local_hub: its data cannot be loaded \(Couldn't reach 'nobody/nothing' on the Hub\); check the network",
        ),
        (ValueError("no such split"), r"local_hub: its data cannot be loaded \(no such split\)"),
        (ConnectionError(), r"local_hub: its data cannot be loaded \(ConnectionError\)"),
    ],
)
def test_failing_data_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise failure

    monkeypatch.setattr("datasets.load_dataset", fail)
    # Offline, what is no failure of the network is not explained by it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not isinstance(failure, ConnectionError))
    with pytest.raises(DataError, match=message) as raised:
        load_task("local_hub", "acc", str(folder))
    assert "\n" not in str(raised.value)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DiskFullError, match="local_hub: no space left for its data; free some, or set HF_HOME"):
        load_task("local_hub", "acc", str(folder))


def test_a_package_that_is_missing(folder: Path) -> None:
    with pytest.raises(DataError, match=r"local_package: needs a package that is not installed .*nobody_has"):
        load_task("local_package", "acc", str(folder))
