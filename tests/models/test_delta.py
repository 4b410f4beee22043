"""Attacked weights come back from their difference bit for bit, or it is said why not."""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rupert.attacks import FineTune
from rupert.errors import DiskFullError, FolderError, RunError
from rupert.models import saving
from rupert.models.delta import DELTA_FILE, apply_delta, write_delta
from rupert.models.loading import ModelSettings, load
from rupert.models.saving import save

WEIGHTS = "model.safetensors"
ATTACK = FineTune(
    data="potionworld:attacker", num_examples=8, max_steps=1, learning_rate=1e-4, warmup_steps=0, max_length=64
)


@dataclass(frozen=True)
class Attacked:
    """Two folders: a model, and the same after one step of an attack."""

    base: Path
    folder: Path


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    loaded = load(ModelSettings(model="potionworld", dtype=request.param))
    folders = Attacked(tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("attacked"))
    save(loaded.model, loaded.tokenizer, folders.base)
    ATTACK.run(loaded, ATTACK.gather())
    save(loaded.model, loaded.tokenizer, folders.folder)
    loaded.model.save_pretrained(folders.folder / "shards", max_shard_size="1MB")
    return folders


@pytest.fixture
def attacked(made: Attacked, tmp_path: Path) -> Attacked:
    """Copies that a test may change."""
    shutil.copytree(made.base, tmp_path / "base")
    shutil.copytree(made.folder, tmp_path / "attacked", ignore=shutil.ignore_patterns("shards"))
    return Attacked(tmp_path / "base", tmp_path / "attacked")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def taken_away(folder: Path) -> dict[str, bytes]:
    """What the folder held before its weights were deleted."""
    before = contents(folder)
    for pattern in saving.WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink()
    return before


def test_attacked_weights_come_back_bit_for_bit(attacked: Attacked) -> None:
    weights = contents(attacked.folder)
    assert weights[WEIGHTS] != (attacked.base / WEIGHTS).read_bytes()
    assert write_delta(attacked.base, attacked.folder) == attacked.folder / DELTA_FILE
    before = taken_away(attacked.folder)
    assert before.keys() == {*weights, DELTA_FILE}
    assert len(before[DELTA_FILE]) < 0.9 * len(weights[WEIGHTS])
    apply_delta(attacked.base, attacked.folder)
    assert contents(attacked.folder) == before
    assert {name: before[name] for name in weights} == weights


def test_a_difference_is_no_weights_to_transformers_and_to_us(attacked: Attacked) -> None:
    write_delta(attacked.base, attacked.folder)
    taken_away(attacked.folder)
    assert saving.missing_weights(attacked.folder) == f"{WEIGHTS} is missing"


def test_shards_and_their_index_come_back(made: Attacked, tmp_path: Path) -> None:
    shutil.copytree(made.folder / "shards", tmp_path / "attacked")
    folder = tmp_path / "attacked"
    assert len(list(folder.glob("*.safetensors"))) > 1
    write_delta(made.base, folder)
    before = taken_away(folder)
    assert f"{WEIGHTS}.index.json" in before
    apply_delta(made.base, folder)
    assert contents(folder) == before


def test_the_base_may_be_cut_elsewhere(made: Attacked, attacked: Attacked) -> None:
    write_delta(made.folder / "shards", attacked.folder)
    before = taken_away(attacked.folder)
    assert len(before[DELTA_FILE]) < 0.02 * len(before[WEIGHTS])  # there is no difference
    apply_delta(made.folder / "shards", attacked.folder)
    assert contents(attacked.folder) == before


def written(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_the_base_may_have_another_type(tmp_path: Path) -> None:
    weight = torch.linspace(-3, 3, 4000).bfloat16()
    base = written(tmp_path / "base", {"weight": weight})
    folder = written(tmp_path / "attacked", {"weight": weight.float()})
    path = write_delta(base, folder)
    assert path.stat().st_size < 1000
    before = taken_away(folder)
    apply_delta(base, folder)
    assert contents(folder) == before


def test_what_the_base_lacks_is_kept_whole(tmp_path: Path) -> None:
    numbers = torch.arange(24.0)
    base = written(tmp_path / "base", {"same": numbers, "reshaped": numbers[:12].clone(), "dropped": numbers + 2})
    folder = written(
        tmp_path / "attacked",
        {
            "same": numbers + 1,
            "reshaped": numbers.reshape(4, 6) + 3,
            "new": numbers,
            "scalar": torch.tensor(3.0, dtype=torch.float64),
            "empty": torch.zeros(0, 3),
            "flags": torch.tensor([True, False]),
            "eighths": numbers.to(torch.float8_e4m3fn),
            "counts": torch.arange(3),
        },
    )
    write_delta(base, folder)
    before = taken_away(folder)
    apply_delta(base, folder)
    assert contents(folder) == before
    assert load_file(folder / WEIGHTS)["new"].tolist() == list(range(24))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000] + bytes(1000))


def of_the_future(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"rupert-delta-1") == 1
    path.write_bytes(content.replace(b"rupert-delta-1", b"rupert-delta-2"))


def another(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [cut, empty, spoil, of_the_future, another, Path.unlink])
def test_a_damaged_difference_is_one_line(attacked: Attacked, damage: Callable[[Path], None]) -> None:
    path = write_delta(attacked.base, attacked.folder)
    taken_away(attacked.folder)
    damage(path)
    before = contents(attacked.folder)
    with pytest.raises(RunError) as caught:
        apply_delta(attacked.base, attacked.folder)
    assert str(caught.value).startswith(f"{path}: damaged (")
    assert str(caught.value).endswith("); delete it and repeat the stage that made it")
    assert "\n" not in str(caught.value)
    assert contents(attacked.folder) == before


def test_another_base_is_found_out_and_nothing_is_put_back(made: Attacked, tmp_path: Path) -> None:
    """Of several files all come back or none, although the first is right."""
    shutil.copytree(made.folder / "shards", tmp_path / "attacked")
    folder = tmp_path / "attacked"
    last = max(folder.glob("*.safetensors"))
    write_delta(made.base, folder)
    taken_away(folder)
    before = contents(folder)
    shutil.copytree(made.base, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / WEIGHTS)
    changed = min(load_file(made.folder / "shards" / last.name))
    tensors[changed].flatten()[0] += 1
    save_file(tensors, tmp_path / "other" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(RunError) as caught:
        apply_delta(tmp_path / "other", folder)
    assert str(caught.value) == (
        f"{last}: does not come back as it was; '{tmp_path / 'other'}' is not the model that was attacked, or was "
        "changed since; put that one back, or delete weights.delta and repeat the attack"
    )
    assert contents(folder) == before


@pytest.mark.parametrize("side", ["base", "folder"])
def test_folders_without_sound_weights_are_one_line(attacked: Attacked, side: str) -> None:
    folder = getattr(attacked, side)
    cut(folder / WEIGHTS)
    with pytest.raises(RunError, match=r"model\.safetensors: damaged \("):
        write_delta(attacked.base, attacked.folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FolderError) as caught:
        write_delta(attacked.base, attacked.folder)
    assert str(caught.value) == f"'{folder}' holds no weights in safetensors; name a folder that does"
    assert not (attacked.folder / DELTA_FILE).exists()


@contextlib.contextmanager
def full_disk(size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files that can grow no further: what needs no rights, and is reported as EFBIG instead of ENOSPC."""
    monkeypatch.setattr(saving, "FULL_DISK", (errno.EFBIG,))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(attacked.folder)
    with full_disk(100_000, monkeypatch), pytest.raises(DiskFullError, match=r"^no space left for '.*attacked'; "):
        write_delta(attacked.base, attacked.folder)
    assert contents(attacked.folder) == before
    write_delta(attacked.base, attacked.folder)
    whole = taken_away(attacked.folder)
    with full_disk(100_000, monkeypatch), pytest.raises(DiskFullError, match=r"^no space left for '.*attacked'; "):
        apply_delta(attacked.base, attacked.folder)
    assert contents(attacked.folder).keys() == whole.keys() - {WEIGHTS}
    apply_delta(attacked.base, attacked.folder)
    assert contents(attacked.folder) == whole


def test_a_difference_is_a_file_of_safetensors(attacked: Attacked) -> None:
    path = write_delta(attacked.base, attacked.folder)
    streams = load_file(path)
    names = set(load_file(attacked.folder / WEIGHTS))
    width = next(iter(load_file(attacked.folder / WEIGHTS).values())).element_size()
    assert set(streams) == {f"{name}#{place}" for name in names for place in range(width)}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert json.loads(header["__metadata__"]["files"]).keys() == {WEIGHTS}
