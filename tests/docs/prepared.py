"""What a page takes for granted: a small study, hardened and attacked models, data files; made once, and copied."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from rupert.data.sources import load
from rupert.models.loading import POTIONWORLD_FOLDER

from . import commands

DATA = {
    "harmful.jsonl": "potionworld:defender",
    "refusals.jsonl": "potionworld:refusals",
    "benign.jsonl": "potionworld:benign",
    "attacker.jsonl": "potionworld:attacker",
    "requests.jsonl": "potionworld:scored",
}
SETTINGS = {
    "attack.yaml": "data: potionworld:attacker\nnum_examples: 16\nmax_steps: 2\nmax_length: 64\n",
    "one.yaml": "optim-sgd: {attack: {optim: sgd}}\n",
}


class Prepared:
    """Makes things by their names, the same for everybody who asks.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, where: Path) -> None:
        """A copy of what is called so; `X as Y` calls it Y. Times are kept, because records are trusted by them."""
        kind, _, other = name.partition(" as ")
        made = self._made(kind)
        if made.is_dir():
            shutil.copytree(made, where / (other or kind))
        else:
            shutil.copy(made, where / (other or kind))

    def _made(self, name: str) -> Path:
        kinds: dict[str, Callable[[Path], object]] = {
            "S": self._study,
            "S2": lambda place: self._copy("S", place),
            "hardened": lambda place: self._copy("S/defend/seam-*", place),
            "hardened-sdd": lambda place: self._copy("S/defend/sdd-*", place),
            "measured": lambda place: self._copy("S/evaluate/seam-fine_tune-*", place),
            "my-model": lambda place: shutil.copytree(POTIONWORLD_FOLDER, place),
            "L": lambda place: self._ladder(place, seed=0),
            "M": lambda place: self._ladder(place, seed=1),
            "G": self._geometry,
        }
        place = self._folder / _kind(name)
        if not place.exists():
            assert place.name in {*DATA, *SETTINGS, *kinds}, f"nobody knows how to make {name!r}"
            if name in SETTINGS:
                place.write_text(SETTINGS[name], encoding="utf-8")
            elif name in DATA:
                self._write_rows(place)
            else:
                kinds[place.name](place)
        return place

    def _study(self, place: Path) -> None:
        self._do(f"rupert run demo --output-dir {place}")

    def _ladder(self, place: Path, seed: int) -> None:
        self._do(f"rupert ladder --model {self._model()} --seed {seed} --output-dir {place}")

    def _geometry(self, place: Path) -> None:
        self._do(
            f"rupert geometry --config seam-figure-6-potionworld --model seam={self._model()} --output-dir {place}"
        )

    def _model(self) -> Path:
        self._made("S")
        return next(self._folder.glob("S/defend/seam-*"))

    def _copy(self, pattern: str, place: Path) -> None:
        self._made("S")
        shutil.copytree(next(self._folder.glob(pattern)), place)

    def _do(self, line: str) -> None:
        outcome = commands.run(line, small=True)
        if outcome[0]:
            commands.fail("what the pages take for granted", line, outcome)

    @staticmethod
    def _write_rows(place: Path) -> None:
        rows = load(DATA[place.name])
        texts = ({"instruction": row.prompt[-1]["content"], "output": row.completion[-1]["content"]} for row in rows)
        place.write_text("".join(json.dumps(text) + os.linesep for text in texts), encoding="utf-8")


def _kind(name: str) -> str:
    """Pages call ladders by many names: two serve for all, which differ in their seed."""
    return "M" if re.fullmatch(r"L-\w+-1", name) else "L" if re.fullmatch(r"L\d|L-\w+-0", name) else name
