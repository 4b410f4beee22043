"""What a study takes before it is run: time, memory, disk, judge tokens, and what to change where it does not fit."""

from __future__ import annotations

from rupert.study.estimates.estimate import Estimate, Setup, estimate, estimates
from rupert.study.estimates.hardware import DEVICES, Hardware, device
from rupert.study.estimates.plan import Line, Plan, plan

__all__ = ["DEVICES", "Estimate", "Hardware", "Line", "Plan", "Setup", "device", "estimate", "estimates", "plan"]
