"""Each rule finds a breach that was made up for it: a rule that finds nothing would hold for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import test_floors, test_sizes, test_surface
from .source import Rule, planted

SUBJECTS = (test_floors, test_sizes, test_surface)
MADE_UP = [breach for subject in SUBJECTS for breach in subject.MADE_UP]


@pytest.mark.parametrize(("rule", "files", "found"), MADE_UP)
def test_a_rule_finds_what_breaks_it(tmp_path: Path, rule: Rule, files: dict[str, str], found: list[str]) -> None:
    assert rule(planted(tmp_path, files)) == found


def test_every_rule_has_a_made_up_breach() -> None:
    assert {rule for rule, _, _ in MADE_UP} == {rule for subject in SUBJECTS for rule in subject.RULES}
