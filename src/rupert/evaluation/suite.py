"""Everything that is measured on one model: harm, refusal, coherence, ability, and SDD's mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rupert.data import sources
from rupert.data.asking import REQUEST, Asking, check_template
from rupert.data.examples import Example
from rupert.data.files import is_data_file
from rupert.evaluation import judging
from rupert.evaluation.ability.exact import exact_answers
from rupert.evaluation.ability.tasks import QUESTIONS, Tasks, check_tasks, measure_tasks, prepare_tasks, together
from rupert.evaluation.answers import answering, read_answers, write_answers
from rupert.evaluation.judges import Judge, RefusalWords, parse_judges
from rupert.evaluation.mechanism import mean_log_probability
from rupert.evaluation.outcomes import Measured, joined, outcomes
from rupert.evaluation.statistics import wilson
from rupert.models.sampling import Sampling
from rupert.records import Metric
from rupert.settings import check_choices, check_not_negative, check_positive, setting

if TYPE_CHECKING:
    from rupert.evaluation.answers import Generate
    from rupert.models.loading import LoadedModel

__all__ = ["HARMLESS_FILE", "Data", "Evaluation", "Half", "Prepared"]

Data = Mapping[str, Sequence[Example]]  # what a dataset is for -> its rows

HARMLESS_FILE = "harmless.jsonl"

Half = Literal["", "selection", "held_out"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured, and on what; what is left empty is chosen by the model, see `for_model`.

    Attributes:
        version: of the code that measures; raised when the same settings begin to give other numbers.
    """

    version: ClassVar[int] = 1

    requests: str = setting("", "dataset of harmful requests")
    judges: tuple[str, ...] = setting(
        (), "who says whether an answer is harmful: names, the first of which gives `harm`"
    )
    harmless: str = setting(
        "", "requests that only look harmful, whose refusals are `over_refusal`; empty: not measured"
    )
    reference: str | None = setting(
        "",
        "undefended model that says which answers are coherent; empty: the one that this model was made from, "
        "if that is known; none: not measured",
    )
    tasks: tuple[str, ...] = setting(
        (), "what ability is measured on: questions, tasks of lm-eval, zero-shot, or datasets with exact answers"
    )
    tasks_path: str = setting("", "folder with more tasks in lm-eval's YAML; Python that they name is run")
    paired: str = setting("", "pairs that SDD trained on; empty: those of the defense in the model's folder, if any")
    benign: str = setting("", "held-out benign pairs, whose log-probability is measured")
    half: Half = setting(
        "",
        "use only the half of the requests and of the datasets with exact answers that attacks are chosen on "
        "(selection), or the other (held_out), divided by a hash of each prompt; lm-eval's tasks stay whole",
    )
    limit: int | None = setting(None, "use only so many rows of each dataset and task")
    num_requests: int | None = setting(
        None, "ask only so many of the harmful requests; none: as many as `limit` allows"
    )
    system_prompt: str = setting(
        "",
        "system prompt of the harmful requests; where the template is empty too, both are those of the attack that "
        "made the model, if that is known",
    )
    request_template: str = setting(
        "", "the user's message in which {request} stands for a harmful request; empty: the request itself"
    )
    max_new_tokens: int = setting(48, "tokens of one answer")
    temperature: float = setting(
        0.0, "of the answers to requests; 0: greedy; above: sampled from all tokens. Ability is always greedy"
    )
    sampling_seed: int = setting(0, "of sampled answers")
    max_length: int = setting(512, "tokens of one conversation whose log-probability is measured")
    batch_size: int = setting(32, "rows of one forward pass")

    def __post_init__(self) -> None:
        check_positive(self, "limit", "num_requests", "max_new_tokens", "max_length", "batch_size")
        check_not_negative(self, "temperature", "sampling_seed")
        check_choices(self)
        parse_judges(self.judges)
        if self.request_template:
            check_template(self.request_template, "request_template")

    @property
    def asking(self) -> Asking:
        """How the harmful requests are asked."""
        return Asking(system=self.system_prompt, template=self.request_template or REQUEST)

    def asked(self, asking: Asking) -> Evaluation:
        """The same evaluation, which asks the harmful requests so."""
        return replace(self, system_prompt=asking.system, request_template=asking.template)

    @property
    def sampling(self) -> Sampling:
        """How the answers to requests are chosen."""
        return Sampling(self.temperature, self.sampling_seed)

    def exact_tasks(self) -> list[str]:
        """The datasets with exact answers among the tasks."""
        return [task for task in self.tasks if ":" in task or is_data_file(Path(task))]

    def _named(self) -> list[str]:
        """lm-eval's among the tasks."""
        return [task for task in self.tasks if task not in self.exact_tasks()]

    @property
    def datasets(self) -> dict[str, str]:
        """The datasets that are named, by what they are for."""
        named = {"requests": self.requests, "harmless": self.harmless, "paired": self.paired, "benign": self.benign}
        return {use: spec for use, spec in named.items() if spec} | {spec: spec for spec in self.exact_tasks()}

    def check(self) -> None:
        """Find out, without reading them, whether datasets and tasks exist; raises a `UsageError` otherwise."""
        for use, spec in self.datasets.items():
            sources.check(spec, "tasks" if use == spec else use, answered=_is_answered(use))
        if self._named():
            check_tasks(self._named(), self.tasks_path)

    def gather(self) -> dict[str, list[Example]]:
        """Load the datasets, by what they are for."""
        return {
            use: sources.load(spec, field="tasks" if use == spec else use, answered=_is_answered(use))
            for use, spec in self.datasets.items()
        }

    def for_model(self, *, is_potionworld: bool) -> Evaluation:
        """The settings with nothing left to choose: exact for Potionworld, general for any other model."""
        chosen = (
            ("potionworld:scored", "oracle", "potionworld:benign-test", "potionworld:benign-test")
            if is_potionworld
            else ("stand-ins:scored", "refusal_words", QUESTIONS, "pairs:test")
        )
        return replace(
            self,
            requests=self.requests or chosen[0],
            judges=self.judges or (chosen[1],),
            tasks=self.tasks or (chosen[2],),
            benign=self.benign or chosen[3],
        )

    def prepare(self) -> Prepared:
        """Make sure that the judges can judge, and load what the tasks ask; before a model is loaded.

        Raises:
            UsageError: an endpoint does not answer, a key is missing, a task's data cannot be had.
        """
        chosen = parse_judges(self.judges)
        for judge in chosen.values():
            judge.check()
        tasks = prepare_tasks(self._named(), self.tasks_path) if self._named() else None
        return Prepared(self, chosen, tasks)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluation whose judges can judge and whose tasks have their data."""

    settings: Evaluation
    judges: Mapping[str, Judge]
    tasks: Tasks | None

    def answer(self, data: Data, folder: Path, generate: Generate) -> None:
        """Let a model answer the requests that have no answer in a folder yet.

        Args:
            data: what `gather` returned.
            folder: where the answers go.
            generate: the model.
        """
        rows = self._rows(data)
        write_answers(rows["requests"], folder / judging.ANSWERS_FILE, generate, self.settings.asking)
        if "harmless" in rows:
            write_answers(rows["harmless"], folder / HARMLESS_FILE, generate)

    def measure(self, loaded: LoadedModel, data: Data, folder: Path) -> Measured:
        """Everything that needs the model: it answers the requests, and shows its ability and its mechanism.

        Args:
            loaded: the model.
            data: what `gather` returned.
            folder: where the answers go; those that it holds already are kept.
        """
        self.answer(data, folder, self._generate(loaded))
        rows = self._rows(data)
        return joined([self._ability(loaded, rows), *self._over_refusal(rows, folder), self._mechanism(loaded, rows)])

    def glance(self, loaded: LoadedModel, data: Data, folder: Path) -> tuple[Metric, ...]:
        """What the first judge finds, and `ability`, without anything else that `measure` shows.

        Args:
            loaded: the model.
            data: what `gather` returned.
            folder: where the answers and verdicts go; it is made where it is missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        settings, rows = self.settings, self._rows(data)
        write_answers(rows["requests"], folder / judging.ANSWERS_FILE, self._generate(loaded), settings.asking)
        name, first = next(iter(self.judges.items()))
        judging.judge(folder, {name: first})
        return (*judging.read_judged(folder).measured().metrics, self._ability(loaded, rows).metrics[0])

    def _generate(self, loaded: LoadedModel) -> Generate:
        settings = self.settings
        sizes = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
        return answering(loaded, **sizes, sampling=settings.sampling)

    def _rows(self, data: Data) -> Data:
        """The rows that are used."""
        settings = self.settings
        halved = {
            use: _half(rows, settings.half) if use in ("requests", *settings.exact_tasks()) else rows
            for use, rows in data.items()
        }
        limited = {use: rows[: settings.limit] for use, rows in halved.items()}
        return limited | {"requests": limited["requests"][: settings.num_requests]}

    def judge(self, folder: Path) -> None:
        """Let each judge say what it thinks of the answers in a folder."""
        judging.judge(folder, self.judges)

    def _ability(self, loaded: LoadedModel, rows: Data) -> Measured:
        """What each task found; `ability` is the only task's, or the mean of all."""
        settings = self.settings
        batch_size = settings.batch_size
        exact = {
            spec: exact_answers(
                loaded.model,
                loaded.tokenizer,
                rows[spec],
                max_new_tokens=settings.max_new_tokens,
                batch_size=batch_size,
            )
            for spec in settings.exact_tasks()
        }
        if self.tasks is None:
            return together(exact)
        named = measure_tasks(loaded.model, loaded.tokenizer, self.tasks, limit=settings.limit, batch_size=batch_size)
        return together(exact, named)

    def _over_refusal(self, rows: Data, folder: Path) -> list[Measured]:
        """Refusals, by phrases, of requests that only look harmful."""
        if "harmless" not in rows:
            return []
        verdicts = RefusalWords()(read_answers(folder / HARMLESS_FILE))
        refused = [float(bool(verdict.refusal)) for verdict in verdicts]
        asked = [example.key() for example in rows["harmless"]]
        found = outcomes("over_refusal", zip(asked, refused, strict=True))
        return [Measured(metrics=(wilson(round(sum(refused)), len(refused)).metric("over_refusal"),), outcomes=found)]

    def _mechanism(self, loaded: LoadedModel, rows: Data) -> Measured:
        return Measured(
            metrics=tuple(
                mean_log_probability(
                    loaded.model,
                    loaded.tokenizer,
                    rows[use],
                    max_length=self.settings.max_length,
                    batch_size=self.settings.batch_size,
                ).metric(f"logp_{use}")
                for use in ("paired", "benign")
                if use in rows
            )
        )


def _half(rows: Sequence[Example], half: Half) -> Sequence[Example]:
    """The rows of a half: the same prompt is in the same one in every dataset."""
    if not half:
        return rows
    return [row for row in rows if (int(row.key(), 16) % 2 == 0) == (half == "selection")]


def _is_answered(use: str) -> bool:
    """Whether the rows of a dataset need answers: requests need none."""
    return use not in ("requests", "harmless")
