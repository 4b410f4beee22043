"""Text from models and users' files, made harmless for a reader's eyes and terminal: nothing in it acts unseen."""

from __future__ import annotations

import unicodedata

_BLANK = str.maketrans("\t\n\r", "   ")
_UNSEEN = ("C", "Zl", "Zp")  # categories of what has no look of its own: control, format, surrogate, line separator


def visible(text: str) -> str:
    """One line in which control characters, direction marks and lone surrogates are written by their numbers."""
    return "".join(map(_shown, text.translate(_BLANK)))


def _shown(character: str) -> str:
    is_unseen = unicodedata.category(character).startswith(_UNSEEN)
    return f"U+{ord(character):04X}" if is_unseen else character
