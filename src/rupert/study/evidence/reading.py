"""Reads a study's evidence from its folder alone: numbers, and where each comes from; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rupert.errors import FolderError, UsageError
from rupert.evaluation.samples import Sample, read_samples
from rupert.evidence import Evidence, Exchange, MeasuredCell, Opinion, Origin, Reply
from rupert.records import Metric, write_text
from rupert.settings import parse
from rupert.study.definition.graph import UNATTACKED, Model, Node, graph
from rupert.study.definition.study import Study, describe, restore
from rupert.study.evidence.commands import command
from rupert.study.evidence.curves import curves
from rupert.study.evidence.targets import Target
from rupert.study.evidence.verification import VERIFICATION_FILE, Ours, Verified
from rupert.study.running.run import SCORE, Cell, result_row, result_rows
from rupert.study.store import STUDY_FILE, Store
from rupert.study.survey.places import Place, places
from rupert.study.survey.status import status

COMMAND_FILE = "command.txt"  # what the study was last run with, for whoever reads the folder
STAND_IN = "potionworld"  # for a model that is not on this machine: reports need its name alone


def evidence(folder: Path) -> Evidence:
    """Everything that a report needs of a study, also of one that is not finished.

    The study's model and data need not be on this machine: stages are then recognized by their records.

    Raises:
        FolderError: the folder holds no study, or a damaged one.
    """
    store = Store(folder)
    study, described = _study(store)
    planned = graph(study)
    found = places(study, store, planned.nodes, is_here=study.model.model == described["model"])
    reader = _Reader(store, study, found)
    cells = tuple(map(reader.cell, planned.models))
    measured = [Cell(cell.seed, cell.defense, cell.attack, cell.metrics) for cell in cells if not cell.missing]
    name = str(described["model"])
    return Evidence(
        study=study.name,
        model=name,
        command=_command(folder),
        seeds=study.seeds,
        defenses=described["defenses"],
        attacks=described["attacks"],
        notes=study.notes,
        cells=cells,
        rows=tuple(replace(row, model=name) for row in result_rows(study, measured)),
        all_rows=tuple(result_row(study.name, name, cell, metric) for cell in cells for metric in cell.metrics),
        exchanges=lambda cell: _exchanges(folder, cells, cell),
    )


def begin(study: Study, typed: str, folder: Path) -> None:
    """Make a folder the study's, and leave in it what the study is run with.

    Raises:
        FolderError: it holds something else.
    """
    Store(folder).open(describe(study))
    write_text(f"{typed}\n", folder / COMMAND_FILE)


def verified(folder: Path) -> list[Verified]:
    """What was last held against the numbers in a folder by `rupert verify`; nothing where nothing was.

    Raises:
        FolderError: the file is damaged.
    """
    path = folder / VERIFICATION_FILE
    try:
        return [_verified(one) for one in json.loads(path.read_text(encoding="utf-8"))["verified"]]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise FolderError(f"{path}: damaged ({error}); repeat `rupert verify`, or remove it") from None


def _verified(raw: Mapping[str, Any]) -> Verified:
    ours = Ours(**raw["ours"]) if raw["ours"] else None
    return Verified(parse(Target, raw["target"]), ours, raw["outcome"], raw["reason"])


def _study(store: Store) -> tuple[Study, Mapping[str, Any]]:
    """The study that was last run, and as it was written; its model is the stand-in where it is not to be had here."""
    try:
        study = store.study()
        return study, json.loads((store.folder / STUDY_FILE).read_text(encoding="utf-8"))
    except FolderError as error:
        with suppress(OSError, ValueError, FolderError, TypeError, KeyError):
            described = json.loads((store.folder / STUDY_FILE).read_text(encoding="utf-8"))
            known = {**described, "model": str(described["model"])}
            return restore({**known, "model": STAND_IN, "revision": ""}), known
        raise error


def _command(folder: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return (folder / COMMAND_FILE).read_text(encoding="utf-8").strip()
    return ""


@dataclass
class _Reader:
    """Reads cells from what stands in a store."""

    store: Store
    study: Study
    places: Mapping[Node, Place]
    states: Mapping[tuple[str, str], str] | None = None

    def cell(self, model: Model) -> MeasuredCell:
        """A model of the grid."""
        missing = [node for node in model.stages if node not in self.places]
        return MeasuredCell(
            seed=model.seed,
            defense=model.defense,
            attack=model.attack,
            origins=tuple(self._origin(node) for node in _line(model) if node in self.places),
            metrics=() if missing else self._metrics(model),
            missing=tuple(f"{node.kind} {node.label}: {self._state(node)}" for node in missing),
        )

    def _metrics(self, model: Model) -> tuple[Metric, ...]:
        scores = {label: self.places[node].record.metric("score") for label, node in model.scores.items()}
        named = (replace(metric, name=f"{SCORE}{label}") for label, metric in scores.items())
        return (*self.places[model.evaluation].record.metrics, *named)

    def _origin(self, node: Node) -> Origin:
        place = self.places[node]
        return Origin(
            kind=node.kind,
            label=node.label,
            seed=node.seed,
            folder=place.folder.relative_to(self.store.folder).as_posix(),
            identity=str(place.request["identity"]),
            command=command(node, self.study.model),
            record=place.record,
            curves=curves(place.record),
            is_current=place.is_current,
        )

    def _state(self, node: Node) -> str:
        """Where a stage is that is not done, and why."""
        if self.states is None:
            self.states = _states(self.store.folder)
        return self.states.get((node.kind, node.label), "not done")


def _states(folder: Path) -> dict[tuple[str, str], str]:
    with suppress(UsageError):
        return {
            (stage.kind, stage.label): f"{stage.state}: {stage.message}" if stage.message else stage.state
            for stage in status(folder).stages
        }
    return {}


def _line(model: Model) -> list[Node]:
    """All that a model's numbers come from, each after what it works on."""

    def before(node: Node) -> Iterator[Node]:
        for parent in node.parents:
            yield from before(parent)
        yield node

    return list(dict.fromkeys(node for stage in model.stages for node in before(stage)))


def _exchanges(folder: Path, cells: tuple[MeasuredCell, ...], cell: MeasuredCell) -> Iterator[Exchange]:
    """The requests of a cell, each answered before and after; nothing of a cell that is not measured."""
    where = (cell.seed, cell.defense)
    own = next((one for one in cells if (one.seed, one.defense) == where and one.attack == UNATTACKED), None)
    earlier = _samples(folder, own) if own and cell.attack != UNATTACKED else []
    before = {sample.answer.request: _reply(sample) for sample in earlier}
    for sample in _samples(folder, cell):
        yield Exchange(
            number=sample.number,
            request=sample.answer.request,
            category=sample.answer.category,
            is_hidden=sample.hides_request,
            before=before.get(sample.answer.request),
            after=_reply(sample),
        )


def _samples(folder: Path, cell: MeasuredCell) -> list[Sample]:
    measured = [origin.folder for origin in cell.origins if origin.kind == "evaluate"]
    return read_samples(folder / measured[0]) if measured else []


def _reply(sample: Sample) -> Reply:
    opinions = tuple(
        Opinion(judge, said.harmful, said.refusal, said.score, said.problem) for judge, said in sample.verdicts.items()
    )
    return Reply(sample.answer.text, sample.kind, opinions, sample.hides_answer)
