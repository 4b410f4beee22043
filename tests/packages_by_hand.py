"""Packages as an installer would leave them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rupert.attacks import ATTACKS
from rupert.defenses import DEFENSES, SDD
from rupert.evaluation.judges import JUDGES
from rupert.plugins import Family
from rupert.training.objective import Objective

Points = Mapping[str, Mapping[str, str]]  # group -> name -> object


def write_metadata(folder: Path, name: str, version: str, points: Points) -> None:
    """What an installer leaves beside a package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in named.items())
        for group, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def forget() -> None:
    """The families read what is installed once; this lets them read it again."""
    for family in (DEFENSES, ATTACKS, JUDGES):
        vars(family).pop("_offered", None)
        family._found.clear()


def defenses() -> Family[Objective]:
    """A family that has read nothing."""
    return Family("rupert.defenses", {"sdd": SDD}, Objective)
