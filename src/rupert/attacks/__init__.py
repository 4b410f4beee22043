"""Attacks: one file a method, one line each in `ATTACKS`."""

from __future__ import annotations

from typing import Any

from rupert.attacks.attack import Attacked, Attacker
from rupert.attacks.fine_tune import FineTune

ATTACKS: dict[str, type[Any]] = {"fine_tune": FineTune}

__all__ = ["ATTACKS", "Attacked", "Attacker", "FineTune"]
