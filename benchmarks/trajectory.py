"""What it costs to measure a model on its way through an attack: the same attack alone, and with looks at the model.

    OMP_NUM_THREADS=1 python benchmarks/trajectory.py

The attack is the demo's, on Potionworld: 60 steps of 16 rows. It has five points of 64 requests and 64 questions each:
four looks on the way, and the end, which is measured of every attack and counts apart. Attacks alone and attacks with
looks take turns, and the medians count; both have to give the same weights. With one thread the processor's time is the
wall time of a machine that does nothing else.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from outcome import Figure, begin, options

from rupert.attacks import FineTune
from rupert.evaluation import trajectory
from rupert.evaluation.suite import Evaluation
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.models.threads import fitting_threads
from rupert.training.fine_tuning import Following

TARGET = 0.20  # of the attack's time
POTIONWORLD = ModelSettings(model="potionworld")
ATTACK = FineTune(
    data="potionworld:attacker",
    num_examples=320,
    num_train_epochs=3,
    per_device_train_batch_size=16,
    learning_rate=1e-4,
    lr_scheduler_type="constant",
    warmup_steps=0,
    max_length=64,
)


class Clock:
    """Reads wall time and the processor's; other work on the machine is in the first alone."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def __sub__(self, earlier: Clock) -> Seconds:
        return Seconds(self.wall - earlier.wall, self.processor - earlier.processor)


@dataclass(frozen=True)
class Seconds:
    """What something took."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Run:
    """One attack: what it took, what a look at its end took, how often it was looked at before, and what came out."""

    attack: Seconds
    end: Seconds
    looks: int
    loaded: LoadedModel


def run(evaluation: Evaluation, eval_steps: float) -> Run:
    """Attack Potionworld's model, with looks at it on the way; 0: none."""
    loaded, rows = loading.load(POTIONWORLD), ATTACK.gather()
    prepared, data = evaluation.prepare(), evaluation.gather()
    with tempfile.TemporaryDirectory() as folder, fitting_threads(loaded.model):
        way = trajectory.follow(prepared, loaded, data, Path(folder), eval_steps)
        started = Clock()
        with way.attacking():
            attacked = ATTACK.run(loaded, rows, Following(callbacks=(way,) if eval_steps else ()))
        ended = Clock()
        prepared.glance(attacked.loaded, data, Path(folder) / "end")
        last = Clock()
        return Run(ended - started, last - ended, len(way.points), attacked.loaded)


def main() -> int:
    """Print the table, and exit with 1 where the target is missed."""
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="attacks of each kind")
    parser.add_argument("--rows", type=int, default=64, help="requests, and as many questions")
    parser.add_argument("--batch-size", type=int, default=128, help="answers at once")
    parser.add_argument("--eval-steps", type=float, default=0.2, help="see `rupert attack --eval-steps`")
    begun = begin("trajectory", parser)
    arguments = begun.arguments
    settings = Evaluation(limit=arguments.rows, batch_size=arguments.batch_size)
    evaluation = settings.for_model(is_potionworld=True)
    run(evaluation, arguments.eval_steps)  # imports, and what is made once in a process
    pairs = [(run(evaluation, 0), run(evaluation, arguments.eval_steps)) for _ in range(arguments.repeats)]
    for alone, followed in pairs:
        for mine, other in zip(alone.loaded.model.parameters(), followed.loaded.model.parameters(), strict=True):
            assert torch.equal(mine, other)
    print("seconds      attack alone   with looks      more   with the end counted too")
    rows = {}
    for clock in ("wall", "processor"):
        alone, followed = (median(getattr(pair[way].attack, clock) for pair in pairs) for way in (0, 1))
        end = median(getattr(pair[1].end, clock) for pair in pairs)
        share, counted = followed / alone - 1, (followed + end) / alone - 1
        rows[clock] = {"alone": alone, "followed": followed, "end": end, "share": share, "counted": counted}
        print(f"{clock:<10} {alone:14.2f} {followed:12.2f} {share:9.1%} {counted:26.1%}")
    what = f"{pairs[0][1].looks} looks at a model under attack: more of the processor's time"
    figure = Figure(what=what, value=100 * rows["processor"]["share"], unit="%", at_most=100 * TARGET)
    return begun.end([{"clock": clock, **row} for clock, row in rows.items()], [figure])


if __name__ == "__main__":
    raise SystemExit(main())
