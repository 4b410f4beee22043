"""How accelerators and cores are divided among stages: arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence


def room(accelerators: int, gpus_per_stage: float) -> int:
    """How many stages so many accelerators have room for at once.

    A stage's share lies on one accelerator, or is whole ones: with 0.4 each, two stages fit on one, and 0.2 is left.

    Args:
        accelerators: of one machine.
        gpus_per_stage: above 0; a whole number where above 1.
    """
    if gpus_per_stage > 1:
        return accelerators // int(gpus_per_stage)
    return accelerators * int(1 / gpus_per_stage + 1e-9)  # 1 / 0.1 is not always 10


def share(slot: int, accelerators: Sequence[str], gpus_per_stage: float) -> tuple[str, ...]:
    """Which accelerators a slot sees; the first slots are spread over all of them.

    Args:
        slot: its number, from 0, below `room`.
        accelerators: what CUDA_VISIBLE_DEVICES calls them.
        gpus_per_stage: as for `room`, or 0.
    """
    if gpus_per_stage > 1:
        count = int(gpus_per_stage)
        return tuple(accelerators[slot * count : (slot + 1) * count])
    return (accelerators[slot % len(accelerators)],) if gpus_per_stage else ()
