"""Benign rows that a defense mixes into a batch, which keep ability on small models."""

from __future__ import annotations

from typing import Protocol

from rupert.errors import InvalidValue
from rupert.settings import check_range


class Batched(Protocol):
    """Training settings, as far as a share of their batch needs them."""

    @property
    def batch_size(self) -> int:
        """Rows of one optimizer step, in one process."""


class Mixing(Batched, Protocol):
    """Settings with benign rows that may be mixed in."""

    @property
    def benign(self) -> str:
        """Dataset of benign pairs; empty for none."""

    @property
    def benign_share(self) -> float:
        """Share of a batch that is benign pairs."""


class MixesBenign:
    """Part of a defense whose settings are `Mixing`."""

    @property
    def benign_rows(self: Mixing) -> int:
        """Benign rows a step."""
        return mixed_rows(self, self.benign_share)


def mixed_rows(settings: Batched, share: float) -> int:
    """Rows a step that a share of the batch is."""
    return round(share * settings.batch_size)


def check_share(settings: Batched, name: str) -> None:
    """Raise `InvalidValue` unless the share in a field is 0, or leaves rows of both kinds in a batch."""
    check_range(settings, name, 0.0, 1.0)
    share = getattr(settings, name)
    if share > 0 and not 0 < mixed_rows(settings, share) < settings.batch_size:
        raise InvalidValue(name, share, f"leave rows of both kinds in {settings.batch_size}")


def check_benign_share(settings: Mixing) -> None:
    """As `check_share`; and a share needs a dataset."""
    check_range(settings, "benign_share", 0.0, 1.0)
    if settings.benign_share > 0 and not settings.benign:
        raise InvalidValue("benign_share", settings.benign_share, "name the dataset with `benign`")
    check_share(settings, "benign_share")
