"""Within `packing`, a model computes what it does of padded rows, of each row alone, and no padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rupert.data.batches import IGNORED, Encoded, collate
from rupert.defenses import SEAM
from rupert.models import packing as module
from rupert.models.attention import twice_differentiable
from rupert.models.packing import PACKED, Rows, is_packing, packed, packing

WORDS = 29
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # wide, so that attention prefers some tokens clearly
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama grouped, tied": lambda: LlamaConfig(**SIZES | GROUPED | {"tie_word_embeddings": True}),
    "qwen2": lambda: Qwen2Config(**SIZES | GROUPED),
    "qwen3": lambda: Qwen3Config(**SIZES | GROUPED, head_dim=6),
}
LENGTHS = {"of many lengths": (3, 17, 1, 8), "one alone": (7,), "of one length": (5, 5, 5)}

pytestmark = pytest.mark.usefixtures("float64_norm")


def make(config: PreTrainedConfig, implementation: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero, and norms at one
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Rows of random words, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[column < length for column in range(max(lengths))] for length in lengths]).long()
    return {"input_ids": torch.randint(1, WORDS, mask.shape, generator=generator) * mask, "attention_mask": mask}


def padded_states(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The states of all layers at real tokens, [layers, tokens, width], of the batch with its padding."""
    hidden = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([states[inputs["attention_mask"].bool()] for states in hidden])


def packed_states(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The same, within `packing`."""
    with packing(model):
        assert is_packing(model)
        hidden = model(**packed(**inputs), use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([states.squeeze(0) for states in hidden])


def loss_of(states: Tensor) -> Tensor:
    """A scalar to which every token and layer adds a share of its own."""
    weights = torch.linspace(0.5, 1.5, states.numel(), dtype=states.dtype).reshape(states.shape)
    return (weights * states.tanh()).sum()


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def gradient(model: PreTrainedModel, loss: Tensor, **named: Any) -> Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True, **named)
    return flat(found)


def along_itself(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The gradient, and the Hessian times a fixed vector."""
    first = gradient(model, loss_of(states), create_graph=True)
    vector = torch.randn(first.shape, generator=torch.Generator().manual_seed(2), dtype=first.dtype)
    return torch.stack([first.detach(), gradient(model, first @ vector)])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_states_and_gradients_are_those_of_padded_rows(
    config: Callable[[], PreTrainedConfig], lengths: Sequence[int]
) -> None:
    model, inputs = make(config()), batch(lengths)
    expected, found = padded_states(model, inputs), packed_states(model, inputs)
    assert expected.shape == (3, sum(lengths), 16)
    close(found, expected)
    close(gradient(model, loss_of(found)), gradient(model, loss_of(expected)))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_hessian_times_a_vector_is_that_of_padded_rows(
    config: Callable[[], PreTrainedConfig], lengths: Sequence[int]
) -> None:
    model, inputs = make(config()), batch(lengths)
    with sdpa_kernel(SDPBackend.MATH):
        expected = along_itself(model, padded_states(model, inputs))
    with packing(model), twice_differentiable(model):
        found = along_itself(model, packed_states(model, inputs))
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def test_eager_attention_is_replaced_too() -> None:
    """Eager attention takes its softmax in float32."""
    model, inputs = make(CONFIGS["qwen3"](), "eager"), batch((3, 17, 1, 8))
    close(packed_states(model, inputs), padded_states(model, inputs), 1e-5)


def test_a_layers_own_scale_of_logits_is_used() -> None:
    model, inputs = make(CONFIGS["llama"]()), batch((3, 9))
    before = packed_states(model, inputs)
    model.model.layers[0].self_attn.scaling *= 2
    close(packed_states(model, inputs), padded_states(model, inputs))
    assert not torch.equal(packed_states(model, inputs), before)


@pytest.mark.parametrize("changed", range(4))
def test_no_row_hears_of_another(changed: int) -> None:
    lengths = (3, 9, 1, 6)
    model, inputs = make(CONFIGS["qwen3"]()), batch(lengths)
    other = inputs["input_ids"].clone()
    other[changed] = (other[changed] % (WORDS - 1) + 1) * inputs["attention_mask"][changed]  # every word another
    before, after = packed_states(model, inputs), packed_states(model, inputs | {"input_ids": other})
    for row, (one, two) in enumerate(zip(before.split(lengths, 1), after.split(lengths, 1), strict=True)):
        assert torch.equal(one, two) is (row != changed)


def test_no_row_depends_on_which_others_there_are() -> None:
    model, lengths = make(CONFIGS["llama grouped, tied"]()), (3, 9, 1, 6)
    inputs = batch(lengths)
    for row, states in enumerate(packed_states(model, inputs).split(lengths, 1)):
        alone = {name: tensor[row : row + 1, : lengths[row]] for name, tensor in inputs.items()}
        close(states, padded_states(model, alone))


def test_rows_by_hand() -> None:
    """Rows of two tokens and of three: 0 1 · / 2 3 4 side by side, 0 1 2 3 4 end to end."""
    rows = Rows.of(torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert rows.shape == (2, 3)
    assert rows.real.tolist() == [0, 1, 3, 4, 5]
    assert rows.positions.tolist() == [0, 1, 0, 1, 2]
    kept = rows.spread[rows.real]
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert 0 <= int(rows.spread[2]) < 5  # padding: any token
    tokens = torch.arange(10.0).reshape(1, 1, 5, 2) + torch.tensor([0.0, 100.0]).reshape(1, 2, 1, 1)  # two heads
    apart = rows.apart(tokens)
    assert apart.shape == (2, 2, 3, 2)
    assert apart[0, 0, :2].tolist() == [[0, 1], [2, 3]]
    assert apart[1, 0].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert apart[0, 1, :2].tolist() == [[100, 101], [102, 103]]
    assert apart[1, 1].tolist() == [[104, 105], [106, 107], [108, 109]]
    assert torch.equal(rows.together(apart), tokens.transpose(1, 2))


def test_packed_by_hand() -> None:
    found = packed(torch.tensor([[7, 8, 0], [9, 10, 11]]), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert found["input_ids"].tolist() == [[7, 8, 9, 10, 11]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert set(found) == {"input_ids", "position_ids", "rows"}


def test_nothing_is_padded() -> None:
    model, inputs = make(CONFIGS["llama"]()), batch((3, 17, 1, 8))
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].numel()))
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    packed_states(model, inputs)
    assert seen == [3 + 17 + 1 + 8] * 3
    padded_states(model, inputs)
    assert seen[3:] == [4 * 17] * 3


def sliding() -> PreTrainedConfig:
    """The second layer sees the last three tokens alone."""
    return Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1)


def gpt2() -> PreTrainedConfig:
    return GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=64, pad_token_id=0)


@pytest.mark.parametrize("config", [gpt2, sliding])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_other_architectures_are_left_alone(config: Callable[[], PreTrainedConfig], implementation: str) -> None:
    model, inputs = make(config(), implementation), batch((3, 9))
    expected = padded_states(model, inputs)
    with packing(model):
        assert not is_packing(model)
        assert model.config._attn_implementation == implementation
        assert torch.equal(padded_states(model, inputs), expected)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> str:
    """An implementation that is not of Transformers."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "fused-by-somebody", sdpa_attention_forward)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "fused-by-somebody", sdpa_mask)
    return "fused-by-somebody"


def test_attention_that_the_user_chose_stays(other: str) -> None:
    model = make(CONFIGS["llama"]())
    model.set_attn_implementation(other)
    with packing(model):
        assert not is_packing(model)
        assert model.config._attn_implementation == other
    assert model.config._attn_implementation == other


class Broken(RuntimeError):
    """What is raised in the middle."""


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_what_it_was_it_is_again(implementation: str) -> None:
    model, inputs = make(CONFIGS["llama"](), implementation), batch((3, 9))
    expected = padded_states(model, inputs)
    with packing(model), packing(model):  # the inner one changes nothing
        assert model.config._attn_implementation == PACKED
    assert model.config._attn_implementation == implementation
    with pytest.raises(Broken), packing(model):
        raise Broken
    assert not is_packing(model)
    assert model.config._attn_implementation == implementation
    assert torch.equal(padded_states(model, inputs), expected)


def test_recomputed_activations_give_the_same_gradient() -> None:
    inputs, found, passes = batch((3, 17, 1, 8)), [], []
    for recompute in (False, True):
        model, seen = make(CONFIGS["qwen3"]()).train(), list[int]()
        if recompute:
            model.activation_checkpointing_enable()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        with packing(model):
            loss_of(packed_states(model, inputs)).backward()
        found.append(flat([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]))
        passes.append(len(seen))
    assert passes == [1, 2]
    close(found[1], found[0])


def test_dropout_leaves_out_what_it_does_of_padded_rows() -> None:
    """The random numbers are drawn for the same places side by side."""
    config = LlamaConfig(**SIZES, attention_dropout=0.5)
    model, inputs = make(config), batch((3, 17, 1, 8))
    trained = make(config).train()
    found = []
    with sdpa_kernel(SDPBackend.MATH):
        for states_of in (padded_states, packed_states, packed_states):
            torch.manual_seed(3)
            found.append(states_of(trained, inputs))
    close(found[1], found[0])
    assert torch.equal(found[1], found[2])
    whole = packed_states(model, inputs)
    close(whole, padded_states(model, inputs))
    assert (found[1][-1] - whole[-1]).norm() > 0.1 * whole[-1].norm()


@pytest.mark.parametrize("gradient_of", ["exact", "hessian_free"])
def test_a_step_of_seam_leaves_the_same_gradient(monkeypatch: pytest.MonkeyPatch, gradient_of: Any) -> None:
    generator = torch.Generator().manual_seed(4)

    def rows(lengths: Sequence[int]) -> dict[str, Tensor]:
        tokens = [torch.randint(1, WORDS, (length,), generator=generator).tolist() for length in lengths]
        return collate([Encoded(row, [IGNORED] * 2 + row[2:]) for row in tokens], 0)

    batches = {"harmful": rows((4, 9, 3)), "alignment": rows((5, 4)), "benign": rows((8, 3, 12))}
    defense = SEAM(beta=2.1, gradient=gradient_of, epsilon=1e-3, per_device_train_batch_size=2)
    found, seen = [], []
    for packable in (module.PACKABLE, ()):
        monkeypatch.setattr(module, "PACKABLE", packable)
        model, tokens = make(CONFIGS["llama grouped, tied"]()), list[int]()
        model.get_input_embeddings().register_forward_pre_hook(lambda _, given, to=tokens: to.append(given[0].numel()))
        metrics = defense.start(model)(batches.__getitem__)
        found.append((flat([parameter.grad for parameter in model.parameters()]), metrics))
        seen.append(sum(tokens))
    assert seen[0] < seen[1]
    close(found[0][0], found[1][0], 1e-11 if gradient_of == "exact" else 1e-8)  # rounding is divided by epsilon
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-10)
