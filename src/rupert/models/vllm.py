"""Answers by vLLM, where that is installed and a CUDA GPU is there; the same results as `generation.answers`."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from rupert.errors import UsageError
from rupert.models.chat_templates import template_text
from rupert.models.generation import GREEDY_SETTINGS, Prompt, Request, decode, encode, end_tokens
from rupert.models.loading import EMBEDDED, ModelSettings, prepare_tokenizer
from rupert.models.sampling import GREEDY, Sampling

Backend = Literal["transformers", "vllm"]
AT_ONCE = 512  # prompts a call: enough to fill vLLM's own batches (256 rows), few enough to lose in a crash
HONOURED = GREEDY_SETTINGS | {"repetition_penalty"}  # which both count over prompt and answer


def backend(settings: ModelSettings) -> Backend:
    """Who generates a model's answers; vLLM only if it is installed, can, and has the first GPU to itself.

    The embedded models stay with Transformers: one is a GGUF file, and both are small. So do models split over several
    devices, and those whose generation settings vLLM would not honour.

    Raises:
        UsageError: the model's settings cannot be read.
    """
    if (
        find_spec("vllm") is None
        or not torch.cuda.is_available()
        or settings.model in EMBEDDED
        or settings.device not in ("", "cuda", "cuda:0")
    ):
        return "transformers"
    _, generation = _configurations(settings)
    return "vllm" if set(generation.to_diff_dict()) <= HONOURED else "transformers"


def answers(
    settings: ModelSettings, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
) -> Iterator[tuple[int, str]]:
    """Answer each prompt; yield a prompt's index and its answer, as `generation.answers` does.

    vLLM takes most of the GPU's memory until the iterator is exhausted or closed, so that the model should not be on
    the GPU as well. Its kernels round differently: greedy answers may differ from Transformers' where two tokens are
    about equally likely. Sampled ones are others: it draws in its own way, though by the same seed for each prompt.

    Args:
        settings: a model for which `backend` says "vllm".
        prompts: chat messages, each ending in the user's; the chat template is that of the model's tokenizer.
        max_new_tokens: of each answer.
        sampling: how the next token is chosen.

    Raises:
        UsageError: vLLM is not installed, or the model cannot be read.
        DataError: a prompt leaves no room for an answer within the model's positions; before the model is loaded.
    """
    if find_spec("vllm") is None:
        raise UsageError("vllm is not installed; pip install vllm")  # no extra: it chooses its own build of torch
    config, generation = _configurations(settings)
    with _one_line_errors(settings.model):
        tokenizer = AutoTokenizer.from_pretrained(settings.model, revision=settings.revision or None)
    prepare_tokenizer(tokenizer, settings.model, template_text(settings.chat_template))
    requests = encode(tokenizer, prompts, config, max_new_tokens)
    options = {
        "model": settings.model,
        "revision": settings.revision or None,
        "dtype": _dtype(settings, config),
    }
    return _complete(options, generation, sampling, tokenizer, requests)


def _complete(
    options: dict[str, Any],
    generation: GenerationConfig,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
) -> Iterator[tuple[int, str]]:
    if not requests:
        return
    # A fork would inherit what this process may have begun on the GPU, which CUDA does not allow.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    from vllm import LLM, SamplingParams

    with _one_line_errors(options["model"]):
        engine = LLM(
            **options,
            skip_tokenizer_init=True,  # it is given token ids, and returns them
            max_model_len=max(len(request.prompt) + request.limit for request in requests),
            seed=0,
        )
    try:
        for start in range(0, len(requests), AT_ONCE):
            batch = requests[start : start + AT_ONCE]
            outputs = engine.generate(
                [{"prompt_token_ids": request.prompt} for request in batch],
                [SamplingParams(**_asked(request, generation, sampling)) for request in batch],
                use_tqdm=False,
            )
            for request, output in zip(batch, outputs, strict=True):
                yield request.index, decode(tokenizer, output.outputs[0].token_ids)
    finally:
        del engine  # its process, which holds the GPU's memory, ends with the last reference to it
        gc.collect()


def _asked(request: Request, generation: GenerationConfig, sampling: Sampling) -> dict[str, Any]:
    drawn = {"seed": sampling.seed_of(request.prompt)} if sampling.temperature else {}
    return {
        "temperature": sampling.temperature,
        **drawn,
        "max_tokens": request.limit,
        "stop_token_ids": sorted(end_tokens(generation)),
        "repetition_penalty": generation.repetition_penalty or 1.0,
        "detokenize": False,
    }


def _configurations(settings: ModelSettings) -> tuple[PreTrainedConfig, GenerationConfig]:
    """A model's configuration, and the generation settings that `generate` would take from it."""
    revision = settings.revision or None
    with _one_line_errors(settings.model):
        config = AutoConfig.from_pretrained(settings.model, revision=revision)
        try:
            return config, GenerationConfig.from_pretrained(settings.model, revision=revision)
        except OSError:  # it has none
            return config, GenerationConfig.from_model_config(config)


def _dtype(settings: ModelSettings, config: PreTrainedConfig) -> str:
    """What vLLM is to hold the weights in; its own "auto" makes float16 of float32."""
    if settings.dtype != "auto" or config.dtype is None:
        return settings.dtype
    return str(config.dtype).removeprefix("torch.")


@contextlib.contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"--model: {name!r} could not be loaded for vLLM; {reason}") from error
