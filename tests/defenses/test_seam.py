"""SEAM: its gradient against the definition in float64, in every precision and cut, and what a step costs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaForCausalLM, PreTrainedModel

from rupert.data import sources
from rupert.data.batches import Encoded, collate, encode
from rupert.defenses import SEAM
from rupert.errors import NonFiniteError
from rupert.models.loading import LoadedModel
from rupert.training.objective import Draw, Gathered, Metrics, Step
from rupert.training.trainer import harden, newest_checkpoint

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., Tensor]
Rows = Mapping[str, Sequence[Encoded]]

SPECS = {
    "harmful": "potionworld:defender",
    "alignment": "potionworld:refusals",
    "benign": "potionworld:benign",
    "alignment_benign": "potionworld:benign-test",
}
WEIGHTS = {"unlearning_weight": 0.7, "alpha": 1.3, "beta": 2.1}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "hessian_free": {"gradient": "hessian_free"},
    "central": {"gradient": "hessian_free", "central_differences": True},
}

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """Eight rows of each stream, of many lengths."""
    tokenizer = tiny().tokenizer
    return {
        name: [encode(example, tokenizer, 64) for example in sources.load(spec)[::31][:8]]
        for name, spec in SPECS.items()
    }


def batches(rows: Rows) -> dict[str, dict[str, Tensor]]:
    return {name: collate(encoded, 0) for name, encoded in rows.items()}


def parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


def left(model: torch.nn.Module) -> Tensor:
    """The gradient that a step has left in the trained parameters."""
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters(model)])


def take(model: PreTrainedModel, rows: Rows, **settings: Any) -> Metrics:
    """One step of SEAM on given rows, all in one micro-batch unless said."""
    draw = batches(rows).__getitem__
    return SEAM(**{"per_device_train_batch_size": 8} | settings).start(model)(draw)


def tokens(rows: Sequence[Encoded]) -> int:
    return sum(label != -100 for row in rows for label in row.labels)


def losses_of_layers(model: PreTrainedModel, rows: Sequence[Encoded]) -> Tensor:
    """ℓ_k of every hidden state: one row at a time, all logits, and the last state not normed again."""
    totals: list[Tensor] = []
    for row in rows:
        hidden = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        normed = [*(model.model.norm(states) for states in hidden[:-1]), hidden[-1]]
        predictions = torch.stack([model.lm_head(states)[0].log_softmax(dim=-1) for states in normed])
        totals += [-predictions[:, place, token] for place, token in enumerate(row.labels[1:]) if token != -100]
    return torch.stack(totals).sum(dim=0) / tokens(rows)


def definition(
    model: PreTrainedModel, rows: Rows, by_hand: ByHand, *, plain: bool = False
) -> dict[str, tuple[float, Tensor]]:
    """Value and gradient of each of the three losses, by autograd from how they are written."""
    over = parameters(model)

    def mean(*streams: str) -> Tensor:
        together = [row for stream in streams for row in rows[stream]]
        return by_hand(model, together) / tokens(together)

    def gradient(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, over, create_graph=True, materialize_grads=True)

    with sdpa_kernel(SDPBackend.MATH):  # eager attention computes a model in float64 in float32
        harmful, benign = (torch.cat([g.flatten() for g in gradient(mean(name))]) for name in ("harmful", "benign"))
        layers = mean("harmful") if plain else torch.log(1 + losses_of_layers(model, rows["harmful"]).mean())
        found = {
            "unlearning": -layers,
            "utility": mean(*(name for name in rows if name.startswith("alignment"))),
            "cosine": harmful @ benign / harmful.norm() / benign.norm(),
        }
        return {name: (loss.item(), flat(gradient(loss))) for name, loss in found.items()}


def total(parts: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    return (
        WEIGHTS["unlearning_weight"] * parts["unlearning"][1]
        + WEIGHTS["alpha"] * parts["utility"][1]
        + WEIGHTS["beta"] * parts["cosine"][1]
    )


def untied(loaded: LoadedModel) -> PreTrainedModel:
    config = copy.deepcopy(loaded.model.config)
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    return LlamaForCausalLM(config).double().eval()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("make", [lambda loaded: loaded.model, untied], ids=["tied", "untied"])
@pytest.mark.parametrize("mixed", [False, True])
def test_one_step_is_the_definition(
    tiny: Tiny, rows: Rows, by_hand: ByHand, make: Callable[[LoadedModel], PreTrainedModel], mixed: bool
) -> None:
    model, reference = make(tiny()), make(tiny())
    used = {name: rows[name][: 4 if name.startswith("alignment") and mixed else 8] for name in rows}
    if not mixed:
        del used["alignment_benign"]
    expected = definition(reference, used, by_hand)
    metrics = take(model, used, **WEIGHTS, alignment_benign_share=0.5 if mixed else 0.0)
    close(left(model), total(expected))
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: value for name, (value, _) in expected.items()}, rel=1e-10
    )
    assert metrics["loss"] == pytest.approx(
        0.7 * metrics["unlearning"] + 1.3 * metrics["utility"] + 2.1 * metrics["cosine"], rel=1e-12
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alone", ["unlearning", "utility", "cosine"])
def test_each_loss_alone(tiny: Tiny, rows: Rows, by_hand: ByHand, alone: str, way: str) -> None:
    used = {name: rows[name] for name in ("harmful", "alignment", "benign")}
    weights = {"unlearning": "unlearning_weight", "utility": "alpha", "cosine": "beta"}
    settings = dict.fromkeys(weights.values(), 0.0) | {weights[alone]: 1.0, "epsilon": 1e-5}
    model = tiny().model
    take(model, used, **settings, **WAYS[way])
    expected = definition(tiny().model, used, by_hand)[alone][1]
    close(left(model), expected, 1e-3 if (alone, way) == ("cosine", "hessian_free") else 1e-5)


def test_plain_unlearning_is_minus_the_loss(tiny: Tiny, rows: Rows, by_hand: ByHand) -> None:
    used = {name: rows[name] for name in ("harmful", "alignment", "benign")}
    expected = definition(tiny().model, used, by_hand, plain=True)
    for way in WAYS.values():
        model = tiny().model
        metrics = take(model, used, **WEIGHTS, **way, unlearning="plain", epsilon=1e-5)
        close(left(model), total(expected), 1e-3 if way else 1e-10)
        assert metrics["unlearning"] == pytest.approx(expected["unlearning"][0], rel=1e-12)


def test_fewer_hidden_states_can_be_drawn(tiny: Tiny, rows: Rows) -> None:
    torch.manual_seed(0)
    model = tiny().model
    found = {take(model, rows, unlearning_layers=1)["unlearning"] for _ in range(12)}
    expected = losses_of_layers(tiny().model, rows["harmful"])
    assert sorted(found) == pytest.approx(sorted((-expected.log1p()).tolist()), rel=1e-9)


def test_metrics_are_what_they_are_called(tiny: Tiny, rows: Rows, by_hand: ByHand) -> None:
    metrics = take(tiny().model, rows)
    for name in ("harmful", "benign"):
        reference = tiny().model
        loss = by_hand(reference, rows[name]) / tokens(rows[name])
        loss.backward()
        assert metrics[f"{name}_loss"] == pytest.approx(loss.item(), rel=1e-12)
        assert metrics[f"{name}_norm"] == pytest.approx(left(reference).norm().item(), rel=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance", "epsilon"), [("float64", 1e-8, 1e-3), ("float32", 1e-5, 1.0)])
def test_micro_batches_change_nothing(
    tiny: Tiny, rows: Rows, way: str, dtype: str, tolerance: float, epsilon: float
) -> None:
    """Hessian-free, float32's rounding is divided by epsilon, so that there it is large."""
    settings = {**WEIGHTS, **WAYS[way], "epsilon": epsilon}
    model = tiny(dtype=dtype).model
    expected = take(model, rows, **settings)
    for at_once in (1, 3):
        cut = tiny(dtype=dtype).model
        found = take(cut, rows, **settings, per_device_train_batch_size=at_once)
        close(left(cut), left(model), tolerance)
        assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_alone_gets_gradients(tiny: Tiny, rows: Rows, by_hand: ByHand, way: str) -> None:
    used = {name: rows[name] for name in ("harmful", "alignment", "benign")}
    models = []
    for _ in range(2):
        model = tiny().model
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(2)
        for parameter in parameters(model):  # an adapter's second matrix starts at zero, and hides the first
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        models.append(model)
    take(models[0], used, **WEIGHTS, **WAYS[way], epsilon=1e-5)
    close(left(models[0]), total(definition(models[1], used, by_hand)), 1e-3 if WAYS[way] else 1e-10)
    assert {name for name, p in models[0].named_parameters() if p.grad is not None} == {
        name for name, _ in models[0].named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("way", WAYS)
def test_recomputed_activations_give_the_same_gradient(tiny: Tiny, rows: Rows, way: str) -> None:
    counts, found = [], []
    for recompute in (False, True):
        model, layer = tiny().model.train(), Counter[str]()
        if recompute:
            model.activation_checkpointing_enable()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=layer: seen.update(["pass"]))
        take(model, rows, **WEIGHTS, **WAYS[way], per_device_train_batch_size=3)
        counts.append(layer["pass"])
        found.append(left(model))
    assert counts[1] > counts[0]
    close(found[1], found[0], 1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_bfloat16_weights(tiny: Tiny, rows: Rows, by_hand: ByHand, way: str) -> None:
    used = {name: rows[name] for name in ("harmful", "alignment", "benign")}
    model = tiny(dtype="bfloat16").model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    expected = definition(copy.deepcopy(model).double(), used, by_hand)["cosine"][1]
    take(model, used, alpha=0.0, unlearning_weight=0.0, beta=1.0, **WAYS[way], per_device_train_batch_size=3)
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p, old) and p.dtype == old.dtype for p, old in zip(parameters(model), before, strict=True))
    assert torch.cosine_similarity(left(model), expected, dim=0) > 0.98
    assert left(model).norm() / expected.norm() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("way", ["exact", "central"])
def test_bfloat16_autocast(tiny: Tiny, rows: Rows, by_hand: ByHand, way: str) -> None:
    """A shift has to be wide for bfloat16 to show it."""
    used = {name: rows[name] for name in ("harmful", "alignment", "benign")}
    model, settings = tiny(dtype="float32").model, {**WAYS[way], "epsilon": 0.03}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        take(model, used, alpha=0.0, unlearning_weight=0.0, beta=1.0, **settings, per_device_train_batch_size=3)
    expected = definition(tiny().model, used, by_hand)["cosine"][1]
    assert torch.cosine_similarity(left(model), expected, dim=0) > 0.98


@pytest.mark.parametrize(("way", "passes"), [("exact", (1, 1, 1)), ("hessian_free", (2, 2, 1)), ("central", (3, 3, 1))])
def test_a_step_runs_the_model_no_more_often_than_it_says(
    tiny: Tiny, rows: Rows, way: str, passes: tuple[int, int, int]
) -> None:
    model, seen = tiny().model, Counter[int]()
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _inputs, named: seen.update([named["input_ids"].numel()]), with_kwargs=True
    )
    used = {"harmful": rows["harmful"][:2], "benign": rows["benign"][:3], "alignment": rows["alignment"][:1]}
    take(model, used, **WAYS[way])
    # No pass has padding, so that the number of tokens tells which batch it is.
    tokens = [sum(len(row.input_ids) for row in used[stream]) for stream in ("harmful", "benign", "alignment")]
    assert len(set(tokens)) == 3
    assert tuple(seen[number] for number in tokens) == passes
    assert seen.total() == sum(passes)


class Broken(RuntimeError):
    """What a model raises in the middle of a step."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_breaks_keeps_its_weights_their_type_and_its_gradients(
    tiny: Tiny, rows: Rows, way: str, dtype: str
) -> None:
    whole = tiny(dtype=dtype).model
    counted: list[int] = []
    whole.model.norm.register_forward_pre_hook(lambda *_: counted.append(1))
    take(whole, rows, **WAYS[way])
    for fail_at in range(1, len(counted) + 1):
        model, calls = tiny(dtype=dtype).model, iter(range(1, fail_at + 1))

        def fail(*_: object, calls: Any = calls, fail_at: int = fail_at) -> None:
            if next(calls) == fail_at:
                raise Broken

        model.model.norm.register_forward_pre_hook(fail)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(Broken):
            take(model, rows, **WAYS[way])
        assert all(torch.equal(t, before[n]) and t.dtype == before[n].dtype for n, t in model.state_dict().items())
        assert {parameter.grad.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        assert fail_at > 1 or all(parameter.grad.eq(1).all() for parameter in model.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("value", "norm"), [(0.0, "0.0"), (torch.nan, "nan")])
def test_a_gradient_without_direction_stops_the_step(tiny: Tiny, rows: Rows, way: str, value: float, norm: str) -> None:
    model = tiny().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        take(model, rows, **WAYS[way])
    assert str(caught.value) == (
        f"harmful gradient norm: {norm}, so it has no direction; stopped before the weights changed"
    )
    assert all(p.isnan().all() if value else not p.any() for p in model.parameters())


class Failing(SEAM):
    """SEAM whose model's weights all become zero before its third step."""

    def start(self, model: PreTrainedModel) -> Step:
        step, numbers = super().start(model), iter(range(3))

        def failing(draw: Draw) -> Metrics:
            if next(numbers) == 2:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.zero_()
            return step(draw)

        return failing


def test_the_last_checkpoint_survives_a_step_that_stops(tiny: Tiny, tmp_path: Path) -> None:
    gathered = Gathered({name: sources.load(SPECS[name])[:8] for name in ("harmful", "alignment", "benign")})
    with pytest.raises(NonFiniteError, match=r"^harmful gradient norm"):
        harden(Failing(max_steps=5), tiny(), gathered, tmp_path, title="hardening", save_steps=1)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert Path(checkpoint).name == "checkpoint-2"
