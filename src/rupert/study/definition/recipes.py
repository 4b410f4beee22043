"""The recipes that ship with rupert: studies and settings in YAML, by name."""

from __future__ import annotations

import itertools
from pathlib import Path

from rupert.errors import UnknownName

RECIPES = Path(__file__).parents[2] / "recipes"


def find_recipe(name: str, field: str = "recipe", folder: Path = Path()) -> Path:
    """A YAML file by its path, or a recipe that ships with rupert by its name.

    Args:
        name: a path that ends in .yaml or .yml, or a recipe's name.
        field: what the user calls this setting, for the message.
        folder: what a path is relative to.

    Raises:
        UnknownName: neither.
    """
    own = Path(name)
    if own.suffix in (".yaml", ".yml") and "\0" not in name:
        return folder / own
    shipped = {path.stem: path for path in RECIPES.glob("*.yaml")}
    if name not in shipped:
        raise UnknownName(field, name, shipped)
    return shipped[name]


def recipes() -> list[dict[str, str]]:
    """What `rupert ls recipes` shows: each recipe's name and its opening comment."""
    return [{"name": path.stem, "about": _opening(path)} for path in sorted(RECIPES.glob("*.yaml"))]


def _opening(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines)
