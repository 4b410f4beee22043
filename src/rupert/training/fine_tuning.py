"""Supervised fine-tuning as anybody does it: TRL's SFTTrainer, with PEFT for LoRA."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from rupert.data.examples import Example
from rupert.errors import InvalidValue, UsageError
from rupert.models.loading import LoadedModel
from rupert.settings import check_positive, setting
from rupert.training import processes
from rupert.training.adapters import base_weights, check_targets, merge_adapter, save_adapter
from rupert.training.callbacks import FiniteGradient, ProgressBar
from rupert.training.settings import Scheduler, TrainingSettings
from rupert.training.tracking import UNTRACKED, Tracking


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings(TrainingSettings):
    """Training settings of supervised fine-tuning."""

    num_train_epochs: float = setting(1.0, "passes over the data, unless max_steps is given")
    max_steps: int = setting(-1, "optimizer steps; -1: as many as num_train_epochs takes")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_train_epochs")
        if self.max_steps < 1 and self.max_steps != -1:
            raise InvalidValue("max_steps", self.max_steps, "must be above 0, or -1 for num_train_epochs")


@dataclass(frozen=True, kw_only=True)
class PublishedFineTuning(FineTuningSettings):
    """Fine-tuning as attackers do it, and honest users: they differ in their data alone.

    The defaults are those of the second attack of SEAM's Figure 3 (arXiv 2505.12186).
    """

    learning_rate: float = setting(5e-5, "peak learning rate")
    per_device_train_batch_size: int = setting(4, "rows of one forward pass")
    lr_scheduler_type: Scheduler = setting("cosine", "course of the learning rate")
    warmup_steps: float = setting(0.1, "steps of linear warm-up; below 1: share of all steps")
    weight_decay: float = setting(0.01, "decoupled weight decay")


@dataclass(frozen=True, slots=True)
class FineTuned:
    """A fine-tuned model and what its training was like.

    Attributes:
        loaded: the model, an adapter merged into its weights.
        loss: mean loss over training.
        steps: optimizer steps.
        tokens: tokens seen, padding left out.
    """

    loaded: LoadedModel
    loss: float
    steps: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """Who follows a training, and what is kept of it; no weight depends on it.

    Attributes:
        callbacks: what watches it.
        adapter_folder: where an adapter is kept, before it is merged; `merge_adapter` makes the model again from it.
        tracking: who is told of every step.
    """

    callbacks: tuple[TrainerCallback, ...] = ()
    adapter_folder: Path | None = None
    tracking: Tracking = UNTRACKED


UNFOLLOWED = Following()


def fine_tune(
    settings: FineTuningSettings,
    loaded: LoadedModel,
    examples: Sequence[Example],
    title: str,
    following: Following = UNFOLLOWED,
) -> FineTuned:
    """Fine-tune on conversations, with the loss over the answers alone.

    Every process of a launcher calls it with the same arguments. Together they take the steps that one process takes
    whose batches have as many rows. Under FSDP2 a model all of whose weights are trained stays sharded, and
    `processes.whole` gathers it. One with an adapter, and any under DeepSpeed, comes back whole in the main process and
    without weights in the others.

    Args:
        settings: training settings.
        loaded: the model; its weights change in place.
        examples: conversations; the tokenizer's chat template makes their text.
        title: of the progress bar.
        following: who follows it.

    Raises:
        UsageError: the launcher asks for the first version of FSDP.
        UnknownName: the model has no layer of that name for an adapter.
        NonFiniteError: the loss or the gradient is not finite; the weights are those before that step.
    """
    if settings.lora:
        check_targets(settings.lora_target_modules, loaded.model)
    with tempfile.TemporaryDirectory(prefix="rupert-") as scratch:
        trainer = SFTTrainer(
            model=loaded.model,
            args=_config(settings, loaded, Path(scratch), following.tracking),
            train_dataset=Dataset.from_list([_conversation(example) for example in examples]),
            processing_class=loaded.tokenizer,
            peft_config=settings.adapter(),
            callbacks=list(following.callbacks),
        )
        if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
            raise UsageError("fine-tuning is split by FSDP's second version; launch it with --fsdp_version 2")
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(FiniteGradient())
        progress = ProgressBar(title)
        trainer.add_callback(progress)
        with progress.showing(), following.tracking.following(trainer):
            result = trainer.train()
        model = _outcome(trainer, following.adapter_folder, Path(scratch))
    model.eval()
    return FineTuned(
        LoadedModel(model, loaded.tokenizer),
        loss=result.training_loss,
        steps=result.global_step,
        tokens=trainer.state.num_input_tokens_seen,
    )


def _outcome(trainer: SFTTrainer, adapter_folder: Path | None, scratch: Path) -> PreTrainedModel:
    """What was trained, an adapter kept and merged."""
    model = trainer.model
    if not isinstance(model, PeftModel) and not trainer.is_deepspeed_enabled:
        return model
    if trainer.is_deepspeed_enabled or processes.is_sharded(model):
        return _gathered(trainer, adapter_folder or scratch)
    if adapter_folder and processes.rank() == 0:
        save_adapter(model, adapter_folder)
    return model.merge_and_unload()


def _gathered(trainer: SFTTrainer, folder: Path) -> PreTrainedModel:
    """The whole model, of which each process holds a part; `folder` is where an adapter goes on its way."""
    model = trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}  # DeepSpeed gives the others nothing
    unset_hf_deepspeed_config()  # under which Transformers would make the next model in parts
    if not isinstance(model, PeftModel):
        return processes.ordinary(model, weights)
    base = processes.ordinary(model.get_base_model(), base_weights(weights))
    if processes.rank() > 0:
        return base
    save_adapter(model, folder, weights)
    return merge_adapter(base, folder)


def _config(settings: FineTuningSettings, loaded: LoadedModel, scratch: Path, tracking: Tracking) -> SFTConfig:
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=settings.max_steps,
        num_train_epochs=settings.num_train_epochs,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_length=settings.max_length,
        completion_only_loss=True,
        save_strategy="no",
        use_cpu=processes.on_cpu(loaded.device),
        include_num_input_tokens_seen="non_padding",
        **settings.arguments(),
        **tracking.arguments(),
    )


def _conversation(example: Example) -> dict[str, Any]:
    return {"prompt": example.prompt, "completion": example.completion}
