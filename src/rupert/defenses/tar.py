"""TAR, tampering attack resistance: simulate attacks while training, and resist at every stage of them.

Tamirisa et al., "Tamper-Resistant Safeguards for Open-Weight LLMs", ICLR 2025, arXiv 2408.00761.

With θ_i the weights after inner step i (from 0) of an attack of K steps that begins at θ, L_TR the tamper-resistance
loss on held-out harmful data (see `training.tamper_resistance`) and L_retain the loss on benign data B:

    gradient of a step = λ_TR Σ_i exp(λ_s (i - (K-1))) ∇L_TR(θ_i) + λ_r ∇L_retain(θ),    i = 3, 7, ..., K-1

The first sum is to first order: a gradient at θ_i is taken as if it were one at θ. A step draws one adversary, harmful
fine-tuning or benign fine-tuning that turns harmful at step M ~ Beta(6, 3) K, and one learning rate, runs K steps of
AdamW, and puts θ back. L_retain is ℓ(B), the mean cross entropy, or that plus the mean squared difference of hidden
states to those of the model that the training began with. In that one harmful hidden states are to be mapped to random
vectors already: `rupert defend random_mapping`, and then `rupert defend tar --model` with its folder.

Work of a step: K attack steps and K/4 passes of L_TR, and one of L_retain, with one more forward pass of the original.
Beside weights and `p.grad` it holds a copy of the trained weights, another of the original's, AdamW's two states and
the attack's gradient. Under FSDP2 all of these are shards. Half-precision weights, which steps of 2e-6 would not move,
are float32 for the time of a step, unless an adapter is trained, which is float32 itself.

Not as in the published code: its losses count padding, its micro-batches weigh the same however few tokens they have,
and an exception leaves the attacked weights behind. It measures hidden states against the model before the random
mapping, by the length of the difference and not its square (which has no direction where both agree, as they do here at
the first step). Its attacks take 4 rows a step, here as many as the losses do; its outer optimizer is a schedule-free
AdamW, here AdamW with the same warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Literal

from transformers import PreTrainedModel

from rupert.data import sources
from rupert.data.batches import permutation
from rupert.data.examples import require
from rupert.errors import InvalidValue
from rupert.settings import check_not_negative, check_positive, check_range, setting
from rupert.training.gradients import backward_answer_cross_entropy, trained
from rupert.training.inner_loop import attacked, dealt, draw_attack, steppable
from rupert.training.objective import Batch, Cost, Draw, Gathered, Metrics, Step
from rupert.training.original import Original
from rupert.training.retention import backward_retained
from rupert.training.settings import Scheduler, TrainingSettings
from rupert.training.tamper_resistance import Backward, entropy_resistance, preference_resistance
from rupert.training.weights import as_they_were


@dataclass(frozen=True, kw_only=True)
class TAR(TrainingSettings):
    """Tampering attack resistance (Tamirisa et al., ICLR 2025): resist at every stage of simulated attacks.

    The defaults are those of the paper's script for biology (run_tar_bio.sh), but for the data, which are SEAM's. For
    refusals (run_tar_dpo.sh) it has tamper_resistance preference, 100 steps at 6e-5, inner_steps 8, resist_every 1,
    tamper_weight 0.1 and no switching adversary.
    """

    harmful: str = setting("beavertails-refusals:unsafe", "dataset of harmful requests with harmful answers")
    alignment: str = setting("beavertails-refusals:refusals", "dataset of refusals, for tamper_resistance preference")
    benign: str = setting(
        "alpaca-cleaned", "dataset of benign pairs, for the retain loss and for switching adversaries"
    )
    held_out_share: float = setting(0.2, "share of the harmful data that no simulated attack sees")
    inner_steps: int = setting(64, "AdamW steps of a simulated attack, K")
    attack_learning_rates: tuple[float, ...] = setting((2e-6, 2e-5, 4e-5), "learning rates of attacks; one is drawn")
    switch_share: float = setting(1 / 3, "share of adversaries that fine-tune on benign rows first")
    switch_alpha: float = setting(6.0, "they turn harmful at step M ~ Beta(alpha, beta) K: alpha")
    switch_beta: float = setting(3.0, "they turn harmful at step M ~ Beta(alpha, beta) K: beta")
    resist_every: int = setting(4, "inner steps from one tamper-resistance gradient to the next")
    schedule_lambda: float = setting(0.0625, "λ_s: how much later inner steps count more")
    tamper_resistance: Literal["entropy", "preference"] = setting(
        "entropy", "tamper-resistance loss: negative entropy, or preference of refusals over harmful answers"
    )
    preference_beta: float = setting(0.1, "β of preference")
    tamper_weight: float = setting(4.0, "weight of the tamper-resistance gradient, λ_TR")
    retain: Literal["representations", "language_model"] = setting(
        "representations", "retain loss: cross entropy with or without the distance of hidden states to the original's"
    )
    retain_weight: float = setting(1.0, "weight of the retain loss, λ_r")
    max_steps: int = setting(750, "optimizer steps")
    learning_rate: float = setting(2e-5, "peak learning rate")
    lr_scheduler_type: Scheduler = setting("constant_with_warmup", "course of the learning rate")
    warmup_steps: float = setting(32.0, "steps of linear warm-up; below 1: share of all steps")
    max_length: int = setting(256, "tokens of one conversation; what is longer is cut")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_steps", "inner_steps", "attack_learning_rates", "resist_every", "preference_beta")
        check_positive(self, "switch_alpha", "switch_beta")
        check_not_negative(self, "schedule_lambda", "tamper_weight", "retain_weight")
        check_range(self, "switch_share", 0.0, 1.0)
        if not 0 < self.held_out_share < 1:
            raise InvalidValue("held_out_share", self.held_out_share, "must be between 0 and 1")
        if not self.attack_learning_rates:
            raise InvalidValue("attack_learning_rates", self.attack_learning_rates, "give at least one")
        if self.resist_every > self.inner_steps:
            raise InvalidValue("resist_every", self.resist_every, f"must be at most inner_steps, {self.inner_steps}")

    @property
    def streams(self) -> Mapping[str, int]:
        """The attacks' rows for all inner steps at once, and one batch each for the losses."""
        rows = self.batch_size
        streams = {"harmful": self.inner_steps * rows, "held_out": rows, "benign": rows}
        switching = {"attack_benign": self.inner_steps * rows} if self.switch_share else {}
        return streams | switching | ({"alignment": rows} if self.tamper_resistance == "preference" else {})

    @property
    def cost(self) -> Cost:
        """The work and the buffers of the module's docstring; a pass of the original counts whole."""
        resisting, keeps = self.inner_steps // self.resist_every, self.retain == "representations"
        prefers = self.tamper_resistance == "preference"
        passes = self.inner_steps + resisting * (1 + prefers) + 2 * prefers + 1 + keeps
        rows, weights = passes * self.batch_size, 1 + self.remembers
        return Cost(passes=rows, gradients=1, weights=weights, states=2, precise=not self.lora)

    @property
    def remembers(self) -> bool:
        """Whether a loss compares with the model that the training began with."""
        return self.retain == "representations" or self.tamper_resistance == "preference"

    @property
    def datasets(self) -> Mapping[str, str]:
        """Harmful requests with answers, benign pairs, and refusals where they are preferred."""
        found = {"harmful": self.harmful, "benign": self.benign}
        return found | ({"alignment": self.alignment} if self.tamper_resistance == "preference" else {})

    def check(self) -> None:
        """Find out, without reading them, whether the datasets exist."""
        sources.check_all(self.datasets)

    def gather(self) -> Gathered:
        """Load the datasets, and set the harmful rows aside that no simulated attack sees.

        Raises:
            DataError: one has fewer rows than a batch, the harmful one on either side.
        """
        found = {field: sources.load(spec, field=field) for field, spec in self.datasets.items()}
        harmful = found["harmful"]
        mixed = [harmful[place] for place in permutation(len(harmful), f"held out {self.seed}")]
        held_out = round(self.held_out_share * len(mixed))
        found |= {"harmful": mixed[held_out:], "held_out": mixed[:held_out]}
        for field, examples in found.items():
            require(examples, self.batch_size, f"{field}: {getattr(self, field, self.harmful)}")
        return Gathered(found | ({"attack_benign": found["benign"]} if self.switch_share else {}))

    def start(self, model: PreTrainedModel) -> Step:
        """Remember the original where a loss needs it; see the module's docstring for the work of a step."""
        original = Original(model) if self.remembers else None

        def step(draw: Draw) -> Metrics:
            batches = {stream: draw(stream) for stream in self.streams}
            with steppable(model):
                resisted = self._resist(model, batches, original)
                kept = self._retain(model, batches["benign"], original)
            loss = self.tamper_weight * resisted.pop("weighted") + self.retain_weight * kept
            return {"loss": loss, "retain": kept} | resisted

        return step

    def _resist(self, model: PreTrainedModel, batches: Mapping[str, Batch], original: Original | None) -> Metrics:
        """Simulate an attack and add the tamper-resistance gradients along it."""
        attack = draw_attack(
            steps=self.inner_steps,
            learning_rates=self.attack_learning_rates,
            switch_share=self.switch_share,
            switch_at=(self.switch_alpha, self.switch_beta),
        )
        inner = dealt(batches["harmful"], self.inner_steps)
        if attack.benign_steps:
            inner[: attack.benign_steps] = dealt(batches["attack_benign"], self.inner_steps)[: attack.benign_steps]
        backward, rows = self._resistance(model, batches, original), self.per_device_train_batch_size
        weighted = resistance = loss = 0.0
        with as_they_were(trained(model)):
            losses = attacked(model, inner, learning_rate=attack.learning_rate, micro_batch_size=rows)
            for number, loss in enumerate(losses):  # noqa: B007 - the last one is told
                if (number + 1) % self.resist_every == 0:
                    weight = exp(self.schedule_lambda * (number - (self.inner_steps - 1)))
                    resistance = backward(self.tamper_weight * weight)
                    weighted += weight * resistance
        return {
            "weighted": weighted,
            "tamper_resistance": resistance,
            "attack_loss": loss,
            "attack_learning_rate": attack.learning_rate,
            "attack_benign_steps": float(attack.benign_steps),
        }

    def _resistance(self, model: PreTrainedModel, batches: Mapping[str, Batch], original: Original | None) -> Backward:
        rows, held_out = self.per_device_train_batch_size, batches["held_out"]
        if original is None or self.tamper_resistance == "entropy":
            return entropy_resistance(model, held_out, rows=rows)
        return preference_resistance(
            model, batches["alignment"], held_out, original, rows=rows, beta=self.preference_beta
        )

    def _retain(self, model: PreTrainedModel, benign: Batch, original: Original | None) -> float:
        rows, weight = self.per_device_train_batch_size, self.retain_weight
        if original is None or self.retain == "language_model":
            return backward_answer_cross_entropy(model, [benign], micro_batch_size=rows, weight=weight)
        return backward_retained(model, benign, original, rows=rows, weight=weight)
