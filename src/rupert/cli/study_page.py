"""The page of a study, from its evidence: what `rupert run` and `rupert report` write alike."""

from __future__ import annotations

from collections.abc import Sequence

from rupert.evidence import Evidence
from rupert.report.page import Claim, StudyFacts, render

REPORT = "report.html"


def study_page(found: Evidence, claims: Sequence[Claim] = ()) -> str:
    """The page as HTML.

    Args:
        found: of the study; at least one cell is measured.
        claims: what was held against the numbers.
    """
    return render(found.rows, facts_of(found, claims))


def facts_of(found: Evidence, claims: Sequence[Claim] = ()) -> StudyFacts:
    """Where a study's numbers come from, as a page states it."""
    return StudyFacts(
        study=found.study,
        model=found.model,
        command=found.command or "\n".join(origin.command for origin in found.origins if origin.command),
        seeds=found.seeds,
        seconds=found.seconds,
        environment=found.environment,
        defenses={label: settings or {} for label, settings in found.defenses.items()},
        attacks=found.attacks,
        notes=[*found.notes, *_doubts(found)],
        claims=claims,
    )


def _doubts(found: Evidence) -> list[str]:
    """What a reader has to know of the evidence itself."""
    older = [origin for origin in found.origins if not origin.is_current]
    doubts = [f"Not measured: {cell.name} ({'; '.join(cell.missing)})." for cell in found.missing]
    if older:
        doubts.append(
            f"{len(older)} of {len(found.origins)} stages are shown as their records have them: their model or data "
            "are not on the machine that wrote this page, or rupert has changed since and `rupert run` would do them "
            "again."
        )
    return doubts
