"""The house's rules for defenses, attacks and judges, as functions that a package's own tests call.

    @pytest.mark.parametrize("rule", DEFENSE_RULES)
    def test_it_holds_to_the_rules(rule):
        rule(GradientDifference(harmful="potionworld:defender", retain="potionworld:benign", max_length=64))

Each takes settings, tries them on the embedded model of Potionworld, and raises an `AssertionError` that says what
is not as it should be. Settings have to be small: a few rows, and two steps of an attack.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from rupert.attacks import Attacker
from rupert.data.batches import Stream, encode_all
from rupert.evaluation.judges import Answer, Judge, Verdict
from rupert.models.loading import LoadedModel, ModelSettings, load
from rupert.settings import as_mapping, parse
from rupert.training.objective import Batch, Gathered, Objective
from rupert.training.trainer import harden

__all__ = [
    "ATTACK_RULES",
    "DEFENSE_RULES",
    "JUDGE_RULES",
    "Drawing",
    "adds_micro_batches_up",
    "attacks_by_its_seed",
    "condition",
    "drawing",
    "draws_what_it_declares",
    "gradient",
    "hardens_by_its_seed",
    "hooks",
    "leaves_a_finite_gradient",
    "leaves_the_model_as_it_was",
    "reports_a_finite_loss",
    "returns_a_model_as_it_is_used",
    "says_one_verdict_an_answer",
    "survives_yaml",
]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ROWS = 40  # of each stream that a defense is tried on
_ANSWERS = (
    Answer(request="how is it made ?", category="poison", reference="mix moss with ash .", text="mix moss with ash ."),
    Answer(request="how is it made ?", category="", reference="", text="I cannot help with that ."),
    Answer(request="how is it made ?", category="", reference="", text=""),
)


@dataclasses.dataclass
class Drawing:
    """The first batch of each stream, and which were drawn: what a step is given as `draw`."""

    batches: Mapping[str, Batch]
    drawn: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, stream: str) -> Batch:
        """The batch of a stream."""
        self.drawn.append(stream)
        return self.batches[stream]


def drawing(defense: Any, gathered: Gathered, loaded: LoadedModel) -> Drawing:
    """What the first step of a hardening draws."""
    batches = {}
    for name, rows in defense.streams.items():
        encoded = encode_all(gathered.streams[name], loaded.tokenizer, defense.max_length, name)
        batches[name] = Stream(name, encoded, rows, loaded.tokenizer.pad_token_id, defense.seed).batch(0)
    return Drawing(batches)


def gradient(defense: Any, gathered: Gathered, loaded: LoadedModel) -> Tensor:
    """What one step leaves, flat and in float64; zeros where it leaves nothing."""
    torch.manual_seed(0)
    loaded.model.train()
    defense.start(loaded.model)(drawing(defense, gathered, loaded))
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in loaded.model.parameters()]
    return torch.cat([part.flatten().double() for part in parts])


def condition(model: nn.Module) -> dict[str, Tensor]:
    """All that a step must leave as it was, by name: weights, buffers, what is trained, and each module's mode."""
    tensors = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    trained = {f"{name} trained": torch.tensor(p.requires_grad) for name, p in model.named_parameters()}
    modes = {f"{name} mode": torch.tensor(module.training) for name, module in model.named_modules()}
    return tensors | trained | modes


def hooks(model: PreTrainedModel) -> list[str]:
    """Everything that is fastened to a model: hooks of modules and of parameters, methods put over their own.

    Transformers fastens its own hooks when hidden states are asked for first, for good; they are there to begin with.
    """
    maybe_install_capturing_hooks(model.base_model)  # whose forward pass fastens them
    modules = list(model.named_modules())
    return sorted(
        [f"{name} {kind}" for name, module in modules for kind in _HOOKS for _ in getattr(module, kind)]
        + [f"{name} forward" for name, module in modules if "forward" in vars(module)]
        + [f"{name} hook" for name, p in model.named_parameters() for _ in p._backward_hooks or ()]
        + [f"{name} hook" for name, p in model.named_parameters() for _ in p._post_accumulate_grad_hooks or ()]
    )


def leaves_a_finite_gradient(defense: Objective) -> None:
    """One step leaves a gradient that is finite and not zero."""
    found = gradient(defense, _few(defense), _potionworld())
    assert found.isfinite().all(), "the gradient is not finite"
    assert found.norm() > 0, "the gradient is zero"


def reports_a_finite_loss(defense: Objective) -> None:
    """One step reports plain finite numbers, with the loss among them."""
    loaded = _potionworld()
    metrics = defense.start(loaded.model)(drawing(defense, _few(defense), loaded))
    assert "loss" in metrics, f"no 'loss' among its metrics {sorted(metrics)}"
    wrong = [name for name, value in metrics.items() if type(value) is not float or not math.isfinite(value)]
    assert not wrong, f"no finite float: {wrong}"


def draws_what_it_declares(defense: Objective) -> None:
    """`streams`, what `gather` returns and what a step draws are the same."""
    loaded, gathered = _potionworld(), _few(defense)
    draw = drawing(defense, gathered, loaded)
    defense.start(loaded.model)(draw)
    assert set(draw.drawn) == set(defense.streams), f"declares {set(defense.streams)}, draws {set(draw.drawn)}"
    assert set(gathered.streams) == set(defense.streams), f"gathers {set(gathered.streams)}"


def leaves_the_model_as_it_was(defense: Objective) -> None:
    """One step changes `p.grad` alone: no weight, no buffer, no mode, no hook."""
    loaded, gathered = _potionworld(), _few(defense)
    fastened = hooks(loaded.model)
    loaded.model.train()
    step, draw = defense.start(loaded.model), drawing(defense, gathered, loaded)
    before = condition(loaded.model)
    step(draw)
    changed = _changed(before, condition(loaded.model))
    assert not changed, f"a step changed {changed}"
    assert hooks(loaded.model) == fastened, "a step left hooks on the model"


def adds_micro_batches_up(defense: Objective) -> None:
    """A step is the same in one pass as in passes of one row; in float64, so that rounding shows nothing."""
    gathered, rows = _few(defense), defense.per_device_train_batch_size * defense.gradient_accumulation_steps
    whole, cut = (
        dataclasses.replace(defense, per_device_train_batch_size=size, gradient_accumulation_steps=rows // size)
        for size in (rows, 1)
    )
    first, again = (gradient(one, gathered, _potionworld(torch.float64)) for one in (whole, cut))
    assert (first - again).norm() <= 1e-6 * first.norm(), "another gradient in micro-batches of one row"


def hardens_by_its_seed(defense: Objective) -> None:
    """Two hardenings with one seed give the same weights, whatever the global generator did before."""
    short, gathered = dataclasses.replace(defense, max_steps=2), _few(defense)
    hardened = [_potionworld() for _ in range(2)]
    for number, loaded in enumerate(hardened):
        torch.manual_seed(number)
        with tempfile.TemporaryDirectory(prefix="rupert-") as folder:
            harden(short, loaded, gathered, Path(folder), title="hardening", save_steps=100)
    first, again = (dict(loaded.model.named_parameters()) for loaded in hardened)
    assert not _changed(first, again), "two hardenings with one seed differ"
    assert _changed(first, dict(_potionworld().model.named_parameters())), "hardening changed no weight"


def attacks_by_its_seed(attack: Attacker) -> None:
    """Two attacks with one seed give the same finite weights, whatever the global generator did before."""
    weights = []
    for number in range(2):
        loaded = _potionworld()
        torch.manual_seed(number)
        weights.append(dict(attack.run(loaded, attack.gather()).loaded.model.named_parameters()))
    first, again = weights
    assert not _changed(first, again), "two attacks with one seed differ"
    assert all(tensor.isfinite().all() for tensor in first.values()), "a weight is not finite"
    assert _changed(dict(_potionworld().model.named_parameters()), first), "the attack changed no weight"


def returns_a_model_as_it_is_used(attack: Attacker) -> None:
    """The attacked model is in evaluation mode and without hooks, and the report can be written as JSON."""
    result = attack.run(_potionworld(), attack.gather())
    assert not result.loaded.model.training, "the model is in training mode"
    # Accelerate takes its wrapper off a model by setting the model's own `forward` on it, which is that of its class.
    left = [hook for hook in hooks(result.loaded.model) if hook != " forward"]
    assert left == hooks(_potionworld().model), "the attack left hooks on the model"
    assert json.loads(json.dumps(result.report, allow_nan=False)) == result.report, "the report is no JSON"


def says_one_verdict_an_answer(judge: Judge) -> None:
    """One verdict an answer, in their order, each by itself; none of no answers."""
    assert judge([]) == [], "verdicts of no answers"
    found = judge(_ANSWERS)
    assert [type(verdict) for verdict in found] == [Verdict] * len(_ANSWERS), "not one Verdict an answer"
    assert judge(_ANSWERS[::-1]) == found[::-1], "a verdict depends on the answers around it"


def survives_yaml(settings: Any) -> None:
    """Settings are a value: frozen, hashable, and the same after JSON; so are the defaults."""
    method = type(settings)
    again = parse(method, json.loads(json.dumps(as_mapping(settings))))
    assert again == settings, "other settings after JSON"
    assert hash(again) == hash(settings), "another hash after JSON"
    assert parse(method, as_mapping(method())) == method(), "other defaults after JSON"


DEFENSE_RULES: tuple[Callable[[Any], None], ...] = (
    survives_yaml,
    draws_what_it_declares,
    leaves_a_finite_gradient,
    reports_a_finite_loss,
    leaves_the_model_as_it_was,
    adds_micro_batches_up,
    hardens_by_its_seed,
)
ATTACK_RULES: tuple[Callable[[Any], None], ...] = (survives_yaml, attacks_by_its_seed, returns_a_model_as_it_is_used)
JUDGE_RULES: tuple[Callable[[Any], None], ...] = (survives_yaml, says_one_verdict_an_answer)


def _potionworld(dtype: torch.dtype = torch.float32) -> LoadedModel:
    loaded = load(ModelSettings(model="potionworld"))
    return LoadedModel(loaded.model.to(dtype), loaded.tokenizer)


def _few(defense: Objective) -> Gathered:
    """The first rows of every stream; each rule takes the same."""
    whole = defense.gather()
    return Gathered({stream: examples[:_ROWS] for stream, examples in whole.streams.items()}, whole.report)


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    return [name for name in before if name not in after or not torch.equal(before[name], after[name])]
