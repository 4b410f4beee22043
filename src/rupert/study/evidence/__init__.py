"""What a study has shown: its evidence as reports take it, and claims that it is held against."""

from __future__ import annotations

from rupert.study.evidence.reading import begin, evidence, verified

__all__ = ["begin", "evidence", "verified"]
