"""The training settings that every defense and attack has, spelled and meant as in Transformers and TRL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rupert.settings import check_choices, check_not_negative, check_positive, setting
from rupert.training import optimizers
from rupert.training.adapters import AdapterSettings

__all__ = ["OptimizationSettings", "Optimizer", "Scheduler", "TrainingSettings"]

Scheduler = Literal["constant", "linear", "cosine", "constant_with_warmup"]
Optimizer = Literal["adamw_torch", "sgd", "adafactor", "lion", "muon"]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How the optimizer steps.

    Attributes:
        version: of a method's code; a method raises it when the same settings begin to give another answer. An attack
            raises it for other bits, too: dropped weights are brought back by doing it again.
    """

    version: ClassVar[int] = 1

    learning_rate: float = setting(5e-5, "peak learning rate")
    per_device_train_batch_size: int = setting(8, "rows of one forward pass")
    gradient_accumulation_steps: int = setting(1, "forward passes that make one optimizer step")
    lr_scheduler_type: Scheduler = setting("constant", "course of the learning rate")
    warmup_steps: float = setting(0.0, "steps of linear warm-up; below 1: share of all steps")
    optim: Optimizer = setting("adamw_torch", "optimizer; muon takes matrices alone, AdamW the rest")
    weight_decay: float = setting(0.0, "decoupled weight decay")
    max_grad_norm: float = setting(0.0, "clip the gradient to this norm; 0: never")
    max_length: int = setting(512, "tokens of one conversation; what is longer is cut")
    bf16: bool = setting(False, "compute in bfloat16 (autocast); weights stay as they are")
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    seed: int = setting(0, "of data order and initialization")

    def __post_init__(self) -> None:
        check_positive(
            self, "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length"
        )
        check_not_negative(self, "weight_decay", "max_grad_norm", "warmup_steps", "seed")
        check_choices(self)
        optimizers.check_installed(self.optim)

    @property
    def batch_size(self) -> int:
        """Rows of one optimizer step, in one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def arguments(self) -> dict[str, Any]:
        """The fields that `transformers.TrainingArguments` takes; each process takes the same."""
        return {
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": self.per_device_train_batch_size,
            "lr_scheduler_type": self.lr_scheduler_type,
            "warmup_steps": self.warmup_steps,
            "optim": "adamw_torch" if self.optim in optimizers.OURS else self.optim,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "bf16": self.bf16,
            "activation_checkpointing": self.gradient_checkpointing,  # Transformers' new name; the old one warns
            "seed": self.seed,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
        }

    def optimizer(self) -> tuple[Any, dict[str, Any]] | None:
        """What `transformers.Trainer` takes as `optimizer_cls_and_kwargs`; None where its own `optim` is meant."""
        return optimizers.made_by(self.optim, learning_rate=self.learning_rate, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(AdapterSettings, OptimizationSettings):
    """How a model is trained; a method inherits the fields and sets its own paper's defaults.

    Attributes:
        paired: of a defense, streams whose rows belong together one by one: they are drawn in the same order.
    """

    paired: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        OptimizationSettings.__post_init__(self)
        AdapterSettings.__post_init__(self)
