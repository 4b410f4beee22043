"""Inputs that nobody would think of: each is read, or refused by a `RupertError` that a person can read.

Cases are made by hypothesis, the same ones in each run (`derandomize`, no database). `inputs.py` has what files are
changed into, and the rule that messages are held against.
"""
