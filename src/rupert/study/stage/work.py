"""What a stage is: work that is defined by a request, checked before a model is loaded, and done in a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rupert import folders
from rupert.errors import FolderError, InvalidValue
from rupert.folders import StageFolder
from rupert.models import loading
from rupert.models.chat_templates import template_text
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.saving import save
from rupert.plugins import name_of, packages_of
from rupert.records import Record, Stage, content_hash, environment
from rupert.settings import defining
from rupert.training import processes
from rupert.training.tracking import Tracking


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What defines a stage's answer; two equal requests are one stage.

    Attributes:
        stage: the kind of stage.
        method: the defense, attack or task by name.
        settings: every setting that changes the answer.
        model: what goes in, as the user named it.
        model_hash: content hash of the weights that go in.
        data: what a dataset is for -> what it is known by.
        method_version: of the method's code, see `OptimizationSettings.version`.
        packages: other packages that method or judges are from, with their versions. Their names count: another
            package's method of the same name is another method. Versions are recorded and do not count, as rupert's
            own does not: a method whose answers change raises its `version`.
    """

    stage: Stage
    method: str
    settings: Mapping[str, Any]
    model: str
    model_hash: str
    data: Mapping[str, str]
    method_version: int = 1
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The hash of all that changes the answer, and of nothing else."""
        return content_hash(self.definition())

    def definition(self) -> dict[str, Any]:
        """Without names: the same weights or rows under another name are the same model and the same data."""
        settings = {name: value for name, value in self.settings.items() if name not in self.data}
        return {
            "stage": self.stage,
            "method": self.method,
            "method_version": self.method_version,
            "settings": settings,
            "model_hash": self.model_hash,
            "data": self.data,
            **({"packages": sorted(self.packages)} if self.packages else {}),
        }

    def claim(self, folder: Path, *, resume: bool) -> StageFolder:
        """Claim `folder`."""
        return folders.claim(folder, self.definition(), resume=resume)

    def finished(self, folder: Path) -> Record | None:
        """The record of the same request in `folder`; None where it is not done yet."""
        return folders.finished(folder, self.definition())

    def finish(self, folder: StageFolder, started: float, **results: Any) -> Record:
        """Write the record, with `results` among its fields; that makes the stage count as done."""
        fields: dict[str, Any] = {
            "stage": self.stage,
            "method": self.method,
            "settings": self.settings,
            "model": self.model,
            "model_hash": self.model_hash,
            "data": self.data,
            "seconds": time.perf_counter() - started,
            "environment": {**environment(), **self.packages},
        }
        return folder.finish(Record(**fields | results))


class Work(Protocol):
    """One stage, in the order in which its parts are called; each part is called in every process of a launcher."""

    @property
    def model(self) -> ModelSettings:
        """What goes in."""

    def request(self) -> Request:
        """What defines it: found from names and hashes, without reading corpora or loading a model."""

    def prepare(self) -> None:
        """Read its data and find out whether it can be done; raises a `UsageError` otherwise."""

    @property
    def mends(self) -> bool:
        """Whether it completes a folder that has its record and was damaged since."""

    def damage(self, folder: Path) -> str:
        """What is wrong with what it left in a folder that has its record; empty where nothing is."""

    def run(self, stage: StageFolder) -> Record:
        """Do it in a folder that was claimed for it, or go on with it, and write its record."""


class Training(Work, Protocol):
    """A stage that trains a model."""

    @property
    def settings(self) -> Any:
        """The method."""

    @property
    def tracking(self) -> Tracking:
        """Who is told of every step."""


def do(work: Work, folder: Path, *, resume: bool = False) -> Record:
    """Do a stage in a folder of its own, unless it is done there already.

    Args:
        work: the stage.
        folder: new, empty, or of the same request.
        resume: go on from what an interrupted run left.

    Raises:
        UsageError: something that is asked for cannot be.
        RunError: it had to stop.
    """
    folders.refuse_foreign(folder)
    request = work.request()
    done = request.finished(folder)
    damage = work.damage(folder) if done else ""
    if done and not damage:
        return done
    if damage and not work.mends:
        raise FolderError(f"--output-dir: {str(folder)!r} holds this run, and {damage}; name another folder")
    work.prepare()
    processes.join(work.model.device)
    return work.run(_claim_together(request, folder, resume=resume))


def _claim_together(request: Request, folder: Path, *, resume: bool) -> StageFolder:
    """Claim a folder in the main process; the others, where there are some, find it claimed, or stop with it."""
    stage, refused = None, None
    if processes.rank() == 0:
        try:
            stage = request.claim(folder, resume=resume)
        except FolderError as error:
            refused = error
    if processes.total(float(refused is not None)) > 0:
        raise refused or FolderError(f"--output-dir: {str(folder)!r} is refused; the main process says why")
    return stage or request.claim(folder, resume=True)


def request_of(
    stage: Stage, settings: Any, family: Mapping[str, type], model: ModelSettings, data: Mapping[str, str]
) -> Request:
    """The request of a method of `family`."""
    return Request(
        stage=stage,
        method=_named(type(settings), family),
        method_version=settings.version,
        packages=packages_of([type(settings)]),
        settings={**defining(settings), "dtype": model.dtype, **_told_template(model)},
        model=where(model.model),
        model_hash=loading.identity(model),
        data=data,
    )


def _named(method: type, family: Mapping[str, type]) -> str:
    """What a method is called.

    Raises:
        InvalidValue: it is of no installed package, so that nobody could do the stage again.
    """
    name = name_of(method, family)
    if name is None:
        raise InvalidValue("method", method.__qualname__, "name it by an entry point of its package")
    return name


def _told_template(model: ModelSettings) -> dict[str, str]:
    """The text of a chat template that is not the tokenizer's own: whoever reads the record may not have its file."""
    template = template_text(model.chat_template)
    return {"chat_template": template} if template else {}


def followed(tracking: Tracking, folder: Path) -> Tracking:
    """Tracking whose own files go into a stage's folder."""
    return replace(tracking, folder=folder / "tracking") if tracking.report_to else tracking


def where(model: str) -> str:
    """A folder by its whole path, because the next stage may be run from somewhere else; any other name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def save_whole(loaded: LoadedModel, folder: Path) -> str:
    """Save a model, gathered from all processes, in the main one; every process has to call it.

    Returns:
        its content hash; empty in the others.
    """
    whole = processes.whole(loaded.model)
    if processes.rank() > 0:
        return ""
    save(whole, loaded.tokenizer, folder)
    return loading.folder_hash(folder)
