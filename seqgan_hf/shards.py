"""A model that learns in shards (FSDP2), and is whole wherever it is used."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput

from .launch import check_shards, on_device
from .processes import begin_alike, is_first, num_processes


class ShardedTrainer(Trainer):
    """
    A `Trainer` whose model is whole on every process, also where accelerate shards it.

    What learns (`model_wrapped`) is then a copy, of which each process has a part, with the gradients and the optimizer's
    state of that part. After each update `model` follows it. So it writes with no process waiting for another, and is
    evaluated, saved and resumed as that of a single process: checkpoints do not tell how many wrote them.

    For P weights in single precision each process needs 4 P bytes for the whole and 16 P for what learns, divided by the
    number of processes.

    Args:
        *args, **kwargs: As in `Trainer`.

    Raises:
        ValueError: If shards are asked for that cannot be had: see [`check_shards`].
    """

    model: PreTrainedModel
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._learns_in_shards = check_shards(self.accelerator, self.args, self.model)
        if self._learns_in_shards:
            # `Trainer` would write and read checkpoints in shards, and leave the whole model where it is.
            self.is_fsdp_enabled = False
            on_device(self.model, self.args)
            self.add_callback(_Follow(self))
        begin_alike(self.model)  # with FSDP, only the first process has read its weights

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if num_processes() > 1:
            # Left by whoever evaluated the model before: with it, accelerate 1.15 takes the model for one that needs no
            # `DistributedDataParallel`, and every process would learn for itself.
            vars(self.model).pop("_is_accelerate_prepared", None)
        if not self._learns_in_shards:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        whole = self.model
        self.model = self.model_wrapped = copy.deepcopy(whole)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self.model = self.callback_handler.model = whole
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        self._load_scaler(resume_from_checkpoint)
        return prepared

    @torch.no_grad()
    def follow(self) -> None:
        """Give the model the weights that its shards have learned. A meeting of all processes."""
        for whole, learned in zip(self.model.parameters(), self.model_wrapped.parameters(), strict=True):
            if whole.requires_grad:
                whole.copy_(_whole(learned))

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, on the whole model, which needs no preparation for it."""
        with self._prepared_for_evaluation():
            return super().evaluation_loop(*args, **kwargs)

    @contextlib.contextmanager
    def _prepared_for_evaluation(self) -> Iterator[None]:
        """Keep `Trainer` from having accelerate prepare what it evaluates before it trains, for the same reason."""
        models = self.accelerator._models
        if models:
            yield
            return
        models.append(self.model)
        try:
            yield
        finally:
            models.clear()

    # ---- The optimizer's state, as a single process would write it ---------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._learns_in_shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, state = self.optimizer, _gathered(self.optimizer.state_dict())
        self.optimizer = SimpleNamespace(state_dict=lambda: state)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            self.optimizer = optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._learns_in_shards or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Not on the GPU, as `Trainer` reads it: the state of all shards at once may not fit there.
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, values in state["state"].items():
            values |= {name: _like(value, parameters[index]) for name, value in values.items()}
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(schedule)


class _Follow(TrainerCallback):
    """Let the whole model follow each update of its shards, before anything reads it."""

    def __init__(self, trainer: ShardedTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.follow()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(state: Any) -> Any:
    """Put shards together wherever they stand in a state; the first process keeps them, in the memory of its CPU."""
    if isinstance(state, torch.Tensor):
        whole = _whole(state)
        return whole.cpu() if is_first() else None
    if isinstance(state, dict):
        return {key: _gathered(value) for key, value in state.items()}
    return [_gathered(value) for value in state] if isinstance(state, list) else state


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """Take this process's part of a state that belongs to a parameter element by element; all have the whole of it."""
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
