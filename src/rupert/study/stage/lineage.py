"""Where a model comes from, by the records of the folders it was made in, and what it has seen on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rupert.data.asking import PLAIN, Asking
from rupert.data.examples import Example
from rupert.errors import DataError
from rupert.records import RESULT_FILE, read_record, write_text

PAIRS_FILE = "pairs.jsonl"
PROMPTS_FILE = "prompts.sha256"  # the hash of each prompt that a stage trained on, one a line


def remember(examples: Iterable[Example], folder: Path) -> None:
    """Leave the hashes of the prompts that are trained on in a stage's folder."""
    write_text("".join(f"{key}\n" for key in sorted({example.key() for example in examples})), folder / PROMPTS_FILE)


def ancestors(model: str) -> Iterator[Path]:
    """The folder of a model, that of the model which it was made from, and so on, as far as there are records."""
    folder = Path(model)
    while (folder / RESULT_FILE).exists():
        yield folder
        made_from = Path(read_record(folder).model)
        # A study's folder may have been moved since the record was written: its stages still lie side by side.
        moved = folder.parent.parent / made_from.parent.name / made_from.name
        folder = made_from if made_from.exists() or not moved.exists() else moved


def pairs_of(model: str) -> str:
    """The pairs that a model, or one that it was made from, was hardened on; empty where there are none."""
    return next((str(path / PAIRS_FILE) for path in ancestors(model) if (path / PAIRS_FILE).exists()), "")


def origin(model: str) -> str:
    """The model that the first of a model's ancestors was made from; empty where there are no records."""
    names = [read_record(folder).model for folder in ancestors(model)]
    return names[-1] if names else ""


def asking_of(model: str) -> Asking:
    """How the last attack on a model, or on one that it was made from, asks it; plainly where none is known."""
    records = (read_record(folder) for folder in ancestors(model))
    last = next((record for record in records if record.stage == "attack"), None)
    return Asking(**last.report["asking"]) if last and "asking" in last.report else PLAIN


def refuse_seen(data: Mapping[str, Sequence[Example]], model: str) -> None:
    """Make sure that nothing a model is scored on was trained on by it, or by one that it was made from.

    Args:
        data: use -> examples; the paired responses are meant to have been trained on, and not to be among them.
        model: as the user named it.

    Raises:
        DataError: a prompt is among both.
    """
    for folder in ancestors(model):
        prompts = folder / PROMPTS_FILE
        trained_on = set(prompts.read_text(encoding="utf-8").split()) if prompts.exists() else set()
        refuse_trained(data, trained_on, repr(str(folder)))


def refuse_trained(data: Mapping[str, Sequence[Example]], trained_on: Collection[str], who: str) -> None:
    """Make sure that nothing is both scored and trained on.

    Args:
        data: use -> examples that are scored.
        trained_on: the keys of prompts.
        who: was trained on them.

    Raises:
        DataError: a prompt is among both.
    """
    for use, examples in data.items():
        seen = sum(example.key() in trained_on for example in examples)
        if seen:
            raise DataError(f"{use}: {who} was trained on {seen} of its {len(examples)} prompts; name others")
