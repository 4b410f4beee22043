"""Dropped weights come back bit for bit, from an adapter, a difference, or the attack done again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rupert.attacks import FineTune
from rupert.errors import RunError
from rupert.models import loading
from rupert.models.loading import ModelSettings
from rupert.records import file_hash, read_record
from rupert.study.running.attacked_weights import bring_back, drop, keep_difference
from rupert.study.stage import Attack, do, keep

FULL = FineTune(data="potionworld:attacker", num_examples=16, per_device_train_batch_size=8, max_length=64)
LORA = replace(FULL, lora=True, learning_rate=1e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    keep(ModelSettings(model="potionworld"), folder)
    return folder


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An attack of all weights, and one with an adapter, once."""
    folder = tmp_path_factory.mktemp("attacked")
    for name, settings in (("full", FULL), ("lora", LORA)):
        do(Attack(settings=settings, model=ModelSettings(model=str(base)), keep_adapter=True), folder / name)
    return {name: folder / name for name in ("full", "lora")}


@pytest.fixture
def attacked(made: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    shutil.copytree(made[request.param], tmp_path / request.param)
    return tmp_path / request.param


def work(folder: Path, base: Path) -> Attack:
    return Attack(settings=LORA if folder.name == "lora" else FULL, model=ModelSettings(model=str(base)))


@pytest.mark.parametrize("attacked", ["full", "lora"], indirect=True)
@pytest.mark.parametrize("kept", [True, False])
def test_what_comes_back_is_what_was_dropped(
    attacked: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    weights = file_hash(attacked.glob("*.safetensors"))
    if kept:
        keep_difference(base, attacked)
        monkeypatch.setattr(FineTune, "run", lambda *_, **__: pytest.fail("attacked again"))
    else:
        shutil.rmtree(attacked / "adapter", ignore_errors=True)
    drop(attacked)
    assert not list(attacked.glob("*.safetensors"))
    bring_back(work(attacked, base), attacked, tmp_path / "scratch")
    assert file_hash(attacked.glob("*.safetensors")) == weights
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("attacked", ["full", "lora"], indirect=True)
def test_an_adapter_needs_no_difference_beside_it(attacked: Path, base: Path) -> None:
    keep_difference(base, attacked)
    assert (attacked / "weights.delta").exists() == (attacked.name == "full")


@pytest.mark.parametrize("attacked", ["full"], indirect=True)
def test_the_record_still_stands_for_weights_that_came_back(attacked: Path, base: Path, tmp_path: Path) -> None:
    keep_difference(base, attacked)
    drop(attacked)
    bring_back(work(attacked, base), attacked, tmp_path / "scratch")
    recorded = read_record(attacked).output_hash
    assert loading.folder_hash(attacked) == loading.weights_hash(attacked) == recorded


@pytest.mark.parametrize("attacked", ["full"], indirect=True)
def test_an_attack_that_gives_other_weights_is_refused(
    attacked: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(attacked)
    other = replace(FULL, learning_rate=1e-5)
    run = FineTune.run
    monkeypatch.setattr(FineTune, "run", lambda _, *arguments, **options: run(other, *arguments, **options))
    with pytest.raises(RunError, match="its weights come back otherwise than they were recorded"):
        bring_back(work(attacked, base), attacked, tmp_path / "scratch")
    assert not list(attacked.glob("*.safetensors"))


@pytest.mark.parametrize("attacked", ["full"], indirect=True)
def test_weights_that_were_changed_by_hand_are_other_weights(attacked: Path) -> None:
    recorded = read_record(attacked).output_hash
    [path] = attacked.glob("*.safetensors")
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, path, metadata={"format": "pt"})
    assert loading.folder_hash(attacked) != recorded
