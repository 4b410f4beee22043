"""What every defense must hold to; a new entry of `DEFENSES` needs a line in `TINY` and gets all of this."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from rupert.cli.main import main
from rupert.defenses import DEFENSES
from rupert.errors import UnknownName
from rupert.models.generation import generate
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.saving import save
from rupert.settings import as_mapping, parse, read_yaml
from rupert.testing import condition, drawing, gradient, hooks
from rupert.training.objective import Gathered
from rupert.training.trainer import harden

Tiny = Callable[..., LoadedModel]

# Each defense on Potionworld. What the answers say makes no difference here, so that recipes do for any stream.
TINY: Mapping[str, Mapping[str, Any]] = {
    "sdd": {"pairs": "potionworld:defender", "benign": "potionworld:benign", "benign_share": 0.5},
    "seam": {
        "harmful": "potionworld:defender",
        "alignment": "potionworld:refusals",
        "benign": "potionworld:benign",
        "alignment_benign_share": 0.5,
    },
    "vaccine": {"alignment": "potionworld:refusals", "benign": "potionworld:benign", "benign_share": 0.5},
    "t_vaccine": {
        "harmful": "potionworld:defender",
        "alignment": "potionworld:refusals",
        "benign": "potionworld:benign",
        "benign_share": 0.5,
        "trained_layers": 1,
        "harmful_batches": 1,
        "probability_steps": 1,
    },
    "random_mapping": {"harmful": "potionworld:defender", "benign": "potionworld:benign"},
    "tar": {
        "harmful": "potionworld:defender",
        "benign": "potionworld:benign",
        "inner_steps": 2,
        "resist_every": 1,
    },
    "repnoise": {
        "harmful": "potionworld:defender",
        "alignment": "potionworld:refusals",
        "benign": "potionworld:benign",
        "benign_share": 0.5,
        "beta": 0.1,
    },
    "booster": {
        "harmful": "potionworld:defender",
        "alignment": "potionworld:refusals",
        "benign": "potionworld:benign",
        "benign_share": 0.5,
    },
    "ctrap": {
        "harmful": "potionworld:defender",
        "alignment": "potionworld:refusals",
        "benign": "potionworld:benign",
        "collapse_word": "moon",
    },
}
TRAINING = {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-3, "max_length": 64}
# Adam divides a gradient by its own size, which for a zero that was rounded differently is anything.
PLAIN_STEPS = TRAINING | {"optim": "sgd", "learning_rate": 0.05, "lora_dropout": 0.0}
ADAPTED = {"full": {"lora": False}, "lora": {"lora": True}}
CUTS = [(1, 8), (2, 4), (4, 2)]  # rows at once, passes


def test_every_defense_is_tested() -> None:
    assert TINY.keys() == DEFENSES.keys()


@pytest.fixture(params=DEFENSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def defense(name: str) -> Any:
    return DEFENSES[name](**TRAINING, **TINY[name])


@pytest.fixture
def gathered(defense: Any) -> Gathered:
    """The first rows of every stream."""
    return small(defense)


def small(defense: Any) -> Gathered:
    whole = defense.gather()
    return Gathered({stream: examples[:40] for stream, examples in whole.streams.items()}, whole.report)


def assert_unchanged(before: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    after = condition(model)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_the_gradient_is_finite_and_not_zero(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    found = gradient(defense, gathered, tiny())
    assert found.isfinite().all()
    assert found.norm() > 1e-3


def test_reports_finite_numbers_with_the_loss_among_them(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    loaded = tiny()
    metrics = defense.start(loaded.model)(drawing(defense, gathered, loaded))
    assert "loss" in metrics
    assert {type(value) for value in metrics.values()} == {float}
    assert all(torch.tensor(value).isfinite() for value in metrics.values())


def test_a_step_leaves_the_gradient_and_nothing_else(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    loaded = tiny()
    fastened = hooks(loaded.model)
    loaded.model.train()
    step, draw = defense.start(loaded.model), drawing(defense, gathered, loaded)
    before = condition(loaded.model)
    step(draw)
    assert_unchanged(before, loaded.model)
    assert hooks(loaded.model) == fastened


class Broken(RuntimeError):
    """What a model raises in the middle of a step."""


def passes(loaded: LoadedModel, fail_at: int | None = None) -> tuple[list[int], Any]:
    """Counts the passes through the last layer, and breaks one of them."""
    counted: list[int] = []

    def count(module: torch.nn.Module, inputs: Any) -> None:
        counted.append(len(counted))
        if counted[-1] == fail_at:
            raise Broken

    return counted, loaded.model.model.layers[-1].mlp.register_forward_pre_hook(count)


def test_a_model_that_breaks_is_left_as_it_was(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    loaded = tiny()
    counted, _ = passes(loaded)
    gradient(defense, gathered, loaded)
    assert counted
    for number in counted:
        broken = tiny()
        fastened, draw = hooks(broken.model), drawing(defense, gathered, broken)
        broken.model.train()
        step = defense.start(broken.model)
        before = condition(broken.model)
        _, handle = passes(broken, fail_at=number)
        with pytest.raises(Broken):
            step(draw)
        handle.remove()
        assert hooks(broken.model) == fastened
        assert_unchanged(before, broken.model)


def test_the_same_seed_gives_the_same_step(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    first, again = (gradient(defense, gathered, tiny(dropout=0.2)) for _ in range(2))
    assert torch.equal(first, again)


def test_the_same_seed_hardens_alike(defense: Any, gathered: Gathered, tiny: Tiny, tmp_path: Path) -> None:
    hardened = [tiny(dropout=0.2) for _ in range(3)]
    for number, (loaded, seed) in enumerate(zip(hardened, (0, 0, 1), strict=True)):
        torch.manual_seed(number)  # what went on before makes no difference
        seeded = dataclasses.replace(defense, seed=seed)
        harden(seeded, loaded, gathered, tmp_path / str(number), title="hardening", save_steps=100)
    first, again, other = (torch.cat([p.flatten() for p in loaded.model.parameters()]) for loaded in hardened)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("rows", "accumulated"), CUTS)
def test_micro_batches_change_nothing(
    defense: Any, gathered: Gathered, tiny: Tiny, rows: int, accumulated: int
) -> None:
    cut = dataclasses.replace(defense, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated)
    assert cut.streams == defense.streams
    expected = gradient(defense, gathered, tiny())
    torch.testing.assert_close(gradient(cut, gathered, tiny()), expected, rtol=1e-10, atol=1e-10)
    single = tiny(dtype="float32")
    torch.testing.assert_close(gradient(cut, gathered, single), expected, rtol=1e-4, atol=1e-5 * expected.norm().item())


def test_no_pass_takes_more_rows_than_it_may(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    seen = []
    loaded = tiny()
    loaded.model.get_decoder().register_forward_pre_hook(
        lambda _module, _inputs, given: seen.append(
            given["rows"].shape[0] if "rows" in given else len(given["input_ids"])
        ),
        with_kwargs=True,
    )
    gradient(
        dataclasses.replace(defense, per_device_train_batch_size=2, gradient_accumulation_steps=4), gathered, loaded
    )
    assert max(seen) <= 2


def test_settings_survive_yaml_and_json(name: str, defense: Any, tmp_path: Path) -> None:
    method, mapping = DEFENSES[name], as_mapping(defense)
    file = tmp_path / "defense.yaml"
    file.write_text(yaml.safe_dump(mapping))
    assert parse(method, read_yaml(file)) == defense
    assert parse(method, json.loads(json.dumps(mapping))) == defense
    assert hash(parse(method, mapping)) == hash(defense)
    assert parse(method, as_mapping(method())) == method()


def test_draws_exactly_the_streams_that_it_declares(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    loaded = tiny()
    draw = drawing(defense, gathered, loaded)
    defense.start(loaded.model)(draw)
    assert set(draw.drawn) == set(defense.streams) == set(gathered.streams)
    assert {name: len(batch["labels"]) for name, batch in draw.batches.items()} == defense.streams


def test_bfloat16_autocast_is_close_to_float32(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    exact = gradient(defense, gathered, tiny(dtype="float32"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gradient(defense, gathered, tiny(dtype="float32"))
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.99
    assert rounded.norm() / exact.norm() == pytest.approx(1.0, abs=0.05)


def flat(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.fixture(scope="module")
def split(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes made, with half of the rows each; both go through all defenses."""
    folder, loaded = tmp_path_factory.mktemp("split"), tiny()
    half = PLAIN_STEPS | {"per_device_train_batch_size": 4}
    halves = {
        f"{name} {way}": DEFENSES[name](**half, **adapted, **TINY[name])
        for name in TINY
        for way, adapted in ADAPTED.items()
    }
    given = {
        "config": loaded.model.config,
        "state": loaded.model.state_dict(),
        "tokenizer": loaded.tokenizer,
        "defenses": {name: (defense, small(defense)) for name, defense in halves.items()},
    }
    torch.save(given, folder / "given.pt")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for rank in range(2):
        launched = shared | {"RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | {name: str(value) for name, value in launched.items()}
        program = [sys.executable, str(Path(__file__).with_name("processes_program.py")), str(folder)]
        running.append(subprocess.Popen(program, env=environment))
    while any(process.poll() is None for process in running):
        if any(process.poll() for process in running):  # the other one would wait for it
            for process in running:
                process.kill()
        time.sleep(0.05)
    return folder


@pytest.mark.parametrize("way", ADAPTED)
def test_two_processes_are_one(name: str, way: str, split: Path, tiny: Tiny, tmp_path: Path) -> None:
    defense, loaded = DEFENSES[name](**PLAIN_STEPS, **ADAPTED[way], **TINY[name]), tiny()
    before = flat(loaded.model.parameters()).clone()
    harden(defense, loaded, small(defense), tmp_path, title="hardening", save_steps=100)
    alone = flat(loaded.model.parameters())
    first, second = (flat(torch.load(split / f"{name} {way} {rank}.pt")) for rank in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(alone, before)
    assert (first - alone).norm() < 1e-6 * (alone - before).norm()


def test_an_adapter_is_trained_and_nothing_else(defense: Any, gathered: Gathered, tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny()
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    adapting = dataclasses.replace(defense, lora=True)
    harden(adapting, loaded, gathered, tmp_path, title="hardening", save_steps=100)
    after = dict(loaded.model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)


def sources_of(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from (field for field, value in settings.items() if str(value).startswith("potionworld:"))


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in TINY for field in sources_of(TINY[name])])
def test_check_names_the_field_whose_dataset_does_not_exist(name: str, field: str) -> None:
    defense = DEFENSES[name](**{**TRAINING, **TINY[name], field: "potionwrld"})
    with pytest.raises(UnknownName) as caught:
        defense.check()
    assert str(caught.value) == f"{field}: 'potionwrld' is unknown; did you mean 'potionworld'?"


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in TINY for field in sources_of(TINY[name])])
def test_a_stream_whose_file_is_gone_is_one_line_before_a_model_is_loaded(
    name: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rupert.models.loading.load", None)  # calling it would be another error
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TRAINING, **TINY[name], field: str(tmp_path / "gone.jsonl")}))
    command = ["defend", name, "--model", "potionworld", "--config", str(config)]
    assert main([*command, "--output-dir", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rupert: {field}: ")
    assert "gone.jsonl" in line


def test_a_hardened_model_saves_and_loads(
    defense: Any, gathered: Gathered, potionworld: ModelSettings, tmp_path: Path
) -> None:
    loaded, saved = load(potionworld), tmp_path / "saved"
    before = condition(loaded.model)
    trainer = harden(defense, loaded, gathered, tmp_path, title="hardening", save_steps=100)
    assert len(trainer.history) == defense.max_steps
    saved.mkdir()
    save(loaded.model, loaded.tokenizer, saved)
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert_unchanged(condition(loaded.model), again)
    assert any(not torch.equal(before[name], tensor) for name, tensor in again.named_parameters())
    prompts = [example.prompt for example in next(iter(gathered.streams.values()))[:4]]
    answers = [generate(model, loaded.tokenizer, prompts, max_new_tokens=8) for model in (loaded.model, again)]
    assert answers[0] == answers[1]


def test_says_what_a_step_costs(defense: Any) -> None:
    cost = defense.cost
    assert {field.name: type(getattr(cost, field.name)) for field in dataclasses.fields(cost)} | {
        "head_states": int
    } == {field.name: bool if field.name in ("precise", "compact") else int for field in dataclasses.fields(cost)}
    assert cost.passes >= sum(defense.streams.values()) > 0
    assert (cost.products > 0) == (cost.graphs > 0)
    assert 0 <= cost.gradients + cost.weights + cost.states < 20


def test_a_steps_cost_grows_with_its_rows_and_not_with_its_micro_batches(defense: Any) -> None:
    double = dataclasses.replace(defense, per_device_train_batch_size=16).cost
    assert double.passes == 2 * defense.cost.passes
    assert dataclasses.replace(double, passes=0, products=0, backwards=0, head_rows=0) == dataclasses.replace(
        defense.cost, passes=0, products=0, backwards=0, head_rows=0
    )


def test_as_many_rows_go_through_the_model_as_the_cost_says(defense: Any, gathered: Gathered, tiny: Tiny) -> None:
    loaded, rows = tiny(), list[int]()
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    single = dataclasses.replace(defense, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    gradient(single, gathered, loaded)
    handle.remove()
    assert sum(rows) == single.cost.passes
