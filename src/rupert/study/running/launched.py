"""One training of a study in several processes: what the study hands over, and what each process does with it.

The rows of a step are divided over the processes, so that a study's settings mean the same on any number of devices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES
from rupert.errors import RunError, RupertError
from rupert.folders import StageFolder
from rupert.models.loading import ModelSettings
from rupert.records import write_json, write_text
from rupert.settings import as_mapping, parse
from rupert.study.running.progress import file_listener
from rupert.study.stage import SAVE_STEPS, Attack, Harden, Training, do
from rupert.terminal import listening
from rupert.training import launching, processes
from rupert.training.tracking import Tracking

HANDED_OVER = "launched.json"  # in the folder of a stage
ERROR_FILE = "error.txt"  # in the folder of a stage that failed: why


@dataclass(frozen=True, slots=True)
class Launcher:
    """How a training is split over devices.

    Attributes:
        config: name or path of a configuration of `accelerate launch`.
        num_processes: to start; none: as many as there are accelerators.
    """

    config: str
    num_processes: int | None = None


def launch(launcher: Launcher, work: Training, stage: StageFolder, progress: Path) -> None:
    """Do a training in several processes, in a folder that was claimed for it.

    Args:
        launcher: how it is split.
        work: the training.
        stage: its folder.
        progress: the file that is to say how far it is.

    Raises:
        UsageError: no such configuration, or not one for this machine.
        RunError: it had to stop.
    """
    if isinstance(work, Harden):
        launching.check_hardening(launcher.config)
    path = stage.path / HANDED_OVER
    write_json({"progress": str(progress), **_described(work)}, path)
    code = launching.launch_module(launcher.config, __name__, [str(path)], launcher.num_processes)
    if code:
        error = stage.path / ERROR_FILE
        told = error.read_text(encoding="utf-8") if error.exists() else f"the processes ended with exit code {code}"
        raise RunError(told)
    path.unlink()


def _described(work: Training) -> dict[str, Any]:
    methods = {method: name for family in (DEFENSES, ATTACKS) for name, method in family.items()}
    return {
        "kind": type(work).__name__,
        "method": methods[type(work.settings)],
        "settings": as_mapping(work.settings),
        "model": as_mapping(work.model),
        "tracking": {**asdict(work.tracking), "folder": None},
        "keep_adapter": getattr(work, "keep_adapter", False),
        "save_steps": getattr(work, "save_steps", SAVE_STEPS),
    }


def _restored(described: Mapping[str, Any]) -> Training:
    model = parse(ModelSettings, described["model"])
    told = described["tracking"]
    tracking = Tracking(report_to=tuple(told["report_to"]), run_name=told["run_name"], project=told["project"])
    shared: dict[str, Any] = {"model": model, "tracking": tracking, "spread_over": processes.count()}
    if described["kind"] == Harden.__name__:
        defense = parse(DEFENSES[described["method"]], described["settings"])
        return Harden(settings=defense, save_steps=described["save_steps"], **shared)
    settings = parse(ATTACKS[described["method"]], described["settings"])
    return Attack(settings=settings, keep_adapter=described["keep_adapter"], **shared)


def main(path: Path) -> int:
    """What each process does: join the others, and do its part."""
    described = json.loads(path.read_text(encoding="utf-8"))
    processes.join(described["model"]["device"])
    is_main = processes.rank() == 0
    try:
        with listening(file_listener(Path(described["progress"]))) if is_main else nullcontext():
            do(_restored(described), path.parent, resume=True)
    except RupertError as error:
        write_text(str(error), path.parent / ERROR_FILE)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
