"""How a model is asked: an attacker may put words around each request, in training and ever after."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rupert.data.examples import Example, Message

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
