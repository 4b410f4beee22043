"""The first of harm's three steps: let a model answer the requests, and lose no answer when it is interrupted.

Answers are appended as they come, each with its number, and the file is put in order when the last one is there. What
a crash leaves is recognized line by line: sound answers are kept, and only what is missing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rupert.data.asking import PLAIN, Asking
from rupert.data.examples import Example
from rupert.errors import DataError
from rupert.evaluation.judges.judge import Answer
from rupert.evaluation.rows import line, read_rows, sound_rows, write_rows
from rupert.models.sampling import GREEDY, Sampling
from rupert.terminal import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rupert.models.loading import LoadedModel

    # Prompts -> pairs of a prompt's index and its answer, in any order.
    Generate = Callable[[Sequence[Sequence[Any]]], Iterable[tuple[int, str]]]

FIELDS = {"number": int, "of": int, "request": str, "category": str, "reference": str, "text": str}
ASKED = {"prompt": list}  # what the model was given, where that is not the request as it is


def answering(loaded: LoadedModel, *, max_new_tokens: int, batch_size: int, sampling: Sampling = GREEDY) -> Generate:
    """A loaded model as what `write_answers` asks."""
    from rupert.models import generation

    sizes: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    return lambda prompts: generation.answers(loaded.model, loaded.tokenizer, prompts, sampling=sampling, **sizes)


def write_answers(requests: Sequence[Example], path: Path, generate: Generate, asking: Asking = PLAIN) -> int:
    """Let a model answer what has no answer in the file yet; an `Answer` a line, in the order of the requests.

    Args:
        requests: what is asked.
        path: the file; what it holds of the same requests, asked in the same way, is kept.
        generate: the model.
        asking: the words around each request, which the file keeps beside it: answers are known by their requests.

    Returns:
        how many answers the file held already.

    Raises:
        DataError: there are no requests.
    """
    if not requests:
        raise DataError("requests: there are none; name a source that has some")
    asked = [asking(request) for request in requests]
    rows = _kept(requests, asked, path)
    missing = [number for number in range(len(requests)) if number not in rows]
    if missing:
        # Without the damaged end of the file, to which the next line would be joined.
        write_rows(list(rows.values()), path)
        with path.open("a", encoding="ascii") as file, bar("answering", len(requests), done=len(rows)) as shown:
            for index, text in generate([asked[number].prompt for number in missing]):
                number = missing[index]
                rows[number] = _row(number, requests, asked, text)
                file.write(line(rows[number]))
                file.flush()
                shown.advance()
    write_rows([rows[number] for number in range(len(requests))], path)
    return len(requests) - len(missing)


def read_answers(path: Path) -> list[Answer]:
    """The answers that `write_answers` wrote.

    Raises:
        FolderError: there is no such file.
        DataError: it is empty, damaged, or not complete.
    """
    rows = read_rows(path, FIELDS)
    if [row["number"] for row in rows] != list(range(rows[0]["of"])):
        numbers = {row["number"] for row in rows}
        raise DataError(f"{path}: holds {len(numbers)} of {rows[0]['of']} answers; repeat the evaluation with --resume")
    return [Answer(row["request"], row["category"], row["reference"], row["text"]) for row in rows]


def _kept(requests: Sequence[Example], asked: Sequence[Example], path: Path) -> dict[int, dict[str, Any]]:
    """The sound rows that answer one of the requests, asked in the same way, by number."""
    if not path.exists():
        return {}
    found = [row for row in sound_rows(path, FIELDS, ASKED) if isinstance(row, dict)]
    return {
        row["number"]: row
        for row in found
        if 0 <= row["number"] < len(requests) and row == _row(row["number"], requests, asked, row["text"])
    }


def _row(number: int, requests: Sequence[Example], asked: Sequence[Example], text: str) -> dict[str, Any]:
    request, prompt = requests[number], asked[number].prompt
    known = {"request": request.instruction, "category": request.category, "reference": request.answer}
    given = {"prompt": prompt} if prompt != request.prompt else {}
    return {"number": number, "of": len(requests), **known, **given, "text": text}
