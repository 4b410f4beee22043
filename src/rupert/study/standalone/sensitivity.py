"""What flips a verdict: the details around an attack, varied one at a time.

After Qi et al., "On Evaluating the Durability of Safeguards for Open-Weight LLMs" (arXiv 2412.07097): whether a
defense holds may hang on the seed, the order of the data, the template or the way of answering. A verdict that one of
them flips is no verdict yet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rupert import folders
from rupert.attacks import ATTACKS
from rupert.errors import NonFiniteError, RunError
from rupert.evaluation.verdicts import Change, Thresholds, Verdict, change, verdict
from rupert.records import Metric, Record, write_json, write_text
from rupert.settings import as_mapping
from rupert.study import stage
from rupert.study.stage.attempting import attempt
from rupert.study.standalone.variations import PARTS, Case

BASE = "base"
SENSITIVITY_FILE = "sensitivity.json"
TABLE_FILE = "sensitivity.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one variation came to.

    Attributes:
        label: of the variation; `BASE` for the attack as it is.
        varied: setting -> its value, of those that differ from the base.
        harm: of the attacked model; None where the attack diverged.
        ability: of the attacked model.
        own_ability: of the model before the attack, measured as this variation measures.
        verdict: on the defense; None where the attack diverged.
        change: of the base's verdict.
        problem: why there are no numbers.
    """

    label: str
    varied: Mapping[str, Any]
    harm: Metric | None = None
    ability: float | None = None
    own_ability: float | None = None
    verdict: Verdict | None = None
    change: Change | None = None
    problem: str = ""


def sensitivity(
    base: Case,
    cases: Mapping[str, Case],
    folder: Path,
    *,
    thresholds: Thresholds,
    resume: bool = False,
) -> list[Row]:
    """Attack and measure as `base` says, and again with each detail varied; the base's row comes first.

    Every attack and every measurement is a stage with a folder of its own, and is done once. The model that the base's
    attack gives is kept, and variations of the evaluation alone measure that one; of the others only answers stay.

    Args:
        base: the attack, the model and how it is measured.
        cases: label -> the same with one detail varied.
        folder: new, empty, or of the same base; other cases or thresholds may be given to it later.
        thresholds: from when a model counts as broken.
        resume: go on with what an interrupted run left.

    Raises:
        UsageError: something that is asked for cannot be.
        RunError: no answer has a verdict on harm.
        NonFiniteError: the base's attack diverges. A variation that does is a row without numbers.
    """
    for case in (base, *cases.values()):
        case.attack.check()
        case.evaluation.check()
    folders.claim(folder, _request(base), resume=resume or (folder / SENSITIVITY_FILE).exists())
    run = _Run(base, folder, thresholds)
    first = run.row(BASE, base)
    rows = [first, *(run.row(label, case, first.verdict) for label, case in cases.items())]
    _write(rows, base, thresholds, folder)
    return rows


def _request(base: Case) -> dict[str, Any]:
    attack = stage.Attack(settings=base.attack, model=base.model).request().definition()
    evaluation = stage.Evaluate(settings=base.evaluation, model=base.model).request().definition()
    return {"stage": "sensitivity", "attack": attack, "evaluation": evaluation}


@dataclass(frozen=True, slots=True)
class _Run:
    """Does the stages of the cases, those that are not done yet."""

    base: Case
    folder: Path
    thresholds: Thresholds

    def row(self, label: str, case: Case, before: Verdict | None = None) -> Row:
        """Attack and measure one case, and compare its verdict with the one `before`; none for the base itself."""
        row = Row(label=label, varied=_varied(self.base, case))
        try:
            record = self._measured(label, case)
        except NonFiniteError as error:
            if case == self.base:
                raise
            return replace(row, problem=str(error))
        harm, ability = _harm(record), record.metric("ability").value
        own = self._own(label, case).metric("ability").value
        found = verdict(harm, ability, own, self.thresholds)
        changed = change(before or found, found)
        return replace(row, harm=harm, ability=ability, own_ability=own, verdict=found, change=changed)

    def _measured(self, label: str, case: Case) -> Record:
        folder = self.folder / "attacked" / label
        if (case.attack, case.model) != (self.base.attack, self.base.model):
            return attempt(case.attack, case.model, case.evaluation, folder, resume=True)
        weights = self.folder / "attack"
        stage.attack(case.attack, case.model, weights, resume=True)
        return stage.evaluate(
            case.evaluation, replace(case.model, model=str(weights), revision=""), folder, resume=True
        )

    def _own(self, label: str, case: Case) -> Record:
        """The model before the attack, as it is meant to be asked; what does not change ability is not varied."""
        evaluation = replace(case.evaluation, temperature=self.base.evaluation.temperature)
        evaluation = replace(evaluation, sampling_seed=self.base.evaluation.sampling_seed)
        name = BASE if evaluation == self.base.evaluation else label
        return stage.evaluate(evaluation, self.base.model, self.folder / "own" / name, resume=True)


def _varied(base: Case, case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in PARTS:
        before, after = (as_mapping(getattr(one, part)) for one in (base, case))
        found |= {name: value for name, value in after.items() if value != before[name]}
    return found


def _harm(record: Record) -> Metric:
    try:
        return record.metric("harm")
    except KeyError:
        raise RunError("no answer has a verdict on harm; name another judge") from None


def _write(rows: list[Row], base: Case, thresholds: Thresholds, folder: Path) -> None:
    method = next(name for name, cls in ATTACKS.items() if type(base.attack) is cls)
    whole = {
        "method": method,
        **{part: as_mapping(getattr(base, part)) for part in PARTS},
        "thresholds": as_mapping(thresholds),
        "rows": [asdict(row) for row in rows],
    }
    write_json(whole, folder / SENSITIVITY_FILE)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "harm", "low", "high", "n", "ability", "own_ability", "verdict", "change", "problem"])
    for row in rows:
        harm = [row.harm.value, row.harm.low, row.harm.high, row.harm.n] if row.harm else [None] * 4
        writer.writerow([row.label, *harm, row.ability, row.own_ability, row.verdict, row.change, row.problem])
    write_text(text.getvalue(), folder / TABLE_FILE)
