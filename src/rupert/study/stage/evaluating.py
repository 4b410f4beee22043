"""The stage that measures a model, and what judges an evaluation's answers again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from rupert.data import sources
from rupert.data.asking import PLAIN, Asking
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
from rupert.plugins import packages_of
from rupert.records import RESULT_FILE, Metric, Record, write_json
from rupert.study.stage import lineage
from rupert.study.stage.work import Request, do, request_of

SUITE = {"suite": Evaluation}
ASKING = ("system_prompt", "request_template")
SAMPLING = ("temperature", "sampling_seed")


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a record says of an evaluation: metrics, how they were measured, and the fingerprints of its data."""

    metrics: tuple[Metric, ...]
    report: Mapping[str, Any]
    data: Mapping[str, str]


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
        asking = chosen.asking if any(getattr(chosen, name) for name in ASKING) else lineage.asking_of(self.model.model)
        return replace(
            chosen,
            paired=chosen.paired or lineage.pairs_of(self.model.model),
            reference=known or None if chosen.reference == "" else chosen.reference,
        ).asked(asking)

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
        judges = parse_judges(self.chosen.judges)
        identities = {name: identity(judge) for name, judge in judges.items()}
        # Asked plainly, answered greedily, of all rows: the evaluation that it was before there were other ways.
        plain = (
            *(ASKING if self.chosen.asking == PLAIN else ()),
            *(SAMPLING if self.chosen.temperature == 0 else ()),
            *(() if self.chosen.half else ("half",)),
        )
        settings = {name: value for name, value in request.settings.items() if name not in plain}
        packages = packages_of(map(type, judges.values()))
        return replace(request, settings={**settings, "judges": identities}, packages=packages)

    def prepare(self) -> None:
        """Load what is asked, and ask the judges whether they can judge."""
        self.chosen.check()
        lineage.refuse_seen(self.unseen, self.model.model)
        _ = self.prepared

    @cached_property
    def data(self) -> dict[str, list[Example]]:
        """The rows of the datasets."""
        return self.chosen.gather()

    @property
    def unseen(self) -> dict[str, list[Example]]:
        """Those that the model must not have been trained on."""
        return {use: rows for use, rows in self.data.items() if use != "paired"}

    @cached_property
    def prepared(self) -> Prepared:
        """Judges that can judge, and tasks with their data."""
        return self.chosen.prepare()

    def damage(self, folder: Path) -> str:
        """What is wrong with answers, verdicts and outcomes."""
        return judging.damage(folder) or comparison.damage(folder)

    def run(self, stage: StageFolder) -> Record:
        """Measure what is not measured yet; the sound answers of an interrupted run or a damaged file are kept."""
        started, folder, chosen = time.perf_counter(), stage.path, self.chosen
        if vllm.backend(self.model) == "vllm":  # before the model is loaded: each wants the whole accelerator
            generate = partial(vllm.answers, self.model, max_new_tokens=chosen.max_new_tokens, sampling=chosen.sampling)
            self.prepared.answer(self.data, folder, generate)
        found = self.conclude(self._measure(folder), folder)
        return self.request().finish(stage, started, data=found.data, metrics=found.metrics, report=found.report)

    def conclude(self, measured: Measured, folder: Path) -> Conclusion:
        """Judge the answers, and take everything together; the model that gave them is not needed any more.

        Args:
            measured: what needed the model, see `Prepared.measure`.
            folder: with the answers; verdicts and outcomes go there too.
        """
        self.prepared.judge(folder)
        report: dict[str, Any] = {"judges": list(self.prepared.judges), "tasks": measured.details}
        if self._reference:
            reference, reference_hash = self._reference
            calibration = weigh(folder, reference, reference_hash, batch_size=self.chosen.batch_size)
            report |= {"reference": reference.model, "calibration": [asdict(error) for error in calibration.errors]}
        judged = judging.read_judged(folder, report["judges"][0])
        report["judge_tokens"] = judged.tokens()
        whole = joined([judged.measured(), measured])
        write_outcomes(whole.outcomes, folder / OUTCOMES_FILE)
        return Conclusion(whole.metrics, report, {use: fingerprint(rows) for use, rows in self.data.items()})

    def _measure(self, folder: Path) -> Measured:
        """What needs the model, which is gone afterwards: judges and reference may need its memory."""
        loaded = loading.load(self.model)
        with fitting_threads(loaded.model):
            return self.prepared.measure(loaded, self.data, folder)


def asked_by(evaluation: Evaluation, asking: Asking) -> Evaluation:
    """An evaluation that asks as an attacker does, unless it says itself how it asks."""
    return evaluation if any(getattr(evaluation, name) for name in ASKING) else evaluation.asked(asking)


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
