"""Doing the stages of a study, here or in other processes."""
