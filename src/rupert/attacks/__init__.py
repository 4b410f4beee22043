"""Attacks: one file a method, one line each in `ATTACKS`; other packages add theirs, see `rupert.plugins`."""

from __future__ import annotations

from typing import Any

from rupert.attacks.attack import Attacked, Attacker
from rupert.attacks.early_stopping import EarlyStopping
from rupert.attacks.fine_tune import FineTune
from rupert.attacks.identity_shift import IdentityShift
from rupert.attacks.interpolation import Interpolation
from rupert.attacks.jailbreak_tune import JailbreakTune
from rupert.attacks.projection import Projection
from rupert.attacks.prompt_tune import PromptTune
from rupert.attacks.recovery import Recovery
from rupert.attacks.refusal_ablation import RefusalAblation
from rupert.attacks.reinitialization import Reinitialization
from rupert.plugins import SPOKEN_FOR, Family

_OWN: dict[str, type[Any]] = {
    "fine_tune": FineTune,
    "early_stopping": EarlyStopping,
    "recovery": Recovery,
    "projection": Projection,
    "reinitialization": Reinitialization,
    "interpolation": Interpolation,
    "refusal_ablation": RefusalAblation,
    "identity_shift": IdentityShift,
    "jailbreak_tune": JailbreakTune,
    "prompt_tune": PromptTune,
}
ATTACKS: Family[Any] = Family("rupert.attacks", _OWN, Attacker, spoken_for=SPOKEN_FOR)

__all__ = [
    "ATTACKS",
    "Attacked",
    "Attacker",
    "EarlyStopping",
    "FineTune",
    "IdentityShift",
    "Interpolation",
    "JailbreakTune",
    "Projection",
    "PromptTune",
    "Recovery",
    "RefusalAblation",
    "Reinitialization",
]
