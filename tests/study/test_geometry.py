"""The geometry stage: what it leaves, when it is done, and that watching an attack does not change it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from rupert.attacks import FineTune
from rupert.errors import FolderError, InvalidValue, NonFiniteError, UsageError
from rupert.evaluation.gradients.geometry import Geometry, GeometrySettings, measure
from rupert.models import loading
from rupert.models.loading import LoadedModel, ModelSettings
from rupert.records import Record, read_record
from rupert.study.standalone.geometry import AttackSteps, ComparesAlong, geometry
from rupert.training.fine_tuning import Following

Tiny = Callable[..., LoadedModel]

SETTINGS = GeometrySettings(num_batches=3, batch_size=2, max_length=64, components=(1, 2))
ATTACK = FineTune(
    data="potionworld:attacker",
    num_examples=12,
    per_device_train_batch_size=4,
    learning_rate=1e-3,
    lr_scheduler_type="constant",
    warmup_steps=0,
    max_length=64,
)
ALONG = AttackSteps(attack=ATTACK, at=(2, 3))
MODELS = {"base": ModelSettings(model="potionworld"), "again": ModelSettings(model="potionworld")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models along an attack."""
    path = tmp_path_factory.mktemp("geometry") / "g"
    geometry(SETTINGS, MODELS, path, along=ALONG)
    return path


def test_the_record_has_every_cosine_of_each_model_and_step(folder: Path) -> None:
    record = read_record(folder)
    assert (record.stage, record.method) == ("geometry", "gram")
    assert record.report["models"] == {"base": "potionworld", "again": "potionworld"}
    assert [(one["model"], one["attack_step"]) for one in record.report["measurements"]] == [
        (model, step) for model in MODELS for step in (0, 2, 3)
    ]
    names = {metric.name for metric in record.metrics}
    assert {name.split("/")[0] for name in names} == {
        "cosine_between",
        "cosine_within_harmful",
        "cosine_within_benign",
        "cosine_of_means",
        "norm_harmful",
        "norm_benign",
    }
    assert len(names) == len(record.metrics) == 6 * 6
    assert record.metric("cosine_between/base/0").n == 6
    assert record.settings["num_batches"] == 3
    assert record.settings["harmful"] == "potionworld:attacker"
    assert record.settings["attack"]["learning_rate"] == 1e-3
    assert record.data.keys() == {"harmful", "benign", "attack/data"}


def test_equal_models_have_equal_gradients_and_an_attack_changes_them(folder: Path) -> None:
    record = read_record(folder)
    for step in (0, 2, 3):
        found = [replace(record.metric(f"cosine_of_means/{model}/{step}"), name="") for model in MODELS]
        assert found[0] == found[1]
    values = {record.metric(f"norm_harmful/base/{step}").value for step in (0, 2, 3)}
    assert len(values) == 3


def test_the_points_are_in_a_tidy_file(folder: Path) -> None:
    with (folder / "geometry.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "attack_step", "group", "batch", "component_1", "component_2"]
    assert len(rows) == 2 * 3 * 6
    assert [(row["group"], row["batch"]) for row in rows[:6]] == [
        (group, str(batch)) for group in ("harmful", "benign") for batch in range(3)
    ]
    centre = np.mean([[float(row["component_1"]), float(row["component_2"])] for row in rows[:6]], axis=0)
    np.testing.assert_allclose(centre, 0, atol=1e-9)


def test_the_same_call_again_returns_the_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    assert geometry(SETTINGS, MODELS, folder, along=ALONG) == read_record(folder)
    for changed in ({"settings": replace(SETTINGS, seed=1)}, {"along": None}, {"models": {"base": MODELS["base"]}}):
        asked: dict[str, Any] = {"settings": SETTINGS, "models": MODELS, "along": ALONG} | changed
        with pytest.raises(FolderError, match="holds a run with other settings"):
            geometry(asked["settings"], asked["models"], folder, along=asked["along"])


def test_an_interrupted_run_begins_again_when_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: ModelSettings) -> None:
        raise KeyboardInterrupt

    only = {"base": MODELS["base"]}
    with monkeypatch.context() as context:
        context.setattr(loading, "load", stopped)
        with pytest.raises(KeyboardInterrupt):
            geometry(SETTINGS, only, tmp_path)
    with pytest.raises(FolderError, match="unfinished; add --resume"):
        geometry(SETTINGS, only, tmp_path)
    record = geometry(SETTINGS, only, tmp_path, resume=True)
    assert len(record.metrics) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"geometry.csv", "request.json", "result.json"}
    assert "attack" not in json.loads((tmp_path / "request.json").read_text())["settings"]


def attacked(loaded: LoadedModel, callbacks: Sequence[TrainerCallback], **settings: Any) -> LoadedModel:
    attack = replace(ATTACK, **settings)
    return attack.run(loaded, attack.gather(), Following(callbacks=tuple(callbacks))).loaded


def compare_with(loaded: LoadedModel) -> Callable[[Any, int], Geometry]:
    settings = SETTINGS.for_model(is_potionworld=True)
    batches = settings.batches(settings.gather(), loaded.tokenizer)
    parameters = list(loaded.model.parameters())
    return lambda model, _: measure(settings, model, batches, parameters=parameters, memory_gb=1.0)


@pytest.mark.parametrize("lora", [False, True])
def test_an_attack_that_is_watched_is_bit_for_bit_the_same(tiny: Tiny, lora: bool) -> None:
    options = {"lora": lora, "num_train_epochs": 2.0, "lora_dropout": 0.3 if lora else 0.0}
    plain = attacked(tiny(dtype="float32", dropout=0.5), [], **options)
    watched = tiny(dtype="float32", dropout=0.5)
    watch = ComparesAlong({0, 1, 4, 6}, compare_with(watched))
    result = attacked(watched, [watch], **options)
    assert sorted(watch.found) == [0, 1, 4, 6]
    before = [parameter.detach() for parameter in tiny(dtype="float32").model.parameters()]
    assert not all(map(torch.equal, before, plain.model.parameters()))
    assert all(map(torch.equal, plain.model.parameters(), result.model.parameters()))


def test_gradients_under_an_adapter_are_those_of_the_merged_weights(tiny: Tiny) -> None:
    loaded = tiny()
    watch = ComparesAlong({0, 3}, compare_with(loaded))
    merged = attacked(loaded, [watch], lora=True, learning_rate=0.03)
    alone = compare_with(merged)(merged.model, 3)
    for name, interval in alone.found.items():
        assert watch.found[3].found[name].value == pytest.approx(interval.value, rel=1e-4, abs=1e-5)
    assert watch.found[0].found["norm_harmful"].value != pytest.approx(alone.found["norm_harmful"].value, rel=1e-3)


def test_the_record_says_what_the_model_itself_shows(folder: Path) -> None:
    loaded = loading.load(MODELS["base"])
    found = compare_with(loaded)(loaded.model, 0).found
    record = read_record(folder)
    for name, interval in found.items():
        assert record.metric(f"{name}/base/0").value == pytest.approx(interval.value, rel=1e-5)
        assert record.metric(f"{name}/base/3").value != pytest.approx(interval.value, rel=1e-5)


def refuse(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Record:
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    asked: dict[str, Any] = {"settings": SETTINGS, "models": MODELS, "memory_gb": 1.0} | options
    return geometry(asked["settings"], asked["models"], asked["folder"], memory_gb=asked["memory_gb"])


def test_what_cannot_be_is_refused_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "g"
    for problem, options in {
        r"memory_gb: 0.0 is not valid; must be above 0": {"memory_gb": 0.0},
        r"num_batches: 200 is not valid; potionworld:attacker has": {"settings": replace(SETTINGS, num_batches=200)},
        r"harmful, benign: name both": {"models": {**MODELS, "other": ModelSettings(model="owner/name")}},
    }.items():
        with pytest.raises(UsageError, match=problem):
            refuse(monkeypatch, folder=folder, **options)
    with pytest.raises(InvalidValue, match="at: 4 is not valid; the attack has 3 steps"):
        AttackSteps(attack=ATTACK, at=(4,))
    with pytest.raises(InvalidValue, match="at: -1 is not valid"):
        AttackSteps(attack=ATTACK, at=(-1,))
    assert AttackSteps(attack=replace(ATTACK, max_steps=7), at=(7,)).at == (7,)
    assert not folder.exists()


def test_a_gradient_that_is_not_finite_says_of_which_model_and_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def gradient(*_: Any) -> list[torch.Tensor]:
        computed.append(0)
        return [torch.full((3,), float("inf") if len(computed) == 6 + 2 else 1.0)]

    monkeypatch.setattr("rupert.evaluation.gradients.geometry.answer_gradient", gradient)
    with pytest.raises(
        NonFiniteError, match="base after 2 attack steps: the gradient of harmful batch 1 is not finite"
    ):
        geometry(SETTINGS, MODELS, tmp_path, along=ALONG)
    assert not (tmp_path / "result.json").exists()
