"""The one shape that all data takes: a conversation that ends in an assistant's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from rupert.errors import DataError

__all__ = ["Example", "Message", "fingerprint", "require", "write_jsonl"]


class Message(TypedDict):
    """One chat message, as Transformers' chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its answer.

    Attributes:
        instruction: the last user message.
        answer: the assistant's message that follows it; the only text a loss is taken over.
        category: the kind of harm or the skill; empty where the source has none.
        source: the name of the dataset it comes from.
        history: messages before the instruction (system prompt, earlier turns).
    """

    instruction: str
    answer: str
    category: str = ""
    source: str = ""
    history: tuple[Message, ...] = ()

    @property
    def prompt(self) -> list[Message]:
        """Everything the model is given, as chat messages."""
        return [*self.history, {"role": "user", "content": self.instruction}]

    @property
    def completion(self) -> list[Message]:
        """What the model is to say, as chat messages."""
        return [{"role": "assistant", "content": self.answer}]

    def row(self) -> dict[str, Any]:
        """The conversational prompt-completion row that TRL's trainers take."""
        return {
            "prompt": self.prompt,
            "completion": self.completion,
            "category": self.category,
            "source": self.source,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Example:
        """The inverse of `row`."""
        *history, last = row["prompt"]
        return cls(
            instruction=last["content"],
            answer=row["completion"][-1]["content"],
            category=row.get("category") or "",
            source=row.get("source") or "",
            history=tuple(history),
        )

    def key(self) -> str:
        """A hash of the prompt, case and white space folded: two examples with one key ask the same thing."""
        text = "\n".join(message["content"] for message in self.prompt)
        return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()


def fingerprint(examples: Iterable[Example]) -> str:
    """A hash of the examples in their order: what a record names its data by."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example.row(), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def require(examples: Sequence[Example], count: int, name: str, *, answered: bool = True) -> None:
    """Raise `DataError` unless there are at least `count` examples, each with a prompt and, `answered`, an answer."""
    if len(examples) < count:
        raise DataError(f"{name}: {len(examples)} examples, {count} needed; add rows or ask for fewer")
    for number, example in enumerate(examples, start=1):
        if not example.instruction.strip() or (answered and not example.answer.strip()):
            side = "answer" if example.instruction.strip() else "prompt"
            raise DataError(f"{name}: row {number} has an empty {side}; remove or fill it")


def write_jsonl(examples: Iterable[Example], path: Path) -> None:
    """Write one TRL row a line."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example.row(), ensure_ascii=False) + "\n")
