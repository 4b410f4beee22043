"""RepNoise: its gradient against the formula in float64, which tokens it takes, and what it does in every cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from rupert.data import sources
from rupert.data.batches import IGNORED, Encoded, collate, encode
from rupert.defenses import RepNoise, repnoise
from rupert.errors import DataError, InvalidValue
from rupert.models.loading import LoadedModel
from rupert.training.objective import Metrics
from rupert.training.representations import differing

Tiny = Callable[..., LoadedModel]
ByHand = Callable[..., Tensor]
Rows = Mapping[str, Sequence[Encoded]]

WEIGHTS = {"alpha": 0.7, "beta": 1.9}
SPECS = {
    "harmful": "potionworld:defender",
    "alignment": "potionworld:refusals",
    "benign": "potionworld:benign",
}
LONGEST, WIDTH, LAYERS = 64, 16, 2
NOISE = torch.randn(LAYERS, 8, LONGEST, WIDTH, generator=torch.Generator().manual_seed(9))

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Rows:
    """Eight rows of each stream, of many lengths; harmful and alignment rows are pairs, some with words in common."""
    tokenizer = tiny().tokenizer
    found = {
        name: [encode(example, tokenizer, 64) for example in sources.load(spec)[::41][:8]]
        for name, spec in SPECS.items()
    }
    for number, row in enumerate(found["alignment"][:4]):
        place = next(i for i, label in enumerate(row.labels) if label != IGNORED) + number
        row.input_ids[place] = row.labels[place] = found["harmful"][number].input_ids[place]
    # Of other lengths than Potionworld's recipes have.
    found["harmful"] = [
        Encoded(row.input_ids[: len(row.input_ids) - cut], row.labels[: len(row.labels) - cut])
        for cut, row in enumerate(found["harmful"])
    ]
    return found


@pytest.fixture(scope="module")
def pairs(rows: Rows) -> Rows:
    return {name: rows[name] for name in ("harmful", "alignment")}


class FixedNoise:
    """`NOISE` in place of `RowNoise`: for a row's tokens in their order, the first numbers of it."""

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self._rows = rows.unique_consecutive(return_counts=True)
        self._layers = iter(NOISE)

    def draw(self, width: int) -> Tensor:
        noise = next(self._layers)
        return torch.cat([noise[row, :count] for row, count in zip(*self._rows, strict=True)])


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repnoise, "RowNoise", FixedNoise)


def parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


def left(model: torch.nn.Module) -> Tensor:
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters(model)])


def take(model: PreTrainedModel, rows: Rows, *, pad: int = 0, wider: int = 0, **settings: Any) -> Metrics:
    """One step on given rows, all in one micro-batch unless said; batches are `wider` columns wider than they need."""
    batches = {name: collate(encoded, pad) for name, encoded in rows.items()}
    filling = {"input_ids": pad, "attention_mask": 0, "labels": IGNORED}
    for batch in batches.values():
        batch |= {key: torch.nn.functional.pad(batch[key], (0, wider), value=filling[key]) for key in filling}
    mixed = {"benign": "given", "benign_share": len(rows["benign"]) / 8} if "benign" in rows else {}
    defense = RepNoise(**{"per_device_train_batch_size": 8} | mixed | settings)
    return defense.start(model)(batches.__getitem__)


def tokens(rows: Sequence[Encoded]) -> int:
    return sum(label != IGNORED for row in rows for label in row.labels)


def seen(model: PreTrainedModel, row: Encoded) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """The hidden states of one row, and the MLPs' outputs."""
    outputs: list[Tensor] = []
    handles = [
        layer.mlp.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
        for layer in model.model.layers
    ]
    hidden = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return hidden, outputs


def losses_of_layers(model: PreTrainedModel, rows: Sequence[Encoded]) -> Tensor:
    """ℓ_k of every hidden state: one row at a time, all logits, and the last state not normed again."""
    totals = []
    for row in rows:
        hidden, _ = seen(model, row)
        normed = [*(model.model.norm(states) for states in hidden[:-1]), hidden[-1]]
        predictions = torch.stack([model.lm_head(states)[0].log_softmax(dim=-1) for states in normed])
        totals += [-predictions[:, place, token] for place, token in enumerate(row.labels[1:]) if token != IGNORED]
    return torch.stack(totals).sum(dim=0) / tokens(rows)


def lines(model: PreTrainedModel, row: Encoded, pair: Encoded | None, number: int) -> list[tuple[Tensor, Tensor]]:
    """For each layer, a row's MLP outputs and the noise, where its answer is not its pair's; zeros elsewhere."""
    answer = [i for i, label in enumerate(row.labels) if label != IGNORED]
    others = dict(enumerate(pair.input_ids)) if pair else {}
    places = [i for i in answer if others.get(i) != row.input_ids[i]]
    found = []
    for output, noise in zip(seen(model, row)[1], NOISE, strict=True):
        blank, epsilon = torch.zeros(2, LONGEST, WIDTH, dtype=torch.float64)
        z = blank.index_put((torch.tensor(places),), output[places])
        epsilon[places] = noise[number, : len(places)].double()
        found.append((z.flatten(), epsilon.flatten()))
    return found


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """From the definition: the published kernel, with its five widths about the mean square distance."""
    points = torch.cat([one, other])
    squares = ((points[:, None] - points) ** 2).sum(dim=2)
    width = squares.detach().sum() / (len(points) ** 2 - len(points)) / 4
    kernel = sum(torch.exp(-squares / (width * 2**power)) for power in range(5))
    assert isinstance(kernel, Tensor)
    signs = torch.tensor([1.0] * len(one) + [-1.0] * len(other), dtype=one.dtype)
    return signs @ kernel @ signs / len(one) ** 2


def noise_loss(model: PreTrainedModel, rows: Rows) -> Tensor:
    pairs = [*rows["alignment"], *[None] * 8]
    found = [lines(model, row, pair, n) for n, (row, pair) in enumerate(zip(rows["harmful"], pairs, strict=False))]
    return torch.stack(
        [discrepancy(*(torch.stack(side) for side in zip(*layer, strict=True))) for layer in zip(*found, strict=True)]
    ).mean()


def definition(model: PreTrainedModel, rows: Rows, by_hand: ByHand) -> dict[str, tuple[float, Tensor]]:
    """Value and gradient of each of the three losses, by autograd from how they are written."""
    together = [row for name in ("alignment", "benign") for row in rows.get(name, ())]
    losses = {
        "utility": by_hand(model, together) / tokens(together),
        "noise": noise_loss(model, rows),
        "unlearning": -torch.log(1 + losses_of_layers(model, rows["harmful"]).mean()),
    }
    over = parameters(model)
    return {
        name: (loss.item(), flat(torch.autograd.grad(loss, over, materialize_grads=True)))
        for name, loss in losses.items()
    }


def total(parts: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    return parts["utility"][1] + WEIGHTS["beta"] * parts["noise"][1] + WEIGHTS["alpha"] * parts["unlearning"][1]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


def untied(model: PreTrainedModel) -> PreTrainedModel:
    config = model.config
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    return LlamaForCausalLM(config).double().eval()


@pytest.mark.usefixtures("fixed_noise")
@pytest.mark.parametrize("make", [lambda model: model, untied], ids=["tied", "untied"])
@pytest.mark.parametrize("mixed", [0, 3])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_one_step_is_the_formula(
    tiny: Tiny, rows: Rows, by_hand: ByHand, make: Callable[[Any], PreTrainedModel], mixed: int, at_once: int
) -> None:
    used = {"harmful": rows["harmful"], "alignment": rows["alignment"][: 8 - mixed]}
    used |= {"benign": rows["benign"][:mixed]} if mixed else {}
    model, expected = make(tiny().model), definition(make(tiny().model), used, by_hand)
    metrics = take(model, used, **WEIGHTS, per_device_train_batch_size=at_once, gradient_accumulation_steps=8)
    close(left(model), total(expected))
    assert {name: metrics[name] for name in expected} == pytest.approx({n: v for n, (v, _) in expected.items()})
    assert metrics["loss"] == pytest.approx(
        metrics["utility"] + 1.9 * metrics["noise"] + 0.7 * metrics["unlearning"], rel=1e-12
    )


@pytest.mark.usefixtures("fixed_noise")
@pytest.mark.parametrize("at_once", [3, 8])
@pytest.mark.parametrize("alone", ["noise", "unlearning"])
def test_without_one_of_the_losses(tiny: Tiny, pairs: Rows, by_hand: ByHand, alone: str, at_once: int) -> None:
    model, expected = tiny().model, definition(tiny().model, pairs, by_hand)
    weight = {"noise": "beta", "unlearning": "alpha"}[alone]
    metrics = take(model, pairs, **{"alpha": 0.0, "beta": 0.0, weight: 3.0}, per_device_train_batch_size=at_once)
    close(left(model), expected["utility"][1] + 3 * expected[alone][1])
    assert metrics.keys() == {"loss", "utility", alone}
    assert metrics["loss"] == pytest.approx(expected["utility"][0] + 3 * expected[alone][0])


def test_fewer_hidden_states_can_be_drawn(tiny: Tiny, pairs: Rows) -> None:
    torch.manual_seed(0)
    model = tiny().model
    found = {take(model, pairs, unlearning_layers=1)["unlearning"] for _ in range(12)}
    expected = losses_of_layers(tiny().model, pairs["harmful"])
    assert sorted(found) == pytest.approx(sorted((-expected.log1p()).tolist()), rel=1e-9)


def test_without_both_it_is_fine_tuning_on_refusals(tiny: Tiny, pairs: Rows, by_hand: ByHand) -> None:
    model, reference = tiny().model, tiny().model
    take(model, pairs, alpha=0.0, beta=0.0)
    (by_hand(reference, pairs["alignment"]) / tokens(pairs["alignment"])).backward()
    close(left(model), left(reference))


@pytest.mark.usefixtures("fixed_noise")
@pytest.mark.parametrize("at_once", [3, 8])
def test_an_adapter_alone_gets_gradients(tiny: Tiny, pairs: Rows, by_hand: ByHand, at_once: int) -> None:
    models = []
    for _ in range(2):
        model = tiny().model
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(2)
        for parameter in parameters(model):  # an adapter's second matrix starts at zero, and hides the first
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        models.append(model)
    take(models[0], pairs, **WEIGHTS, per_device_train_batch_size=at_once)
    close(left(models[0]), total(definition(models[1], pairs, by_hand)))
    assert {name for name, p in models[0].named_parameters() if p.grad is not None} == {
        name for name, _ in models[0].named_parameters() if "lora_" in name
    }


def step(model: PreTrainedModel, pairs: Rows, **settings: Any) -> Tensor:
    """The gradient of a step whose noise is drawn."""
    torch.manual_seed(3)
    take(model, pairs, **WEIGHTS, **settings)
    return left(model)


@pytest.mark.parametrize("padded", [False, True])
def test_padding_changes_nothing(tiny: Tiny, pairs: Rows, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = step(tiny().model, pairs)
    if padded:
        monkeypatch.setattr("rupert.models.packing.REPLACED", ())
    last = pairs["harmful"][0].input_ids[-1]
    for settings in ({"pad": last}, {"wider": 3}, {"wider": 3, "per_device_train_batch_size": 3}):
        close(step(tiny().model, pairs, **settings), expected)


def test_noise_is_drawn_anew_and_by_the_seed(tiny: Tiny, pairs: Rows) -> None:
    model = tiny().model
    torch.manual_seed(3)
    first, second = (take(model, pairs)["noise"] for _ in range(2))
    torch.manual_seed(3)
    assert take(model, pairs)["noise"] == first != second


def test_recomputed_activations_give_the_same_gradient(tiny: Tiny, pairs: Rows) -> None:
    plain, recomputing = tiny().model.train(), tiny().model.train()
    recomputing.activation_checkpointing_enable()
    expected = step(plain, pairs, per_device_train_batch_size=3)
    close(step(recomputing, pairs, per_device_train_batch_size=3), expected)


def test_a_pass_that_is_run_again_drops_out_the_same(tiny: Tiny, pairs: Rows) -> None:
    model, outputs = tiny(dropout=0.5).model.train(), []
    model.model.layers[-1].mlp.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    step(model, pairs, per_device_train_batch_size=2)
    first, again = outputs[:4], outputs[4:7]
    assert len(outputs) == 4 + 3 + 4
    assert all(torch.equal(a, b) for a, b in zip(first[:3], reversed(again), strict=True))


def test_autocast_reaches_the_weights_of_passes_that_are_run_again(tiny: Tiny, pairs: Rows) -> None:
    expected = step(tiny().model, pairs)
    model = tiny(dtype="float32").model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(model, pairs, per_device_train_batch_size=1)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99
    assert found.norm() / expected.norm() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("at_once", [3, 8])
def test_bfloat16_weights(tiny: Tiny, pairs: Rows, at_once: int) -> None:
    model = tiny(dtype="bfloat16").model
    found = step(model, pairs, per_device_train_batch_size=at_once)
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.cosine_similarity(found, step(tiny().model, pairs), dim=0) > 0.98


def test_tokens_that_differ_by_hand() -> None:
    """Prompts, padding and what both have in a place are left out; token 0 is a token, and padding is none."""
    harmful = collate([Encoded([5, 6, 0, 8, 9], [-100, -100, 0, 8, 9]), Encoded([5, 7, 0], [-100, -100, 0])], 0)
    alignment = collate([Encoded([5, 1, 3, 8], [-100, -100, 3, 8]), Encoded([5, 7], [-100, 7])], 0)
    assert differing(harmful, alignment).tolist() == [
        [False, False, True, False, True],
        [False, False, True, False, False],
    ]
    longer = collate([Encoded([5, 6, 0, 4, 9, 1, 1], [-100, -100, 0, 4, 9, 1, 1])], 0)
    assert differing(harmful, longer).tolist() == [
        [False, False, False, True, False],
        [False, False, True, False, False],
    ]


def test_rows_without_a_token_that_differs_add_no_noise(tiny: Tiny, pairs: Rows) -> None:
    model = tiny().model
    metrics = take(model, {"harmful": pairs["harmful"], "alignment": pairs["harmful"]})
    assert metrics["noise"] == 0
    assert left(model).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha: -1.0 is not valid; must be 0 or above"),
        ({"beta": -1.0}, "beta: -1.0 is not valid; must be 0 or above"),
        ({"unlearning_layers": 0}, "unlearning_layers: 0 is not valid; must be above 0"),
        ({"kernels": 0}, "kernels: 0 is not valid; must be above 0"),
        ({"kernel_factor": 0.0}, "kernel_factor: 0.0 is not valid; must be above 0"),
        ({"benign_share": 0.5}, "benign_share: 0.5 is not valid; name the dataset with `benign`"),
        ({"benign": "lima", "benign_share": 0.9}, "benign_share: 0.9 is not valid; leave rows of both kinds in 4"),
    ],
)
def test_a_wrong_setting_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        RepNoise(**settings)
    assert str(caught.value) == message


def test_too_few_rows_are_one_line() -> None:
    streams = {"harmful": "potionworld:defender", "alignment": "potionworld:refusals"}
    with pytest.raises(DataError, match=r"^harmful: potionworld:defender"):
        RepNoise(**streams, per_device_train_batch_size=1000).gather()
