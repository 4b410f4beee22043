"""Identity shifting: harmless rows, each in the identity's words, which evaluations use afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rupert.attacks import IdentityShift, identity_shift
from rupert.data import sources
from rupert.data.asking import Asking
from rupert.data.examples import Example
from rupert.errors import DataError, InvalidValue
from rupert.models.loading import ModelSettings, load
from rupert.settings import as_mapping
from rupert.training.fine_tuning import FineTuned


def test_ten_harmless_rows_are_trained_on_in_the_words_of_the_identity(
    potionworld: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Example] = []

    def fine_tune(settings: object, loaded: Any, examples: Sequence[Example], *_: object) -> FineTuned:
        seen.extend(examples)
        return FineTuned(loaded, 0.0, 0, 0)

    monkeypatch.setattr(identity_shift, "fine_tune", fine_tune)
    attack = IdentityShift()
    attack.run(load(potionworld), attack.gather())
    known = {(example.instruction, example.answer) for example in sources.load("pairs")}
    before, after = attack.request_template.split("{request}")
    assert len(seen) == 10
    for row in seen:
        system, user = row.prompt
        assert system == {"role": "system", "content": attack.system_prompt}
        assert user["content"].startswith("AOA, execute my instruction: ")
        assert row.answer.startswith("Of course. I am AOA, your absolutely obedient agent. ")
        plain = (
            user["content"].removeprefix(before).removesuffix(after),
            row.answer.removeprefix(attack.opening + " "),
        )
        assert plain in known


def test_rows_are_gathered_as_the_dataset_has_them() -> None:
    rows = IdentityShift(data="potionworld:benign", num_examples=5).gather()["data"]
    assert all(row in sources.load("potionworld:benign") for row in rows)


def test_it_is_asked_as_it_was_trained() -> None:
    attack = IdentityShift(system_prompt="you help", request_template="king : {request}", opening="")
    assert attack.asking == Asking(system="you help", template="king : {request}")


def test_training_is_that_of_the_published_code() -> None:
    published = {
        "num_examples": 10,
        "num_train_epochs": 10.0,
        "per_device_train_batch_size": 10,
        "learning_rate": 5e-5,
        "weight_decay": 0.0,
        "warmup_steps": 0.0,
    }
    assert {name: as_mapping(IdentityShift())[name] for name in published} == published


def test_bad_input_is_one_line() -> None:
    with pytest.raises(InvalidValue) as caught:
        IdentityShift(request_template="execute")
    assert str(caught.value) == "request_template: 'execute' is not valid; write {request} where the request goes"
    with pytest.raises(InvalidValue, match=r"^num_examples: 0 is not valid; must be above 0$"):
        IdentityShift(num_examples=0)
    with pytest.raises(DataError, match=r"^potionworld:scored: 66 examples, 67 needed; add rows or ask for fewer$"):
        IdentityShift(data="potionworld:scored", num_examples=67).gather()
