"""The page that the tests of its parts look at."""

from __future__ import annotations

import pytest

from rupert.report.page import render

from .rows_by_hand import evidence, row, study


@pytest.fixture(scope="module")
def html() -> str:
    rows = study(none=(0, 1, 0.9, 0.9), sdd=(0, 0.2, 0.9, 0.3))
    rows += [row("sdd", "none", "refusal", 1), row("sdd", "fine_tune-0.0001", "refusal", 0)]
    return render(evidence(rows))
