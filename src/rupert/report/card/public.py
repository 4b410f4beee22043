"""What of records may be published: folders of somebody's machine are named by their last part alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rupert.report.exports.text import visible

LOCAL = ("/", "~", "./", "../", "\\")  # what the name of a place on somebody's machine begins with


def public(value: Any) -> Any:
    """The value in JSON's types, with names of places shortened; what has no look of its own is written by number."""
    if isinstance(value, str):
        return visible(value.replace("\\", "/").rstrip("/").rpartition("/")[2] if value.startswith(LOCAL) else value)
    if isinstance(value, Mapping):
        return {str(public(str(name))): public(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return value


def public_command(command: str) -> str:
    """A command whose words are so."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation mark that somebody left open
        words = command.split()
    return shlex.join(str(public(word)) for word in words)
