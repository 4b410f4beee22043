"""The one hardening loop: Hugging Face's Trainer, with the gradient left by a defense's rule instead of a loss's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rupert.data.batches import Stream, encode_all
from rupert.errors import UsageError
from rupert.models.loading import LoadedModel, without_bars
from rupert.models.saving import full_disk_named
from rupert.training import processes
from rupert.training.adapters import Adapting, adapted
from rupert.training.callbacks import (
    FiniteGradient,
    Interruption,
    LeanOptimizer,
    ProgressBar,
    StepMemory,
    StepMetrics,
    require_finite,
)
from rupert.training.fine_tuning import UNFOLLOWED, Following
from rupert.training.objective import Batch, Gathered, Metrics, Step

CHECKPOINTS = "checkpoints"


class GradientRule(Adapting, Protocol):
    """What the loop needs of a defense, and of an attack that is a gradient rule; see `Objective`, which is one."""

    @property
    def max_steps(self) -> int:
        """Optimizer steps."""

    @property
    def max_length(self) -> int:
        """Tokens of one conversation."""

    @property
    def streams(self) -> Mapping[str, int]:
        """The streams that it draws, with their rows a step."""

    @property
    def paired(self) -> tuple[str, ...]:
        """Streams whose rows belong together one by one, and are drawn in the same order."""

    def arguments(self) -> dict[str, Any]:
        """What `transformers.TrainingArguments` takes."""

    def optimizer(self) -> tuple[Any, dict[str, Any]] | None:
        """An optimizer that Transformers does not bring."""

    def start(self, model: PreTrainedModel) -> Step:
        """Prepare for training `model`."""


class HardeningTrainer(Trainer):
    """Overrides where the gradient comes from and what is drawn, and nothing else.

    The data loader yields step numbers. A step's batches are functions of its number, so that a resumed run draws what
    the interrupted one would have drawn, without reading past what it had drawn. Of several processes each draws its
    own rows of them, and all together what one process would draw of as many rows.
    """

    _gradient_step: Step | None = None

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        start: Callable[[], Step],
        streams: Mapping[str, Stream],
        **options: Any,
    ) -> None:
        super().__init__(model=model, **options)
        if self.is_deepspeed_enabled or (self.is_fsdp_enabled and not self.accelerator.is_fsdp2):
            raise UsageError("hardening is split over replicas or by FSDP2 alone; launch it with --fsdp_version 2")
        self._start = start
        self._streams = streams
        self.add_callback(StepMemory(lambda: self._gradient_step))
        self.add_callback(LeanOptimizer())
        self.accelerator.prepare_model = partial(_prepare, self.accelerator.prepare_model)
        # What a defense remembers of the model is of the one that it was given, so before a checkpoint is loaded.
        if not self.is_fsdp_enabled:
            self._gradient_step = start()
        elif isinstance(model, PeftModel):
            # A defense calls the model beneath the adapter's, and FSDP2 gathers weights where its outermost is called.
            self.model = self.model_wrapped = model.get_base_model()

    @property
    def history(self) -> list[Metrics]:
        """The metrics of every step, also of those before an interruption: checkpoints hold them."""
        return [entry["metrics"] for entry in self.state.log_history if "metrics" in entry]

    def get_train_dataloader(self) -> DataLoader[dict[str, int]]:
        """One entry an optimizer step."""
        steps = [{"step": step} for step in range(self.args.max_steps)]
        # A generator of its own: taking one number of the global one here would shift a resumed run's dropout.
        return DataLoader(steps, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """As Transformers; a model that is sharded has just been, and no checkpoint is loaded into it yet."""
        if self.is_fsdp_enabled:
            self._gradient_step = self._start()
        scheduler: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
        return scheduler

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Let the defense leave its gradient, make it that of all processes, and make sure that it can be used.

        Raises:
            NonFiniteError: a metric is not finite, in any process; the weights are still those before the step.
        """
        del inputs, num_items_in_batch
        step = self.state.global_step
        assert self._gradient_step is not None
        model.train()
        with self.compute_loss_context_manager():
            own = self._gradient_step(self._draw)
        # The mean, so that no process stops without the others, which would wait for it.
        metrics = {name: processes.total(value) / processes.count() for name, value in own.items()}
        for name, value in metrics.items():
            require_finite(name, value, step)
        processes.average(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        self.state.log_history.append({"step": step, "metrics": metrics})
        return torch.tensor(metrics["loss"], device=self.args.device)

    def _draw(self, stream: str) -> Batch:
        """This process's rows of the step's batch."""
        batch = self._streams[stream].batch(self.state.global_step * processes.count() + processes.rank())
        self.state.num_input_tokens_seen += int(processes.total(float(batch["attention_mask"].sum())))
        return batch


def _prepare(prepare_model: Callable[..., torch.nn.Module], model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """Let Accelerate set up mixed precision, and nothing around the model.

    A defense calls the model itself, beneath what Accelerate would wrap it in: DistributedDataParallel would hold a
    copy of the gradients that nothing uses, and an adapter's forward pass is not the model's.
    """
    prepare_model(model.get_base_model() if isinstance(model, PeftModel) else model, evaluation_mode=True, **options)
    return model


def harden(
    objective: GradientRule,
    loaded: LoadedModel,
    gathered: Gathered,
    folder: Path,
    *,
    title: str,
    save_steps: int,
    resume: bool = False,
    following: Following = UNFOLLOWED,
) -> HardeningTrainer:
    """Train `loaded` in place with a defense's gradient rule.

    Every process of a launcher (`accelerate launch`, torchrun) calls it with the same arguments. Under FSDP2 the model
    is sharded in place, and stays so; `processes.whole` gathers it.

    Args:
        objective: the gradient rule, which is also its training settings.
        loaded: the model to harden.
        gathered: its data.
        folder: where checkpoints go; `drop_checkpoints` removes them when what came out is saved.
        title: of the progress bar.
        save_steps: steps between checkpoints; 0: none, and Ctrl-C stops at once.
        resume: go on from the newest whole checkpoint in `folder`.
        following: who follows it; of an adapter nothing is kept.

    Returns:
        the trainer, with `history`: metrics by step.

    Raises:
        UnknownName: the model has no layer of that name for an adapter.
        UsageError: the launcher asks for FSDP1 or DeepSpeed.
        NonFiniteError: see `HardeningTrainer.training_step`.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
    """
    streams = _streams(objective, loaded, gathered)
    kept = {"save_strategy": "steps", "save_steps": save_steps} if save_steps else {"save_strategy": "no"}
    arguments = _arguments(objective, loaded, folder, **kept, **following.tracking.arguments())
    checkpoint = newest_checkpoint(folder) if resume else None
    interruption, progress = Interruption(), ProgressBar(title)
    with full_disk_named(folder), adapted(objective, loaded.model) as model:
        start, optimizer = partial(objective.start, loaded.model), objective.optimizer()
        options = {"callbacks": list(following.callbacks), "optimizer_cls_and_kwargs": optimizer}
        trainer = HardeningTrainer(model, start, streams, args=arguments, **options)
        trainer.remove_callback(PrinterCallback)
        for callback in (FiniteGradient(), interruption, progress, StepMetrics()):
            trainer.add_callback(callback)
        listening = interruption.listening() if save_steps else nullcontext()
        with listening, progress.showing(), without_bars(), following.tracking.following(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        if interruption.requested:
            raise KeyboardInterrupt
    loaded.model.eval()
    return trainer


def _arguments(objective: GradientRule, loaded: LoadedModel, folder: Path, **others: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=objective.max_steps,
        save_total_limit=1,
        ignore_data_skip=True,
        remove_unused_columns=False,
        use_cpu=processes.on_cpu(loaded.device),
        **objective.arguments(),
        **others,
    )


def _streams(objective: GradientRule, loaded: LoadedModel, gathered: Gathered) -> dict[str, Stream]:
    return {
        name: Stream(
            objective.paired[0] if name in objective.paired else name,
            encode_all(gathered.streams[name], loaded.tokenizer, objective.max_length, name),
            rows,
            loaded.tokenizer.pad_token_id,
            objective.seed,
        )
        for name, rows in objective.streams.items()
    }


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training whose outcome is saved; they are several times as large as the model."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; the state file, which is written last, tells."""
    found = sorted(
        (folder / CHECKPOINTS).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    return next((str(path) for path in reversed(found) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(state["global_step"] == int(checkpoint.name.rpartition("-")[2]))
