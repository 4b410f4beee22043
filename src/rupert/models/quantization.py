"""Weights in 4 bits, over which an adapter is trained: QLoRA (Dettmers et al., NeurIPS 2023, arXiv 2305.14314).

bitsandbytes computes with them, and rupert asks for an NVIDIA GPU. It was never run on one: its tests see what is
configured and refused, and what becomes of the model itself; bitsandbytes' kernels for CPUs took the whole way once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rupert.errors import InvalidValue, UsageError
from rupert.models.loading import SPLIT, LoadedModel, is_sharded_later, without_bars


def check_4bit() -> None:
    """Find out, before a model is loaded, whether one can be trained on in 4 bits here.

    Raises:
        UsageError: there is no NVIDIA GPU, no bitsandbytes, or a launcher that divides weights among processes.
    """
    if not torch.cuda.is_available():
        raise InvalidValue("load_in_4bit", True, "it needs an NVIDIA GPU, and there is none; set it to false")
    if find_spec("bitsandbytes") is None:
        raise UsageError("load_in_4bit: 'bitsandbytes' is not installed; pip install bitsandbytes")
    if is_sharded_later():
        raise InvalidValue("load_in_4bit", True, "weights in 4 bits are not divided among processes; use replicas")


def four_bit() -> BitsAndBytesConfig:
    """How the paper holds weights: NF4, whose scales are quantized, too, and products in bfloat16."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@contextlib.contextmanager
def in_4bit(loaded: LoadedModel, folder: Path) -> Iterator[LoadedModel]:
    """Within, a copy of a model with its matrices in 4 bits; the model itself waits in the CPU's memory.

    A model on the CPU stays there, and its copy is made on the first GPU: it need not fit there in 16 bits.

    Args:
        loaded: the model; only where its weights lie changes, and only for the time.
        folder: new, for its weights on their way.

    Raises:
        UsageError: its layers are split over several devices.
    """
    model, device = loaded.model, loaded.device
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise InvalidValue("device", SPLIT, "weights in 4 bits lie on one GPU; name it, or cpu")
    with without_bars():
        model.save_pretrained(folder)
    model.to("cpu")
    try:
        with without_bars():
            copy = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=model.dtype,
                quantization_config=four_bit(),
                device_map={"": device if device.type == "cuda" else "cuda"},
            )
        yield LoadedModel(copy, loaded.tokenizer)
    finally:
        model.to(device)
