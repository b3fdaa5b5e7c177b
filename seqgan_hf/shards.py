"""A model that learns in shards (FSDP2), and is whole wherever it is used."""

import contextlib
import copy
import weakref
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

from .launch import are_shards_asked_for, on_device, require_not_quantised
from .processes import begin_alike, num_processes


class ShardedTrainer(Trainer):
    """
    A `Trainer` whose model is whole on every process, also where accelerate shards it.

    What learns (`model_wrapped`) is then a copy, of which each process has a part, with the gradients and the optimizer's
    state of that part. After each update `model` follows it. So it writes with no process waiting for another, and is
    evaluated, saved and resumed as that of a single process: checkpoints do not tell how many wrote them.

    For P weights in single precision each process needs 4 P bytes for the whole and 16 P for what learns, divided by the
    number of processes. A second call of `train` goes on with the optimizer's state of the first.

    Args:
        *args, **kwargs: As in `Trainer`.

    Raises:
        ValueError: If shards are asked for that cannot be had: see [`are_shards_asked_for`].
    """

    model: PreTrainedModel
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._learns_in_shards:
            require_not_quantised(self.model)
            # Gradients that wait for the last batch of an update wait unsharded, as large as the model.
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
            self.add_callback(_Follow(self))
            begin_alike(self.model)

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`, which would shard `model`, and keep or refuse checkpoints as those of shards."""
        only_model, self.args.save_only_model = self.args.save_only_model, False
        try:
            super().create_accelerator_and_postprocess()
        finally:
            self.args.save_only_model = only_model
        self._learns_in_shards = are_shards_asked_for(self.accelerator, self.args)
        self.is_fsdp_enabled = False

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if num_processes() > 1:
            # Left by whoever evaluated the model before: with it, accelerate 1.15 takes the model for one that needs no
            # `DistributedDataParallel`, and every process would learn for itself.
            vars(self.model).pop("_is_accelerate_prepared", None)
        if not self._learns_in_shards:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        whole = self.model
        moments = self.optimizer.state_dict()["state"] if self.optimizer else {}
        self.optimizer = self.model_wrapped = None  # type: ignore[assignment]
        # On the CPU: a GPU need not hold both at once, as accelerate takes the copy there piece by piece.
        self.model = self.model_wrapped = copy.deepcopy(whole.to("cpu"))  # type: ignore[arg-type]
        on_device(whole, self.args)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self.model = self.callback_handler.model = whole
        if moments:  # of an earlier call
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
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
        optimizer, state = self.optimizer, _gathered(self.optimizer.state_dict(), self.args.should_save)
        self.optimizer = SimpleNamespace(state_dict=lambda: state)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            self.optimizer = optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._learns_in_shards or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Not on the GPU, as `Trainer` reads it, nor in the memory of every process: all shards at once may not fit there.
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True, mmap=True)
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
        self.trainer = weakref.ref(trainer)  # a cycle would keep its shards after it is done

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        trainer = self.trainer()
        if trainer is not None:
            trainer.follow()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(state: Any, keep: bool) -> Any:
    """Put shards together wherever they stand in a state; who keeps them has them in the memory of its CPU."""
    if isinstance(state, torch.Tensor):
        whole = _whole(state)
        return whole.cpu() if keep else None
    if isinstance(state, dict):
        return {key: _gathered(value, keep) for key, value in state.items()}
    return [_gathered(value, keep) for value in state] if isinstance(state, list) else state


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """Take this process's part of a state that belongs to a parameter element by element; all have the whole of it."""
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
