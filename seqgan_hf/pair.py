"""`PairTrainer`: a `transformers.Trainer` that keeps two networks together: saved, loaded and resumed as one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints
from transformers.utils import ADAPTER_CONFIG_NAME, logging

from .adapters import is_adapter, require_bases_elsewhere
from .checkpoints import (
    DISCRIMINATOR_FOLDER,
    STATE_FILE,
    folders_of_pair,
    last_checkpoint,
    refusing_code,
    what_is_wrong_with,
    written_whole,
)
from .chunks import RowLimit
from .completions import Completions
from .config import SeqGANConfig
from .data import TextFormat
from .discriminator import Discriminator
from .generation import generate_completions
from .interruption import InterruptionCallback
from .launch import place_of_files
from .memory import rows_that_fit
from .metering import CpuClock
from .processes import from_first
from .samples import ARGUMENTS_FILE
from .shards import ShardedTrainer
from .streams import GameTexts, Replay

logger = logging.get_logger(__name__)


class PairTrainer(ShardedTrainer):
    """
    Saves the generator with its discriminator, both optimizers and the state of the game, also where a signal ends it,
    and resumes from them exactly.

    Attributes:
        discriminator (`Discriminator`): D, never a part of the generator.
        texts (`GameTexts`): The real texts, and where the reading of them stands.
        rollout_policy (`PreTrainedModel`): The generator itself, or its delayed copy.
    """

    args: SeqGANConfig
    model: PreTrainedModel
    rollout_policy: PreTrainedModel
    text_format: TextFormat
    discriminator: Discriminator
    texts: GameTexts
    replay: Replay
    _base_folders: Collection[Path] = ()
    _updates_of_best: int | None = None
    _writes_to: Path | None = None
    generation_config: GenerationConfig
    saved_generation_config: GenerationConfig
    row_limit: RowLimit
    _sets_played: int
    _clock: CpuClock
    _interruption: InterruptionCallback

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of the game in this process, those before it was resumed included; `None` if these are unknown."""
        return self._clock.read()

    def rows_at_once(self, prompt_length: int = 1) -> int:
        """
        Return how many rows the generator may write at once: `rollout_batch_size`, or what fits into memory now.

        Args:
            prompt_length (`int`): Tokens before the completions.
        """
        if self.args.rollout_batch_size == "auto":
            return rows_that_fit(self.model, prompt_length + self.args.max_completion_length)
        return int(self.args.rollout_batch_size)

    def _generate(self, prompts: Completions, row_keys: torch.Tensor, num_generations: int = 1) -> Completions:
        with self.accelerator.autocast():
            return generate_completions(
                self.model,
                prompts.prompt_ids,
                prompts.prompt_mask,
                self.generation_config,
                num_generations,
                self.rows_at_once(prompts.prompt_ids.shape[1]),
                self.row_limit,
                row_keys,
            )

    # ---- Save, load, resume ----------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        require_bases_elsewhere(self._base_folders, *folders_of_pair(folder))
        if self.args.should_save:
            _remove_other_kind(folder, self.accelerator.unwrap_model(self.model))
            _remove_other_kind(folder / DISCRIMINATOR_FOLDER, self.discriminator.model)
            for code in (folder / DISCRIMINATOR_FOLDER).glob("*.py"):
                (folder / code.name).unlink(missing_ok=True)  # copied below, when it was saved before
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        if not is_adapter(self.accelerator.unwrap_model(self.model)):
            self.saved_generation_config.save_pretrained(folder)  # plain sampling; the base model's may warp it
        # A pickle runs code where it is read, and this one carries the Hub token.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        (folder / ARGUMENTS_FILE).write_text(self.args.to_json_string(), encoding="utf-8")
        if folder == Path(self.args.output_dir):
            self.save_state()
        self.discriminator.save(folder / DISCRIMINATOR_FOLDER)
        # transformers looks for the code of a model at the root, also where the model is in a subfolder.
        for code in (folder / DISCRIMINATOR_FOLDER).glob("*.py"):
            if (folder / code.name).is_file():
                if (folder / code.name).read_bytes() == code.read_bytes():
                    continue  # a discriminator that reads with models like the generator
                logger.warning(
                    f"Both networks bring their code in a file {code.name}, and transformers looks for both at the root "
                    "of a repository: from the Hub, the discriminator will not load. Rename one of them."
                )
                continue
            shutil.copy2(code, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, but a checkpoint appears when all of it is on the disk."""
        checkpoint = self.checkpoint_folder(trial)
        with written_whole(checkpoint) as unfinished:
            self._writes_to = unfinished.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writes_to = None
            # `Trainer` looks for the best checkpoint where this one is written.
            best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if self.state.best_global_step and (best == checkpoint or best.is_dir()):
                self.state.best_model_checkpoint = str(best)
                if self.args.should_save:
                    self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(checkpoint.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def checkpoint_folder(self, trial: Any = None) -> Path:
        """Return where a checkpoint of this update lies, or would."""
        return Path(super()._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _newest_checkpoint(self) -> str:
        last = from_first(lambda: last_checkpoint(self.args.output_dir))
        if last is None:
            raise ValueError(
                f"{self.args.output_dir} holds no complete checkpoint to resume. Check `output_dir`, or leave "
                "`resume_from_checkpoint` out to begin anew."
            )
        return str(last)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writes_to or super()._get_output_dir(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if (wrong := what_is_wrong_with(Path(resume_from_checkpoint))) is not None:
            raise ValueError(
                f"{resume_from_checkpoint} cannot be resumed: {wrong}. Resume a checkpoint that SeqGANTrainer saved "
                "without `save_only_model`, or pass its folder as `model`."
            )
        with _without_discriminator(Path(resume_from_checkpoint)) as folder:
            super()._load_from_checkpoint(str(folder), model)
        self.discriminator.load(Path(resume_from_checkpoint) / DISCRIMINATOR_FOLDER)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            self.discriminator.load(Path(self.state.best_model_checkpoint) / DISCRIMINATOR_FOLDER)
            self._updates_of_best = self.state.best_global_step

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.args.should_save:
            return
        delayed = None if self.rollout_policy is self.model else self._trained_weights(self.rollout_policy)
        state = {
            "discriminator_optimizer": self.discriminator.optimizer.state_dict(),
            "texts": self.texts.state_dict(),
            "sets_played": self._sets_played,
            "cpu_seconds": self.cpu_seconds,
            "rollout_policy": delayed,
            "replay": self.replay.state_dict(),
        }
        torch.save(state, os.path.join(output_dir, STATE_FILE))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_scaler(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        with refusing_code(checkpoint):
            state = torch.load(
                os.path.join(checkpoint, STATE_FILE), map_location=place_of_files(self.args), weights_only=True
            )
        self.discriminator.optimizer.load_state_dict(state["discriminator_optimizer"])
        self.texts.load_state_dict(state["texts"])
        self._sets_played = state["sets_played"]
        self._clock.before = state.get("cpu_seconds")  # checkpoints of earlier versions do not say
        self.replay.load_state_dict(state["replay"])
        if self.rollout_policy is not self.model:  # a copy, also where the checkpoint was made without one
            weights = state["rollout_policy"] or self._trained_weights(self.model)
            self.rollout_policy.load_state_dict(weights, strict=False)

    def _trained_weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return what is trained of the generator, from it or from its copy: of an adapter that alone."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: parameter.detach() for name, parameter in model.named_parameters() if name in trained}

    # ---- End at a signal -------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As in `Trainer`; after a signal the update is saved in any case, whatever `save_strategy` says."""
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._interruption.received is not None and not self.checkpoint_folder(trial).is_dir():
            self._save_checkpoint(model, trial)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`; after a signal neither the best pair takes the place of the last, nor is that deleted."""
        best, is_over = self.state.best_model_checkpoint, self.state.global_step >= self.state.max_steps
        if self._interruption.received is not None and not is_over:
            self.state.best_model_checkpoint = None
        result = super()._finalize_training(*args, **kwargs)
        self.state.best_model_checkpoint = best
        return result

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Make no update more where a finished run is resumed: `Trainer` asks whether it is over only after one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


@contextlib.contextmanager
def _without_discriminator(checkpoint: Path) -> Iterator[Path]:
    """Show a checkpoint without its discriminator, whose adapter `Trainer` would take for another of the generator."""
    if not (checkpoint / DISCRIMINATOR_FOLDER / ADAPTER_CONFIG_NAME).is_file():
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in checkpoint.iterdir():
            if path.name != DISCRIMINATOR_FOLDER:
                os.symlink(path.resolve(), Path(folder) / path.name)
        yield Path(folder)


def _remove_other_kind(folder: Path, model: nn.Module) -> None:
    """Remove a whole model where an adapter will be saved, and the other way round: both together load as neither."""
    patterns = ("config.json", "model*.safetensors*") if is_adapter(model) else ("adapter_*",)
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        path.unlink()
