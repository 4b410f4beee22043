"""Stages that belong to no grid: each has a command of its own, and a folder for what it found."""
