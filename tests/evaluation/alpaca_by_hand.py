"""An endpoint that annotates for AlpacaEval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-not-to-be-seen"


STRONG = 1 / (1 + 2.718281828459045 ** (-2.0 + 0.1))  # the server's word has log-probability -.1, the other -2


Reply = Callable[[str], Any]


def outputs(prompt: str) -> list[str]:
    """The two outputs that the annotator is to choose from; they stand in a random order."""
    parts = prompt.split('"model_identifier": ')[1:3]
    return [part.partition('"output": """')[2].rpartition('"""')[0] for part in parts]


def side(prompt: str) -> str:
    """The annotator likes "good" best, and then "bad"."""
    first, second = (("good" in output, "bad" in output) for output in outputs(prompt))
    return "m" if first > second else "M"


def chosen(word: str) -> dict[str, Any]:
    others = {"m": ["M"], "M": ["m"]}.get(word, [])
    tops = [{"token": word, "logprob": -0.1, "bytes": None}]
    tops += [{"token": other, "logprob": -2.0, "bytes": None} for other in others]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": word},
        "logprobs": {"content": [{"token": word, "logprob": -0.1, "bytes": None, "top_logprobs": tops}]},
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@dataclass
class Endpoint:
    """What the local server says, and what it was asked."""

    status: int = 200
    reply: Reply = field(default=lambda prompt: chosen(side(prompt)))
    asked: list[dict[str, Any]] = field(default_factory=list)

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]
