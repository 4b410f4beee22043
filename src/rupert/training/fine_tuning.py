"""Supervised fine-tuning as anybody does it: TRL's SFTTrainer, with PEFT for LoRA."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from peft import LoraConfig, PeftModel, prepare_model_for_kbit_training
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import SFTConfig

from rupert.data.examples import Example
from rupert.errors import InvalidValue, UsageError
from rupert.models.loading import LoadedModel
from rupert.models.quantization import check_4bit, in_4bit
from rupert.settings import check_not_negative, check_positive, setting
from rupert.training import processes
from rupert.training.adapters import adapter_for, base_weights, merge_adapter, partly_trained, save_adapter
from rupert.training.callbacks import FiniteGradient, ProgressBar
from rupert.training.settings import Scheduler, TrainingSettings
from rupert.training.sft_trainer import PaddingFreeTrainer
from rupert.training.tracking import UNTRACKED, Tracking

__all__ = ["UNFOLLOWED", "FineTuned", "FineTuningSettings", "Following", "PublishedFineTuning", "fine_tune"]


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings(TrainingSettings):
    """Training settings of supervised fine-tuning.

    Attributes:
        version: 2 leaves padding out, which gives other last bits.
    """

    version: ClassVar[int] = 2

    num_train_epochs: float = setting(1.0, "passes over the data, unless max_steps is given")
    max_steps: int = setting(-1, "optimizer steps; -1: as many as num_train_epochs takes")
    data_seed: int | None = setting(None, "of the order in which drawn rows are trained on; none: seed", later=True)
    layers_to_transform: tuple[int, ...] | None = setting(
        None, "decoder layers that alone are trained or get an adapter, -1 the last; none: the whole model", later=True
    )
    use_dora: bool = setting(
        False, "an adapter of direction and magnitude (DoRA, arXiv 2402.09353); needs lora", later=True
    )
    load_in_4bit: bool = setting(
        False,
        "an adapter on weights in 4 bits (QLoRA, arXiv 2305.14314); needs lora, bitsandbytes and an NVIDIA GPU",
        later=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_train_epochs")
        check_not_negative(self, "data_seed")
        if self.max_steps < 1 and self.max_steps != -1:
            raise InvalidValue("max_steps", self.max_steps, "must be above 0, or -1 for num_train_epochs")
        if self.layers_to_transform == ():
            raise InvalidValue("layers_to_transform", (), "name at least one layer, or none for the whole model")
        for name in ("use_dora", "load_in_4bit"):
            if getattr(self, name) and not self.lora:
                raise InvalidValue(name, True, "it is a kind of adapter; set lora, too")

    def check_device(self) -> None:
        """Find out, before a model is loaded, whether it can be trained so on this machine.

        Raises:
            UsageError: it is to be trained in 4 bits, and there is no GPU that does, or no bitsandbytes.
        """
        if self.load_in_4bit:
            check_4bit()

    @property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """Decoder layers that alone are trained, -1 being the last; None for the whole model."""
        return self.layers_to_transform

    def adapter(self) -> LoraConfig | None:
        """PEFT's configuration, where LoRA is asked for."""
        config = super().adapter()
        return config and replace(config, use_dora=self.use_dora)

    def arguments(self) -> dict[str, Any]:
        """The fields that `transformers.TrainingArguments` takes; each process takes the same."""
        return super().arguments() | {"data_seed": self.data_seed}


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
        UsageError: the launcher asks for the first version of FSDP; there is no GPU for weights in 4 bits.
        UnknownName: the model has no layer of that name for an adapter.
        InvalidValue: the model has no decoder layer of that number.
        NonFiniteError: the loss or the gradient is not finite; the weights are those before that step.
    """
    settings.check_device()
    with (
        tempfile.TemporaryDirectory(prefix="rupert-") as folder,
        partly_trained(settings, loaded.model),
        _held(settings, loaded, Path(folder)) as held,
    ):
        trainer = _trainer(settings, held, examples, Path(folder), following)
        progress = ProgressBar(title)
        trainer.add_callback(progress)
        with progress.showing(), following.tracking.following(trainer):
            result = trainer.train()
        whole = loaded.model if settings.load_in_4bit else None
        model = _outcome(trainer, whole, following.adapter_folder, Path(folder) / "adapter")
    model.eval()
    return FineTuned(
        LoadedModel(model, loaded.tokenizer),
        loss=result.training_loss,
        steps=result.global_step,
        tokens=trainer.state.num_input_tokens_seen,
    )


@contextlib.contextmanager
def _held(settings: FineTuningSettings, loaded: LoadedModel, folder: Path) -> Iterator[LoadedModel]:
    """Within, what the trainer works on: the model itself, or a copy in 4 bits, which an adapter is trained on."""
    if not settings.load_in_4bit:
        yield loaded
        return
    with in_4bit(loaded, folder / "base") as held:
        checkpointing = settings.gradient_checkpointing
        prepared = prepare_model_for_kbit_training(held.model, use_gradient_checkpointing=checkpointing)
        yield LoadedModel(prepared, held.tokenizer)


def _trainer(
    settings: FineTuningSettings,
    loaded: LoadedModel,
    examples: Sequence[Example],
    folder: Path,
    following: Following,
) -> PaddingFreeTrainer:
    trainer = PaddingFreeTrainer(
        model=loaded.model,
        args=_config(settings, loaded, folder, following.tracking),
        train_dataset=Dataset.from_list([_conversation(example) for example in examples]),
        processing_class=loaded.tokenizer,
        peft_config=adapter_for(settings, loaded.model),
        callbacks=list(following.callbacks),
        optimizer_cls_and_kwargs=settings.optimizer(),
    )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise UsageError("fine-tuning is split by FSDP's second version; launch it with --fsdp_version 2")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(FiniteGradient())
    return trainer


def _outcome(
    trainer: PaddingFreeTrainer, whole: PreTrainedModel | None, adapter_folder: Path | None, scratch: Path
) -> PreTrainedModel:
    """What was trained, an adapter kept and merged.

    Args:
        trainer: whose training is done.
        whole: the model that an adapter belongs to which was trained on weights in 4 bits.
        adapter_folder: where an adapter is kept.
        scratch: where one goes on its way.
    """
    model = trainer.model
    if not isinstance(model, PeftModel) and not trainer.is_deepspeed_enabled:
        return model
    if trainer.is_deepspeed_enabled or processes.is_sharded(model):
        return _gathered(trainer, adapter_folder or scratch)
    if adapter_folder and processes.rank() == 0:
        save_adapter(model, adapter_folder)
    if whole is None:
        return model.merge_and_unload()
    save_adapter(model, scratch)
    return merge_adapter(whole, scratch)


def _gathered(trainer: PaddingFreeTrainer, folder: Path) -> PreTrainedModel:
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
