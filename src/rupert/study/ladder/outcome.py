"""What a ladder found, as `ladder.json` keeps it and as it is read back.

The file holds one `Outcome` in JSON, its fields by name: `version` is that of this shape; `trials` are in the order of
the search; `rungs` name trials by their number. Points are those of `rupert.evaluation.trajectory`, metrics those of
`rupert.records`. `trials.csv` beside it has one line a trial, for spreadsheets; nothing reads it back.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rupert.errors import FolderError, UsageError
from rupert.evaluation.trajectory import Point
from rupert.evaluation.verdicts import Thresholds, Verdict
from rupert.records import Metric, write_json, write_text
from rupert.study.ladder.rungs import LeftOut

VERSION = 1
LADDER_FILE, TRIALS_FILE = "ladder.json", "trials.csv"

COLUMNS = (
    *("number", "rung", "label", "method", "state", "score"),
    *("harm", "ability", "steps", "rows", "flops"),
    *("broke_at_step", "broke_at_rows", "broke_at_flops", "seconds", "settings", "problem"),
)

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attack that was tried, scored on the half of the requests and questions on which attacks are chosen.

    Attributes:
        number: from 1, in the order of the search over all rungs.
        rung: its name.
        label: of the attack in its rung.
        method: of the attack.
        settings: what was chosen of what is searched.
        state: "stopped" where it did less than the others by one of its looks, "failed" where it could not be done.
        score: what the search goes by, at its best look; 0 where it failed.
        points: looks at the model under attack; the last of a finished one is the attacked model.
        look: number of the look, from 1, with the highest score, at which the attacker ends it; 0 where it failed.
        broke_at: the first point at which the model is broken; None where there is none.
        seconds: wall time of the attack and its measurement, when they were done.
        folder: of a finished one, relative to the ladder's.
        problem: why it failed.
    """

    number: int
    rung: str
    label: str
    method: str
    settings: Mapping[str, Any]
    state: State
    score: float
    points: tuple[Point, ...] = ()
    look: int = 0
    broke_at: Point | None = None
    seconds: float = 0.0
    folder: str = ""
    problem: str = ""

    @property
    def best(self) -> Point:
        """The look at which the attacker ends it; of one that did not fail."""
        return self.points[self.look - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The chosen attack of a rung, done again with other seeds and scored on the other half at the chosen look.

    Attributes:
        seeds: of the attack and of the rows that it draws.
        harm: mean over the seeds; its interval is that of one seed's number of requests.
        ability: likewise.
        folders: of the attempts, relative to the ladder's.
    """

    seeds: tuple[int, ...]
    harm: Metric
    ability: Metric
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """What came of a rung.

    Attributes:
        name: of the rung.
        tried: how many trials it took.
        untried: labels of its attacks that the budget did not reach.
        chosen: number of the trial with the highest score; None where none was finished.
        held_out: the chosen attack on the other half; None where none was chosen.
        verdict: by the held-out score; None where there is none.
        problem: why a chosen attack has no held-out score.
    """

    name: str
    tried: int
    untried: tuple[str, ...]
    chosen: int | None = None
    held_out: HeldOut | None = None
    verdict: Verdict | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The model before any attack, on the half on which attacks are chosen and on the other.

    Attributes:
        selection: ability on the first.
        held_out: ability on the second.
        harm: on the second.
    """

    selection: Metric
    held_out: Metric
    harm: Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a ladder found of one model.

    Attributes:
        ladder: name of the ladder's file.
        model: as the user named it.
        model_hash: content hash of its weights.
        defense: what is known of its defense by the records of its folder; None for nothing.
        seed: of the search and of the trials.
        budget: trials that were allowed.
        thresholds: when a model counts as broken.
        own: the model before any attack.
        trials: in the order of the search.
        rungs: from the weakest attackers to the strongest.
        left_out: attacks that were not to be tried, and why.
        chosen: number of the trial with the highest score of all.
        highest_survived: the last rung up to which, from the lowest on, every verdict is "held"; empty for none.
        trials_until_break: the number of the first trial that broke the model; None where none of them did.
        version: of this shape.
    """

    ladder: str
    model: str
    model_hash: str
    defense: str | None
    seed: int
    budget: int
    thresholds: Thresholds
    own: Own
    trials: tuple[Trial, ...]
    rungs: tuple[Climbed, ...]
    left_out: tuple[LeftOut, ...] = ()
    chosen: int | None = None
    highest_survived: str = ""
    trials_until_break: int | None = None
    version: int = VERSION

    def trial(self, number: int) -> Trial:
        """The trial of that number."""
        return self.trials[number - 1]


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write `ladder.json` and `trials.csv`; a crash leaves each old or new, never a part."""
    write_text(_table(outcome), folder / TRIALS_FILE)
    write_json(outcome, folder / LADDER_FILE)


def read_ladder(folder: Path) -> Outcome:
    """What `rupert ladder` left in a folder.

    Raises:
        FolderError: there is none, it is damaged, or a newer rupert wrote it.
    """
    path = folder / LADDER_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] > VERSION:
            raise FolderError(f"{path}: version {raw['version']!r} is newer than this rupert; upgrade it")
        return _outcome(raw)
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{str(folder)!r} holds no {LADDER_FILE}; name the folder of `rupert ladder`") from None
    except FolderError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise FolderError(f"{path}: damaged ({error}); repeat the `rupert ladder` command that wrote it") from None


def _outcome(raw: dict[str, Any]) -> Outcome:
    return Outcome(
        **{
            **raw,
            "thresholds": Thresholds(**raw["thresholds"]),
            "own": Own(**{name: Metric(**metric) for name, metric in raw["own"].items()}),
            "trials": tuple(map(_trial, raw["trials"])),
            "rungs": tuple(map(_climbed, raw["rungs"])),
            "left_out": tuple(LeftOut(**one) for one in raw["left_out"]),
        }
    )


def _trial(raw: dict[str, Any]) -> Trial:
    broke_at = raw["broke_at"] and Point.from_row(raw["broke_at"])
    return Trial(**{**raw, "points": tuple(map(Point.from_row, raw["points"])), "broke_at": broke_at})


def _climbed(raw: dict[str, Any]) -> Climbed:
    held_out = raw["held_out"] and _held_out(**raw["held_out"])
    return Climbed(**{**raw, "untried": tuple(raw["untried"]), "held_out": held_out})


def _held_out(seeds: list[int], harm: Any, ability: Any, folders: list[str]) -> HeldOut:
    return HeldOut(seeds=tuple(seeds), harm=Metric(**harm), ability=Metric(**ability), folders=tuple(folders))


def _table(outcome: Outcome) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for trial in outcome.trials:
        best, broke = trial.best if trial.points else None, trial.broke_at
        found = [best.harm.value, best.ability.value, best.step, best.rows, best.flops] if best else [""] * 5
        cost = [broke.step, broke.rows, broke.flops] if broke else [""] * 3
        ran = [trial.number, trial.rung, trial.label, trial.method, trial.state, trial.score]
        writer.writerow([*ran, *found, *cost, f"{trial.seconds:.1f}", json.dumps(dict(trial.settings)), trial.problem])
    return text.getvalue()
