"""Defenses: one file a method, one line each in `DEFENSES`; other packages add theirs, see `rupert.plugins`."""

from __future__ import annotations

from rupert.defenses.booster import Booster
from rupert.defenses.ctrap import CTRAP
from rupert.defenses.random_mapping import RandomMapping
from rupert.defenses.repnoise import RepNoise
from rupert.defenses.sdd import SDD
from rupert.defenses.seam import SEAM
from rupert.defenses.t_vaccine import TVaccine
from rupert.defenses.tar import TAR
from rupert.defenses.vaccine import Vaccine
from rupert.plugins import SPOKEN_FOR, Family
from rupert.training.objective import Objective

_OWN: dict[str, type[Objective]] = {
    "sdd": SDD,
    "seam": SEAM,
    "vaccine": Vaccine,
    "t_vaccine": TVaccine,
    "random_mapping": RandomMapping,
    "tar": TAR,
    "booster": Booster,
    "repnoise": RepNoise,
    "ctrap": CTRAP,
}
DEFENSES: Family[Objective] = Family("rupert.defenses", _OWN, Objective, spoken_for=SPOKEN_FOR)

__all__ = ["CTRAP", "DEFENSES", "SDD", "SEAM", "TAR", "Booster", "RandomMapping", "RepNoise", "TVaccine", "Vaccine"]
