"""An endpoint on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rupert.evaluation.judges.endpoint import Endpoint
from rupert.evaluation.judges.language_model import LanguageModel

from .classifiers_by_hand import KINDS, WIDTH, Make, saved
from .endpoint_server import EndpointServer

KEY = "sk-secret-0123456789"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, in the variable that is looked at unless another is named."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, key: str) -> Iterator[EndpointServer]:
    """A server that is reached without a proxy, by a client whose retries do not wait."""
    from openai import _base_client

    for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
        monkeypatch.setattr(_base_client, name, 0.001)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = EndpointServer()
    yield server
    server.close()


@pytest.fixture
def endpoint(server: EndpointServer) -> Endpoint:
    return Endpoint(
        model="judge",
        base_url=server.url,
        api_key_variable="OPENAI_API_KEY",
        temperature=0.0,
        max_tokens=64,
        concurrency=1,
        max_retries=2,
        timeout=10.0,
    )


@pytest.fixture
def judge(server: EndpointServer, tmp_path: Path) -> LanguageModel:
    return LanguageModel(model="judge", base_url=server.url, max_retries=0, cache=str(tmp_path / "cache"))


@pytest.fixture
def last_word(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """Makes a classifier that looks at the last word alone: word -> the logits of the labels; other words get zeros.

    Without layers, a decoder's head reads the normed embedding of the last token. An embedding of one 1 and many 0 is
    normed to the square root of the width, by which the head's weights are divided here.
    """

    def make(logits: Mapping[str, Sequence[float]], labels: Sequence[str] = KINDS, **changes: object) -> Path:
        config = LlamaConfig(
            vocab_size=WIDTH,
            hidden_size=WIDTH,
            intermediate_size=8,
            num_hidden_layers=0,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            rms_norm_eps=1e-12,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            **{"problem_type": "multi_label_classification", **changes},
        )
        model = LlamaForSequenceClassification(config)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
            model.score.weight.zero_()
            for word, values in logits.items():
                column = torch.tensor(values) / math.sqrt(WIDTH)
                model.score.weight[:, tokenizer.convert_tokens_to_ids(word)] = column
        return saved(model, tokenizer, tmp_path / "judge")

    return make


@pytest.fixture
def random_classifier(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """Makes one of two layers that reads everything."""

    def make(**changes: object) -> Path:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.5,
            attention_dropout=0.5,
            id2label=dict(enumerate(KINDS)),
            label2id={label: index for index, label in enumerate(KINDS)},
            problem_type="multi_label_classification",
            **{"vocab_size": WIDTH, "pad_token_id": tokenizer.pad_token_id, **changes},
        )
        return saved(LlamaForSequenceClassification(config), tokenizer, tmp_path / "judge")

    return make


@pytest.fixture
def bert(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """Makes an encoder whose logits are its head's biases, whatever it reads."""

    def make(logits: Sequence[float], labels: Sequence[str], **changes: object) -> Path:
        config = BertConfig(
            vocab_size=WIDTH,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            **changes,
        )
        model = BertForSequenceClassification(config)
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor(logits))
        return saved(model, tokenizer, tmp_path / "judge")

    return make
