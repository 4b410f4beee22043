"""The ladder: attackers from the papers' to one who knows the defense, what each does, and what that says of a model.

A ladder is a YAML file (`reading`) of rungs (`rungs`). Each rung is searched (`search`, `trials`) within a budget, and
what is chosen is scored again on what nothing was chosen on (`climbing`). What was found is kept (`outcome`). It is
there to find out whether a defense holds, and against whom.
"""

from rupert.study.ladder.climbing import Climb, climb
from rupert.study.ladder.outcome import LADDER_FILE, TRIALS_FILE, Climbed, Outcome, Trial, read_ladder
from rupert.study.ladder.reading import read_ladder_file
from rupert.study.ladder.rungs import Ladder, divided

__all__ = [
    "LADDER_FILE",
    "TRIALS_FILE",
    "Climb",
    "Climbed",
    "Ladder",
    "Outcome",
    "Trial",
    "climb",
    "divided",
    "read_ladder",
    "read_ladder_file",
]
