"""Defenses: one file a method, one line each in `DEFENSES`."""

from __future__ import annotations

from rupert.defenses.sdd import SDD
from rupert.defenses.seam import SEAM
from rupert.training.objective import Objective

DEFENSES: dict[str, type[Objective]] = {"sdd": SDD, "seam": SEAM}

__all__ = ["DEFENSES", "SDD", "SEAM"]
