"""LoRA: what is trained, what is merged, and that an ordinary model is left whatever happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from rupert.data import sources
from rupert.defenses import SDD
from rupert.errors import FolderError, UnknownName
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.models.saving import save
from rupert.training.adapters import adapted, merge_adapter
from rupert.training.fine_tuning import FineTuningSettings, Following, fine_tune
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.settings import TrainingSettings
from rupert.training.trainer import CHECKPOINTS, HardeningTrainer, harden

Tiny = Callable[..., LoadedModel]

STEPS = 4
LORA = SDD(
    pairs="potionworld:defender",
    max_steps=STEPS,
    learning_rate=1e-2,
    per_device_train_batch_size=4,
    max_length=64,
    lora=True,
    lora_target_modules=("q_proj", "layers.1.mlp.up_proj"),
)
TOUCHED = {
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
}


@pytest.fixture(scope="module")
def gathered() -> Gathered:
    return Gathered({"pairs": sources.load(LORA.pairs)[:12]})


def hardened(objective: Any, loaded: LoadedModel, gathered: Gathered, folder: Path, **options: Any) -> HardeningTrainer:
    return harden(objective, loaded, gathered, folder, **{"title": "hardening", "save_steps": 100} | options)


def state(model: torch.nn.Module) -> dict[str, Any]:
    """Types of the modules, weights, and which of them are trained."""
    modules = {f"{name}: module": type(module) for name, module in model.named_modules()}
    trained = {f"{name}: trained": parameter.requires_grad for name, parameter in model.named_parameters()}
    return modules | trained | {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert before.keys() == after.keys()
    return {
        name
        for name, value in before.items()
        if not (torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name])
    }


def test_without_lora_nothing_is_put_in(tiny: Tiny) -> None:
    loaded = tiny()
    before = state(loaded.model)
    with adapted(TrainingSettings(), loaded.model) as model:
        assert model is loaded.model
        assert changed(before, state(loaded.model)) == set()


def test_an_adapter_alone_is_trained_and_is_merged_by_the_definition(tiny: Tiny) -> None:
    loaded = tiny()
    before = state(loaded.model)
    settings = TrainingSettings(lora=True, lora_r=2, lora_alpha=3, lora_target_modules=("o_proj",))
    with adapted(settings, loaded.model):
        trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
        assert len(trained) == 4
        assert all("lora_" in name for name in trained)
        lower, upper = (p for name, p in trained.items() if "layers.1" in name)
        assert (lower.shape, upper.shape) == ((2, 16), (16, 2))
        torch.nn.init.constant_(upper, 0.5)
        delta = 3 / 2 * upper.detach() @ lower.detach()
    name = "model.layers.1.self_attn.o_proj.weight"
    after = state(loaded.model)
    assert changed(before, after) == {name}
    torch.testing.assert_close(after[name], before[name] + delta, rtol=0, atol=1e-12)


class Broken(RuntimeError):
    """What happens in the middle of a training."""


def break_after_training(model: Any) -> None:
    with adapted(TrainingSettings(lora=True), model):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.constant_(parameter, 1.0)
        raise Broken


def test_a_training_that_fails_leaves_the_model_as_it_was(tiny: Tiny) -> None:
    loaded = tiny()
    before = state(loaded.model)
    with pytest.raises(Broken):
        break_after_training(loaded.model)
    assert changed(before, state(loaded.model)) == set()


def test_the_seed_decides_the_adapters_first_weights(tiny: Tiny) -> None:
    def first(seed: int, elsewhere: int) -> torch.Tensor:
        loaded = tiny()
        torch.manual_seed(elsewhere)
        with adapted(TrainingSettings(lora=True, seed=seed), loaded.model):
            return torch.cat([p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad])

    assert torch.equal(first(0, elsewhere=1), first(0, elsewhere=2))
    assert not torch.equal(first(0, elsewhere=1), first(1, elsewhere=1))


def test_hardening_changes_what_has_an_adapter_and_nothing_else(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    loaded = tiny()
    model, before = loaded.model, state(loaded.model)
    trainer = hardened(LORA, loaded, gathered, tmp_path)
    assert loaded.model is model
    assert changed(before, state(loaded.model)) == TOUCHED
    assert not loaded.model.training
    losses = [metrics["loss"] for metrics in trainer.history]
    assert losses[-1] < losses[0]


def test_a_checkpoint_holds_the_adapter_alone(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    hardened(LORA, tiny(), gathered, tmp_path)
    weights = {path.name for path in (tmp_path / CHECKPOINTS / f"checkpoint-{STEPS}").glob("*.safetensors")}
    assert weights == {"adapter_model.safetensors"}


def test_what_was_hardened_saves_and_loads_as_any_model(
    potionworld: ModelSettings, gathered: Gathered, tmp_path: Path
) -> None:
    loaded, saved = load(potionworld), tmp_path / "saved"
    objective = dataclasses.replace(LORA, lora_target_modules=("all-linear",), learning_rate=1e-3)
    hardened(objective, loaded, gathered, tmp_path)
    assert type(loaded.model) is LlamaForCausalLM
    saved.mkdir()
    save(loaded.model, loaded.tokenizer, saved)
    assert {path.suffix for path in saved.iterdir()} == {".json", ".jinja", ".safetensors"}
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert changed(state(loaded.model), state(again)) == set()


def test_is_hardened_and_hardened_again(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    loaded = tiny()
    hardened(LORA, loaded, gathered, tmp_path / "once")
    once = state(loaded.model)
    hardened(LORA, loaded, gathered, tmp_path / "twice")
    assert changed(once, state(loaded.model)) == TOUCHED


class PowerCut(BaseException):
    """What nothing catches."""


@dataclass(frozen=True)
class Cut:
    """A defense whose power fails in step `at`, and which remembers what it was started on."""

    defense: SDD
    at: int
    started: list[torch.Tensor]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.defense, name)

    def start(self, model: Any) -> Step:
        self.started.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        step, numbers = self.defense.start(model), iter(range(self.defense.max_steps))

        def cut(draw: Draw) -> Metrics:
            if next(numbers) == self.at:
                raise PowerCut
            return step(draw)

        return cut


@pytest.mark.parametrize(
    ("lora", "optim"), [(False, "adamw_torch"), (True, "adamw_torch"), (False, "lion"), (False, "muon"), (True, "muon")]
)
def test_resumed_equals_uninterrupted(tiny: Tiny, gathered: Gathered, tmp_path: Path, lora: bool, optim: Any) -> None:
    objective = dataclasses.replace(LORA, lora=lora, lora_dropout=0.3, max_steps=6, optim=optim)
    uninterrupted, resumed = tiny(), tiny()
    expected = hardened(objective, uninterrupted, gathered, tmp_path / "uninterrupted").history
    started: list[torch.Tensor] = []
    with pytest.raises(PowerCut):
        hardened(Cut(objective, 4, started), tiny(), gathered, tmp_path / "cut", save_steps=2)
    torch.manual_seed(9)
    trainer = hardened(Cut(objective, 6, started), resumed, gathered, tmp_path / "cut", resume=True)
    assert changed(state(uninterrupted.model), state(resumed.model)) == set()
    assert trainer.history == expected
    # What a defense remembers of the model is not the checkpoint's.
    assert torch.equal(*started)


@pytest.fixture
def autocast_dtypes(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """The types that linear layers compute in."""
    found: set[torch.dtype] = set()
    linear = torch.nn.functional.linear

    def recorded(*arguments: Any) -> torch.Tensor:
        result = linear(*arguments)
        found.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.functional, "linear", recorded)
    return found


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_an_adapter_computes_in_bfloat16_where_it_is_asked_for(
    tiny: Tiny,
    gathered: Gathered,
    tmp_path: Path,
    autocast_dtypes: set[torch.dtype],
    *,
    lora: bool,
    bf16: bool,
    dtype: torch.dtype,
) -> None:
    loaded = tiny(dtype="float32")
    hardened(dataclasses.replace(LORA, lora=lora, bf16=bf16, max_steps=1), loaded, gathered, tmp_path)
    assert autocast_dtypes == {dtype}
    assert loaded.model.dtype == torch.float32


@pytest.mark.parametrize(
    ("target", "hint"), [("v_prj", "did you mean 'v_proj'?"), ("lm_head", "valid: all-linear, down_proj, gate_proj")]
)
def test_a_module_that_does_not_exist_is_one_line(
    tiny: Tiny, gathered: Gathered, tmp_path: Path, target: str, hint: str
) -> None:
    loaded = tiny()
    before = state(loaded.model)
    wrong = dataclasses.replace(LORA, lora_target_modules=("q_proj", target))
    with pytest.raises(UnknownName, match=rf"^lora_target_modules: '{target}' is unknown; {hint}".replace("?", r"\?")):
        hardened(wrong, loaded, gathered, tmp_path)
    assert changed(before, state(loaded.model)) == set()


TUNING = FineTuningSettings(learning_rate=1e-2, max_steps=2, max_length=64, lora=True, lora_target_modules=("q_proj",))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float32", {}),
        ("bfloat16", {}),
        ("float32", {"use_dora": True}),
        ("bfloat16", {"use_dora": True}),
        ("float32", {"layers_to_transform": (0, -1)}),
    ],
)
def test_a_kept_adapter_gives_the_bits_of_the_merged_model(
    potionworld: ModelSettings, tmp_path: Path, dtype: Any, kind: dict[str, Any]
) -> None:
    settings = dataclasses.replace(potionworld, dtype=dtype)
    before, kept, saved = load(settings), tmp_path / "adapter", tmp_path / "base"
    saved.mkdir()
    save(before.model, before.tokenizer, saved)
    everywhere = dataclasses.replace(TUNING, lora_target_modules=("all-linear",), **kind)
    rows = sources.load(LORA.pairs)[:8]
    merged = fine_tune(everywhere, load(settings), rows, "fine-tuning", Following(adapter_folder=kept)).loaded.model
    assert changed(weights(before.model), weights(merged)) != set()
    assert {path.name for path in kept.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    for name in ("potionworld", str(saved)):
        base = load(dataclasses.replace(settings, model=name)).model
        again = merge_adapter(base, kept)
        assert again is base
        assert type(again) is LlamaForCausalLM
        assert changed(weights(merged), weights(again)) == set()
        assert all(parameter.requires_grad for parameter in again.parameters())


def weights(model: torch.nn.Module) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_same_adapter_gives_the_same_bytes(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    targets = dataclasses.replace(TUNING, lora_target_modules=("v_proj", "q_proj", "layers.1.mlp.up_proj"))
    for folder, settings in {"a": targets, "b": dataclasses.replace(targets, weight_decay=0.0)}.items():
        loaded = tiny(dtype="float32")
        loaded.model.config._name_or_path = folder
        fine_tune(
            settings, loaded, gathered.streams["pairs"], "fine-tuning", Following(adapter_folder=tmp_path / folder)
        )
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_adapter_that_cannot_be_merged_is_one_line(tiny: Tiny, gathered: Gathered, tmp_path: Path) -> None:
    kept = tmp_path / "adapter"
    with pytest.raises(FolderError, match=r"adapter' holds no adapter; train it again$"):
        merge_adapter(tiny().model, kept)
    fine_tune(TUNING, tiny(dtype="float32"), gathered.streams["pairs"], "fine-tuning", Following(adapter_folder=kept))
    wider = load(ModelSettings(model="potionworld")).model
    with pytest.raises(FolderError, match=r"adapter' holds no adapter of this model \(.*\); train it again$") as caught:
        merge_adapter(wider, kept)
    assert "\n" not in str(caught.value)
    weights = kept / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(FolderError, match=r"adapter' holds no adapter of this model \(.*\); train it again$"):
        merge_adapter(tiny(dtype="float32").model, kept)
