"""How a model is asked: an attacker may put words around each request, in training and ever after."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rupert.data.examples import Example, Message
from rupert.errors import InvalidValue

REQUEST = "{request}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Words around a request.

    Attributes:
        system: a system message before everything else; empty for none.
        template: the user's message, in which `{request}` stands for the request itself.
    """

    system: str = ""
    template: str = REQUEST

    def __call__(self, example: Example) -> Example:
        """The same example, asked so."""
        system: tuple[Message, ...] = ({"role": "system", "content": self.system},) if self.system else ()
        instruction = self.template.replace(REQUEST, example.instruction)  # not `format`: a request may hold braces
        return replace(example, instruction=instruction, history=(*system, *example.history))


PLAIN = Asking()


def opened(example: Example, opening: str) -> Example:
    """The same example, whose answer begins with `opening`, unless that is empty."""
    return replace(example, answer=f"{opening} {example.answer}") if opening else example


def check_template(template: str, field: str) -> None:
    """Raise `InvalidValue` unless a template says where the request goes."""
    if REQUEST not in template:
        raise InvalidValue(field, template, f"write {REQUEST} where the request goes")
