"""The stage that measures a model, and what judges an evaluation's answers again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from rupert.data import sources
from rupert.data.examples import Example, fingerprint
from rupert.evaluation import comparison, judging
from rupert.evaluation.coherence.reference import weigh
from rupert.evaluation.comparison import OUTCOMES_FILE, read_outcomes, write_outcomes
from rupert.evaluation.judges import parse_judges
from rupert.evaluation.judges.specs import identity
from rupert.evaluation.outcomes import Measured, joined
from rupert.evaluation.suite import Evaluation, Prepared
from rupert.folders import StageFolder
from rupert.models import loading, vllm
from rupert.models.loading import ModelSettings
from rupert.models.threads import fitting_threads
from rupert.records import RESULT_FILE, Record, write_json
from rupert.study import lineage
from rupert.study.stage.work import Request, do, request_of

SUITE = {"suite": Evaluation}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A model is measured; answers and verdicts stay beside the record."""

    settings: Evaluation
    model: ModelSettings
    mends: ClassVar[bool] = True

    @cached_property
    def chosen(self) -> Evaluation:
        """The settings with nothing left to choose: by the model, and by the records of what it was made from."""
        chosen = self.settings.for_model(is_potionworld=loading.is_potionworld(self.model))
        known = self.model.model if self.model.model in loading.EMBEDDED else lineage.origin(self.model.model)
        return replace(
            chosen,
            paired=chosen.paired or lineage.pairs_of(self.model.model),
            reference=known or None if chosen.reference == "" else chosen.reference,
        )

    @cached_property
    def _reference(self) -> tuple[ModelSettings, str] | None:
        """The undefended model and its content hash."""
        if not self.chosen.reference:
            return None
        loading.check(self.chosen.reference, "reference")
        settings = replace(self.model, model=self.chosen.reference, revision="")
        return settings, loading.identity(settings)

    def request(self) -> Request:
        """By what is measured and weights; pairs and reference count by content, because a folder may be moved."""
        reference_hash = self._reference[1] if self._reference else None
        counted = replace(self.chosen, paired="", reference=reference_hash)
        data = sources.identities(self.chosen.datasets)
        request = request_of("evaluate", counted, SUITE, self.model, data)
        judges = {name: identity(judge) for name, judge in parse_judges(self.chosen.judges).items()}
        return replace(request, settings={**request.settings, "judges": judges})

    def prepare(self) -> None:
        """Load what is asked, and ask the judges whether they can judge."""
        self.chosen.check()
        lineage.refuse_seen({use: rows for use, rows in self._data.items() if use != "paired"}, self.model.model)
        _ = self._prepared

    @cached_property
    def _data(self) -> dict[str, list[Example]]:
        return self.chosen.gather()

    @cached_property
    def _prepared(self) -> Prepared:
        return self.chosen.prepare()

    def damage(self, folder: Path) -> str:
        """What is wrong with answers, verdicts and outcomes."""
        return judging.damage(folder) or comparison.damage(folder)

    def run(self, stage: StageFolder) -> Record:
        """Measure what is not measured yet; the sound answers of an interrupted run or a damaged file are kept."""
        started, folder, chosen, prepared = time.perf_counter(), stage.path, self.chosen, self._prepared
        if vllm.backend(self.model) == "vllm":  # before the model is loaded: each wants the whole accelerator
            generate = partial(vllm.answers, self.model, max_new_tokens=chosen.max_new_tokens)
            prepared.answer(self._data, folder, generate)
        measured = self._measure(folder)
        prepared.judge(folder)
        report: dict[str, Any] = {"judges": list(prepared.judges), "tasks": measured.details}
        if self._reference:
            reference, reference_hash = self._reference
            calibration = weigh(folder, reference, reference_hash, batch_size=chosen.batch_size)
            report |= {"reference": reference.model, "calibration": [asdict(error) for error in calibration.errors]}
        judged = judging.read_judged(folder, report["judges"][0])
        report["judge_tokens"] = judged.tokens()
        whole = joined([judged.measured(), measured])
        write_outcomes(whole.outcomes, folder / OUTCOMES_FILE)
        data = {use: fingerprint(rows) for use, rows in self._data.items()}
        return self.request().finish(stage, started, data=data, metrics=whole.metrics, report=report)

    def _measure(self, folder: Path) -> Measured:
        """What needs the model, which is gone afterwards: judges and reference may need its memory."""
        loaded = loading.load(self.model)
        with fitting_threads(loaded.model):
            return self._prepared.measure(loaded, self._data, folder)


def evaluate(evaluation: Evaluation, model: ModelSettings, folder: Path, *, resume: bool = False) -> Record:
    """Measure a model; answers and verdicts stay beside the record.

    Answers that are there already are kept: those of an interrupted run, and the sound ones of a damaged file.

    Args:
        evaluation: what to measure; what it leaves open is chosen by the model.
        model: what to measure.
        folder: new, empty, or of the same request.
        resume: do again what an interrupted run left unfinished.

    Raises:
        UsageError: something that is asked for cannot be.
    """
    return do(Evaluate(settings=evaluation, model=model), folder, resume=resume)


def judge(names: Sequence[str], folder: Path) -> Record:
    """Judge an evaluation's answers again: verdicts are added to its folder and metrics to its record.

    Args:
        names: judges as `Evaluation.judges` has them; those that judged before judge again.
        folder: of a finished evaluation.

    Raises:
        UsageError: something that is asked for cannot be.
    """
    record = judging.read_evaluation(folder)
    judges = parse_judges(names)
    for one in judges.values():
        one.check()
    judging.judge(folder, judges)
    judged = judging.read_judged(folder, record.report["judges"][0])
    found = judged.measured()
    own = [metric for metric in record.metrics if not judging.is_of_judges(metric.name)]
    kept = [row for row in read_outcomes(folder / OUTCOMES_FILE) if not judging.is_of_judges(row.metric)]
    write_outcomes([*found.outcomes, *kept], folder / OUTCOMES_FILE)
    labels = list(dict.fromkeys([*record.report["judges"], *judges]))
    report = {**record.report, "judges": labels, "judge_tokens": judged.tokens()}
    again = replace(record, metrics=(*found.metrics, *own), report=report)
    write_json(again, folder / RESULT_FILE)
    return again
