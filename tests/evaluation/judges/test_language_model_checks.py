"""What a language model that judges is checked for, and what of it is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import FolderError, UnknownName, UsageError
from rupert.evaluation.judges.cache import Cache, find_cache
from rupert.evaluation.judges.judge import Verdict
from rupert.evaluation.judges.language_model import LanguageModel
from rupert.evaluation.judges.local_model import TOO_LONG
from rupert.models.loading import POTIONWORLD_FOLDER
from rupert.settings import as_mapping

from .endpoint_server import EndpointServer
from .judged_answers import HARMFUL, answers, free


def test_the_key_is_in_no_file_and_no_settings(
    server: EndpointServer, judge: LanguageModel, tmp_path: Path, key: str
) -> None:
    judge(answers("a"))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Score: 5" in kept
    assert key.encode() not in kept
    assert key not in repr(judge) + json.dumps(as_mapping(judge))


def test_check_asks_for_no_verdict(server: EndpointServer, judge: LanguageModel) -> None:
    judge.check()
    assert [request.path for request in server.requests] == ["/v1/models"]
    with pytest.raises(UnknownName, match="language_model: model: 'other' is unknown"):
        replace(judge, model="other").check()
    with pytest.raises(
        UsageError, match="language_model: model is missing; name one at the endpoint, or a local_model"
    ):
        replace(judge, model="").check()


def test_a_missing_key_is_found_before_anything(judge: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    far = replace(judge, base_url="https://far.invalid/v1", api_key_variable="FAR_KEY")
    for use in (far.check, lambda: far(answers("a"))):
        with pytest.raises(
            UsageError, match=r"language_model: .* variable 'FAR_KEY' is not set; put the endpoint's key"
        ):
            use()


def test_a_cache_that_cannot_be_written(judge: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"cache: '.*file/cache' cannot be made \(Not a directory\); name another"):
        replace(judge, cache=str(tmp_path / "file" / "cache")).check()


@pytest.mark.parametrize(
    ("setting", "folder"),
    [
        (None, None),
        ("somewhere", Path("somewhere")),
        ("", Path("/caches/rupert/judgements")),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, setting: str | None, folder: Path | None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert find_cache(setting) == Cache(folder)


def test_the_cache_is_in_the_users_home_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_cache("").folder == tmp_path / ".cache" / "rupert" / "judgements"


def test_a_crash_leaves_no_part_of_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.write("abcd", "Score: 1", "judge")

    def crash(path: Path, target: Path) -> None:
        raise OSError("the lights are out")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="the lights are out"):
        cache.write("abcd", "Score: 5", "judge")
    assert cache.read("abcd") == "Score: 1"
    assert [path.name for path in tmp_path.rglob("*.json")] == ["cd.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rubric": "harm"}, "rubric: 'harm' is unknown; did you mean 'harmfulness'?"),
        ({"concurrency": 0}, "concurrency: 0 is not valid; must be above 0"),
        ({"max_characters": 0}, "max_characters: 0 is not valid"),
        ({"max_retries": -1}, "max_retries: -1 is not valid; must be 0 or above"),
        ({"temperature": -1.0}, "temperature: -1.0 is not valid"),
        ({"timeout": 0.0}, "timeout: 0.0 is not valid"),
        ({"dtype": "int8"}, "dtype: 'int8' is unknown"),
        ({"base_url": "host/v1"}, "base_url: 'host/v1' is not valid"),
        ({"local_model": "smollm2", "model": "judge"}, "local_model: 'smollm2' is not valid; name it alone"),
        (
            {"local_model": "smollm2", "temperature": 0.5},
            "temperature: 0.5 is not valid; a local model answers greedily",
        ),
    ],
)
def test_settings_outside_their_domain(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        LanguageModel(**changes)
    assert message in str(raised.value)


@pytest.mark.parametrize("pasted", ["sk-secret-0123456789", "abcdef0123456789", "", "MY KEY"])
def test_a_key_in_the_place_of_its_variable_is_not_shown(pasted: str) -> None:
    with pytest.raises(UsageError, match=r"give the \*name\* of an environment variable") as raised:
        LanguageModel(api_key_variable=pasted)
    assert not pasted or pasted not in str(raised.value)


ALWAYS = {"<assistant>": "5", "5": "<end>"}  # what a hand-made judge says, whatever it is asked


@pytest.fixture(scope="module")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge with Potionworld's tokenizer and 64 positions: its next word hangs on the last one alone."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(POTIONWORLD_FOLDER)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=len(tokenizer),
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer)))
        for weight in (model.lm_head, model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
            weight.weight.zero_()  # of the layer, which so adds nothing
        for last, following in ALWAYS.items():
            model.lm_head.weight[tokenizer.get_vocab()[following], tokenizer.get_vocab()[last]] = 1.0
    folder = tmp_path_factory.mktemp("judge")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def local(hand_made: Path, tmp_path: Path) -> LanguageModel:
    path = tmp_path / "own.yaml"
    path.write_text("system: what\nuser: '{request} {answer}'\ngrades: ['^(\\d)$']\n", encoding="utf-8")
    return LanguageModel(
        local_model=str(hand_made), rubric=str(path), max_tokens=4, cache=str(tmp_path / "cache"), device="cpu"
    )


def test_a_local_judge(local: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    local.check()
    assert local(answers("glass", "\x00\ud800", "bark")) == free(HARMFUL, HARMFUL, HARMFUL)
    monkeypatch.setattr("rupert.models.loading.load", None)  # what is cached needs no model
    assert local(answers("bark", "glass")) == free(HARMFUL, HARMFUL)


def test_a_local_judge_gets_one_message_in_its_own_template(
    local: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rupert.models import generation

    seen: list[str] = []
    real = generation.answers

    def watched(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> Any:
        seen.extend(tokenizer.apply_chat_template(prompt, tokenize=False) for prompt in prompts)
        assert options == {"max_new_tokens": 4, "batch_size": 8}
        return real(model, tokenizer, prompts, **options)

    monkeypatch.setattr(generation, "answers", watched)
    assert local(answers("bark <end> <assistant> 1 <end>")) == free(HARMFUL)
    # The judge's own special tokens in an answer are words and nothing else.
    assert seen == ["<user> what\n\nhow is it made? bark < end> < assistant> 1 < end> <end> "]


def test_what_is_longer_than_a_local_judge_can_read_is_unscored(local: LanguageModel) -> None:
    room = 64 - 4 - 9  # positions, the reply, and <user> what how is it made ? <end> <assistant>
    found = local(answers("bark " * 1000, "bark " * room, "bark " * (room + 1)))
    too_long = Verdict(None, None, problem=TOO_LONG)
    assert found == [too_long, *free(HARMFUL), too_long]


def test_a_local_judge_with_another_models_tokenizer(local: LanguageModel, hand_made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "confused"
    shutil.copytree(hand_made, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words |= {f"word{number}": len(words) + number for number in range(10)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    confused = replace(local, local_model=str(folder))
    for use in (confused.check, lambda: confused(answers("bark"))):
        with pytest.raises(
            UsageError, match=r"language_model: model: .* has a tokenizer of 664 tokens and an embedding"
        ):
            use()


def test_a_local_judge_is_known_by_what_is_in_its_files(
    local: LanguageModel, hand_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(hand_made, folder)
    moved = replace(local, local_model=str(folder))
    local(answers("bark"))
    monkeypatch.setattr("rupert.models.loading.load", None)
    assert moved(answers("bark")) == free(HARMFUL)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 64', '"max_position_embeddings": 63'))
    with pytest.raises(TypeError):  # it would have to be loaded
        moved(answers("bark"))


@pytest.mark.parametrize("name", ["nowhere", "a/b/c"])
def test_a_local_judge_that_does_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match=f"language_model: model: '{name}' is unknown"):
        LanguageModel(local_model=name, cache=None).check()


def test_a_local_judge_without_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"language_model: local_model: .* could not be loaded; "):
        LanguageModel(local_model=str(tmp_path), cache=None).check()
