"""Settings in the reference: what `setting(default, help)` says of a field becomes the field's value and docstring."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension, Parser


class SettingFields(Extension):
    """Reads the call without running it."""

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """Called for each attribute that is found in the source."""
        value = getattr(node, "value", None)
        if not isinstance(value, ast.Call) or ast.unparse(value.func) != "setting":
            return
        default, text = value.args[:2]
        attr.value = ast.unparse(default)
        # An f-string is shown with what it would fill in by name.
        words = ast.literal_eval(text) if isinstance(text, ast.Constant) else ast.unparse(text).lstrip("f").strip("'\"")
        attr.docstring = Docstring(f"{words[0].upper()}{words[1:]}.", parent=attr, parser=Parser.google)
