"""vLLM: when it is chosen, what it is asked, and that its answers have the same form; with a stand-in for vLLM.

The stand-in takes arguments that vLLM documents, and no others, and answers with Transformers; vLLM needs a GPU.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rupert.data import potionworld
from rupert.errors import DataError, UsageError
from rupert.models import vllm
from rupert.models.generation import generate
from rupert.models.loading import POTIONWORLD_FOLDER, ModelSettings, load
from rupert.models.sampling import Sampling

PROMPTS = [example.prompt for example in potionworld.examples("benign-test")[::40]]


@dataclass(kw_only=True)
class SamplingParams:
    """Arguments of vllm.SamplingParams, with its defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    skip_special_tokens: bool = True


@dataclass
class Output:
    """What of vllm's RequestOutput and CompletionOutput counts here; no text where nothing was detokenized."""

    outputs: list[Output] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""


@dataclass
class Seen:
    """What the engines were made with and asked for, and how many there are now."""

    made: list[dict[str, Any]] = field(default_factory=list)
    asked: list[list[SamplingParams]] = field(default_factory=list)
    alive: int = 0
    failure: Exception | None = None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A vLLM that can be imported, and a GPU."""
    seen = Seen()

    class LLM:
        def __init__(
            self,
            model: str,
            *,
            tokenizer: str | None = None,
            skip_tokenizer_init: bool = False,
            trust_remote_code: bool = False,
            tensor_parallel_size: int = 1,
            dtype: str = "auto",
            revision: str | None = None,
            seed: int = 0,
            gpu_memory_utilization: float = 0.9,
            max_model_len: int | None = None,
        ) -> None:
            if seen.failure:
                raise seen.failure
            assert skip_tokenizer_init
            seen.made.append(
                {"model": model, "dtype": dtype, "revision": revision, "seed": seed, "max_model_len": max_model_len}
            )
            seen.alive += 1
            self.model = AutoModelForCausalLM.from_pretrained(model)

        def generate(
            self,
            prompts: Sequence[dict[str, list[int]]],
            sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
            *,
            use_tqdm: bool = True,
        ) -> list[Output]:
            assert isinstance(sampling_params, list)
            seen.asked.append(sampling_params)
            pairs = zip(prompts, sampling_params, strict=True)
            return [Output([Output(token_ids=self.answer(row["prompt_token_ids"], asked))]) for row, asked in pairs]

        def answer(self, ids: list[int], asked: SamplingParams) -> list[int]:
            output = self.model.generate(
                torch.tensor([ids]),
                max_new_tokens=asked.max_tokens,
                eos_token_id=asked.stop_token_ids or None,
                repetition_penalty=asked.repetition_penalty,
            )
            return output[0, len(ids) :].tolist()  # type: ignore[no-any-return]

        def __del__(self) -> None:
            seen.alive -= 1

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", loader=None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")  # which is given back
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that anybody may have saved."""
    return Path(shutil.copytree(POTIONWORLD_FOLDER, tmp_path / "model"))


@pytest.fixture
def settings(folder: Path) -> ModelSettings:
    return ModelSettings(model=str(folder), device="cpu")


def edit(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | fields), encoding="utf-8")


def on(device: str, model: str) -> ModelSettings:
    """Settings for a device that is not here."""
    settings = ModelSettings(model=model)
    object.__setattr__(settings, "device", device)
    return settings


def by_transformers(settings: ModelSettings, max_new_tokens: int = 12) -> list[str]:
    loaded = load(settings)
    return generate(loaded.model, loaded.tokenizer, PROMPTS, max_new_tokens=max_new_tokens)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("", "vllm"),
        ("cuda", "vllm"),
        ("cuda:0", "vllm"),
        ("cuda:1", "transformers"),  # vLLM takes the first
        ("auto", "transformers"),
        ("cpu", "transformers"),
    ],
)
def test_vllm_is_chosen_for_the_first_gpu(device: str, expected: str, folder: Path, seen: Seen) -> None:
    assert vllm.backend(on(device, str(folder))) == expected


@pytest.mark.parametrize("name", ["potionworld", "smollm2"])
def test_embedded_models_stay_with_transformers(name: str, seen: Seen) -> None:
    assert vllm.backend(ModelSettings(model=name)) == "transformers"


def test_without_a_gpu_there_is_no_vllm(folder: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert vllm.backend(on("", str(folder))) == "transformers"


def test_without_vllm_there_is_no_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(vllm, "find_spec", lambda _name: None)
    assert vllm.backend(on("", str(folder))) == "transformers"
    with pytest.raises(UsageError, match="vllm is not installed; pip install vllm"):
        vllm.answers(on("", str(folder)), PROMPTS, max_new_tokens=12)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "vllm"),  # of no effect on greedy answers
        ({"repetition_penalty": 1.1}, "vllm"),
        ({"no_repeat_ngram_size": 3}, "transformers"),
        ({"suppress_tokens": [5]}, "transformers"),
    ],
)
def test_generation_settings_that_vllm_does_not_know_stay_with_transformers(
    fields: dict[str, object], expected: str, folder: Path, seen: Seen
) -> None:
    edit(folder / "generation_config.json", **fields)
    assert vllm.backend(on("", str(folder))) == expected


@pytest.mark.parametrize("at_once", [2, 512])
def test_its_answers_have_the_form_of_the_others(
    at_once: int, settings: ModelSettings, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "AT_ONCE", at_once)
    found = list(vllm.answers(settings, PROMPTS, max_new_tokens=12))
    assert found == list(enumerate(by_transformers(settings)))
    assert [len(call) for call in seen.asked] == [
        min(at_once, len(PROMPTS) - start) for start in range(0, len(PROMPTS), at_once)
    ]


def test_what_it_is_asked(folder: Path, settings: ModelSettings, seen: Seen) -> None:
    edit(folder / "generation_config.json", eos_token_id=[7, 2], repetition_penalty=1.1)
    texts = [text for _, text in vllm.answers(settings, PROMPTS, max_new_tokens=12)]
    assert texts == by_transformers(settings)
    (call,) = seen.asked
    assert call == [
        SamplingParams(temperature=0, max_tokens=12, stop_token_ids=[2, 7], repetition_penalty=1.1, detokenize=False)
    ] * len(PROMPTS)
    tokenizer = load(settings).tokenizer
    lengths = [
        len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)) for prompt in PROMPTS
    ]
    assert seen.made == [
        {"model": str(folder), "dtype": "float32", "revision": None, "seed": 0, "max_model_len": max(lengths) + 12}
    ]


def test_sampled_answers_are_asked_for_with_a_seed_for_each_prompt(settings: ModelSettings, seen: Seen) -> None:
    for sampling in (Sampling(0.7, seed=3), Sampling(0.7, seed=3), Sampling(0.7, seed=4)):
        list(vllm.answers(settings, PROMPTS, max_new_tokens=2, sampling=sampling))
    seeds = [[asked.seed for asked in call] for call in seen.asked]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 2 * len(PROMPTS)
    assert {(asked.temperature, asked.top_p, asked.top_k) for call in seen.asked for asked in call} == {(0.7, 1.0, 0)}


def test_the_chat_template_that_is_asked_for_makes_the_prompts(settings: ModelSettings, seen: Seen) -> None:
    list(vllm.answers(replace(settings, chat_template="bare"), PROMPTS, max_new_tokens=12))
    tokenizer = load(settings).tokenizer
    longest = max(len(tokenizer(prompt[-1]["content"]).input_ids) for prompt in PROMPTS)
    assert seen.made[0]["max_model_len"] == longest + 12


def test_an_answer_ends_where_the_models_positions_do(settings: ModelSettings, seen: Seen) -> None:
    list(vllm.answers(settings, PROMPTS, max_new_tokens=1000))
    assert seen.made[0]["max_model_len"] == 64
    assert all(asked.max_tokens is not None and 40 < asked.max_tokens < 64 for asked in seen.asked[0])


def test_without_generation_settings_the_configuration_names_the_end_token(
    folder: Path, settings: ModelSettings, seen: Seen
) -> None:
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=7)
    assert vllm.backend(on("", str(folder))) == "vllm"
    list(vllm.answers(settings, PROMPTS, max_new_tokens=2))
    assert seen.asked[0][0].stop_token_ids == [7]


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [("bfloat16", "float32", "bfloat16"), ("auto", "float32", "float32"), ("auto", "bfloat16", "bfloat16")],
)
def test_auto_is_the_type_of_the_checkpoint(dtype: Any, stored: str, expected: str, folder: Path, seen: Seen) -> None:
    edit(folder / "config.json", dtype=stored)
    list(vllm.answers(ModelSettings(model=str(folder), dtype=dtype), PROMPTS[:1], max_new_tokens=1))
    assert seen.made[0]["dtype"] == expected


def test_a_prompt_without_room_for_an_answer_is_named_before_the_model_is_loaded(
    settings: ModelSettings, seen: Seen
) -> None:
    prompts = [*PROMPTS[:2], [{"role": "user", "content": " ".join(["bell"] * 70)}]]
    with pytest.raises(DataError, match="requests: number 3 has "):
        vllm.answers(settings, prompts, max_new_tokens=12)
    assert not seen.made


def test_no_prompts_need_no_model(settings: ModelSettings, seen: Seen) -> None:
    assert list(vllm.answers(settings, [], max_new_tokens=12)) == []
    assert not seen.made


@pytest.mark.parametrize("stop", [list, lambda answers: answers.close()])
def test_the_gpu_is_free_again_afterwards(stop: Callable[[Any], object], settings: ModelSettings, seen: Seen) -> None:
    answers = vllm.answers(settings, PROMPTS, max_new_tokens=2)
    next(answers)
    assert seen.alive == 1
    stop(answers)
    assert seen.alive == 0


@pytest.mark.parametrize("failure", [ValueError("no such architecture\nmore"), RuntimeError("no such architecture")])
def test_a_model_that_vllm_cannot_load_is_said_in_one_line(
    failure: Exception, settings: ModelSettings, seen: Seen
) -> None:
    seen.failure = failure
    with pytest.raises(UsageError, match=r"could not be loaded for vLLM; no such architecture$"):
        next(vllm.answers(settings, PROMPTS, max_new_tokens=2))


def test_a_damaged_model_is_said_in_one_line(folder: Path, settings: ModelSettings, seen: Seen) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--model: .* could not be loaded for vLLM; ") as caught:
        vllm.backend(on("", str(folder)))
    assert "\n" not in str(caught.value)
