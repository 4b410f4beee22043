"""lm-eval: which tasks it knows, their data, and a model's outcome on each question, in plain values."""

from __future__ import annotations

import errno
import io
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rupert.errors import DataError, DiskFullError, MissingDependency, RunError
from rupert.evaluation.ability.rules import Config, Index, leaves, means
from rupert.evaluation.mechanism import scoring
from rupert.records import content_hash
from rupert.terminal import bar

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# lm-eval's index of its almost 15,000 names takes seconds to build; the papers' tasks lie in these folders of it.
USUAL_FOLDERS = ("arc", "gsm8k", "hellaswag", "mmlu/default", "openbookqa", "truthfulqa")
# lm-eval's own seeds, so that a task that draws its examples draws those that the command `lm_eval` would.
PYTHON_SEED, SEED = 0, 1234


@dataclass(frozen=True, slots=True)
class Task:
    """A task or group of tasks of lm-eval, with its data.

    Attributes:
        name: as lm-eval calls it.
        metric: the one of its metrics that stands for it.
        loaded: what lm-eval's `evaluate` takes.
        chat_template: whether the tokenizer's chat template is put around each question.
    """

    name: str
    metric: str
    loaded: Any
    chat_template: bool


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one model did on one task.

    Attributes:
        value: the accuracy, from 0 to 1.
        error: its standard error by lm-eval's formula; None where a single question has none.
        items: hash of each question and 1 for right, 0 for wrong, or a share; None where it could not be scored.
        details: how it was measured, in JSON values.
    """

    value: float
    error: float | None
    items: tuple[tuple[str, float | None], ...]
    details: Mapping[str, Any]


def require() -> None:
    """Raise `MissingDependency` if lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise MissingDependency("lm-eval", "eval")


@cache
def _manager(folder: str, complete: bool) -> TaskManager:
    """The index of lm-eval's tasks, or of the usual ones, and of those in `folder`, which go before lm-eval's."""
    try:
        import lm_eval.tasks
    except ImportError:
        raise MissingDependency("lm-eval", "eval") from None
    own = [folder] if folder else []
    root = Path(lm_eval.tasks.__file__).parent
    usual = [] if complete else [root / name for name in USUAL_FOLDERS]
    with _quiet():
        return lm_eval.tasks.TaskManager(include_path=[*usual, *own], include_defaults=complete)


def _manager_for(name: str, folder: str) -> TaskManager:
    """The smaller index where it holds the task and, of a group, all members."""
    usual = _manager(folder, False)
    entry = usual.task_index.get(name)
    # A tag gathers tasks from all folders.
    is_whole = (
        entry is not None
        and entry.kind.name != "TAG"
        and all(config is not None for _, config in leaves(name, usual.task_index))
    )
    return usual if is_whole else _manager(folder, True)


def index_for(name: str, folder: str = "") -> Index:
    """lm-eval's entries by name: at least the task or group of that name with all below it, if it exists.

    Args:
        name: a task or group of tasks.
        folder: with more tasks in lm-eval's YAML, which go before its own; empty for none.

    Raises:
        MissingDependency: lm-eval is not installed.
    """
    index: Index = _manager_for(name, folder).task_index
    return index


def load_task(name: str, metric: str, folder: str = "", *, chat_template: bool = False) -> Task:
    """A task or group of lm-eval's with its data, from the cache or the Hub.

    Raises:
        DataError: its data cannot be had, or need a package that is not installed.
        DiskFullError: no space left for the download.
    """
    manager = _manager_for(name, folder)
    with _failures_in_one_line(name), _quiet(), _own_seeds():
        loaded = manager.load([name])
    return Task(name, metric, loaded, chat_template)


def load_config(config: Config, *, chat_template: bool) -> Task:
    """A task from what its YAML would hold.

    Raises:
        DataError: its data cannot be had.
        MissingDependency: lm-eval is not installed.
    """
    try:
        from lm_eval.api.task import ConfigurableTask
    except ImportError:
        raise MissingDependency("lm-eval", "eval") from None

    name: str = config["task"]
    with _failures_in_one_line(name), _quiet(), _own_seeds():
        task = ConfigurableTask(config=dict(config))
    return Task(name, means(config)[0], {"tasks": {name: task}}, chat_template)


@contextmanager
def _failures_in_one_line(name: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except ImportError as error:
        message = f"{name}: needs a package that is not installed ({error}); install it, or name another task"
        raise DataError(message) from error
    except (OSError, ValueError, RuntimeError, KeyError, DatasetsError, HTTPError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            message = f"{name}: no space left for its data; free some, or set HF_HOME to a folder on another disk"
            raise DiskFullError(message) from None
        raise DataError(f"{name}: {_explanation(error)} use the task 'questions', which needs no network") from error


def _explanation(error: Exception) -> str:
    from huggingface_hub import constants

    if isinstance(error, ConnectionError) and constants.is_offline_mode():
        return "its data are not in the local cache, and HF_HUB_OFFLINE forbids to fetch them; unset it, or"
    summary = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"its data cannot be loaded ({summary}); check the network, or"


def run_task(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, *, limit: int | None, batch_size: int
) -> TaskResult:
    """A model's outcome on each question of a task, as lm-eval scores it.

    Args:
        model: a causal model on its device; its training mode is given back as it was.
        tokenizer: with a pad token and, for tasks in chat format, a chat template.
        task: from `load_task` or `load_config`; it can be run again.
        limit: ask only the first so many; of a group, of each of its tasks. None asks all.
        batch_size: sequences at once.

    Raises:
        RunError: lm-eval stopped, or the model's probabilities are not numbers.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    # Not `simple_evaluate`: that one seeds the whole process and looks up the environment for its log.
    with bar(f"asking {task.name}", None), _stops_in_one_line(task.name), _quiet(), _own_seeds(), scoring(model):
        for one in task.loaded["tasks"].values():
            one.set_config("num_fewshot", one.get_config("num_fewshot") or 0)
            one.set_fewshot_seed(SEED)
        results = evaluate(
            HFLM(model, tokenizer=tokenizer, batch_size=batch_size),
            task.loaded,
            limit=limit,
            bootstrap_iters=0,  # it would fork the process; the standard error of a mean needs none
            apply_chat_template=task.chat_template,
            fewshot_as_multiturn=task.chat_template,
        )
        return _result(task, results)


@contextmanager
def _stops_in_one_line(name: str) -> Iterator[None]:
    """lm-eval says by assertions and ValueErrors that a model and a task do not fit, as where a text is too long."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        summary = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(f"{name}: lm-eval stopped ({summary}); name another task") from error


def _result(task: Task, results: Mapping[str, Any]) -> TaskResult:
    group = task.loaded.get("groups", {}).get(task.name)
    rule = next((one for one in group.aggregate_metric_list if one.metric == task.metric), None) if group else None
    chosen = rule.filter_list[0] if rule and rule.filter_list else next(iter(results["samples"].values()))[0]["filter"]
    items, parts = [], {}
    for name, samples in results["samples"].items():
        found = _items(name, samples, task.metric, chosen)
        parts[name] = {"version": str(results["versions"][name]), **_mean(name, found)}
        items += found
    value, error = _combined(list(parts.values()), by_size=rule is None or rule.weight_by_size)
    details = {
        "lm_eval": version("lm_eval"),
        "version": str(results["versions"][task.name]),
        "metric": task.metric,
        "filter": chosen,
        "value": value,
        "standard_error": error,
        "n": sum(part["n"] for part in parts.values()),
        "unscored": sum(value is None for _, value in items),
        "num_fewshot": results["n-shot"].get(task.name),
        "chat_template": task.chat_template,
        "items": content_hash([item for item, _ in items]),
        "other_metrics": _other_metrics(f"{task.metric},{chosen}", results["results"][task.name]),
        **({"tasks": parts} if group else {}),
    }
    return TaskResult(value, error, tuple(items), details)


def _items(name: str, samples: Sequence[Mapping[str, Any]], metric: str, chosen: str) -> list[tuple[str, float | None]]:
    """Hash of the document and outcome, for each question.

    An outcome that is not finite is a share of probabilities that are all too small to be told from 0.
    """
    samples = [sample for sample in samples if sample["filter"] == chosen]
    for sample in samples:
        scores = [response[0] for response in sample["filtered_resps"] if isinstance(response, tuple)]
        if any(isinstance(score, float) and math.isnan(score) for score in scores):
            # The first choice would count as the most probable; of TruthfulQA's it is the right one.
            raise RunError(f"{name}: the model's log-probabilities are not numbers; its weights are damaged")
    values = [float(sample.get(metric, math.nan)) for sample in samples]
    return [
        (sample["doc_hash"], value if math.isfinite(value) else None)
        for sample, value in zip(samples, values, strict=True)
    ]


def _mean(name: str, items: Sequence[tuple[str, float | None]]) -> dict[str, Any]:
    from lm_eval.api.metrics import mean_stderr

    values = [value for _, value in items if value is not None]
    if not values:
        raise RunError(f"{name}: no question could be scored; the model finds every answer too improbable to compare")
    error = float(mean_stderr(values)) if len(values) > 1 else None
    return {"value": sum(values) / len(values), "standard_error": error, "n": len(values)}


def _combined(parts: Sequence[Mapping[str, Any]], *, by_size: bool) -> tuple[float, float | None]:
    """The value and standard error of a task or group, as lm-eval aggregates its parts."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr, unweighted_mean_stderr

    values, errors, sizes = ([part[key] for part in parts] for key in ("value", "standard_error", "n"))
    value = float(aggregate_subtask_metrics(values, sizes, by_size))
    if None in errors:
        return value, None
    return value, float(pooled_sample_stderr(errors, sizes) if by_size else unweighted_mean_stderr(errors))


def _other_metrics(own: str, found: Mapping[str, Any]) -> dict[str, float]:
    """What else lm-eval computed, such as `acc_norm`, under its name; with its filter, where a task has several."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in found.items()
        if "," in key and key != own and isinstance(value, (int, float)) and math.isfinite(value)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's warnings about models that are loaded already, and its progress bars, which have no switch."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _own_seeds() -> Iterator[None]:
    """Tasks that draw at random, such as the order of choices, draw the same each time; the process keeps its state."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(PYTHON_SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
