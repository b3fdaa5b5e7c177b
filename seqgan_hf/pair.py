"""`PairTrainer`: a `transformers.Trainer` that keeps two networks together: saved, loaded and resumed as one."""

import os
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from .config import SeqGANConfig
from .discriminator import Discriminator
from .streams import GameTexts

_STATE_FILE = "seqgan_state.pt"
DISCRIMINATOR_FOLDER = "discriminator"


class PairTrainer(Trainer):
    """
    Saves the generator with its discriminator, both optimizers and the state of the game, and resumes from them exactly.

    Attributes:
        discriminator (`Discriminator`): D, never a part of the generator.
        texts (`GameTexts`): The real texts, and where the reading of them stands.
        rollout_policy (`PreTrainedModel`): The generator itself, or its delayed copy.
    """

    args: SeqGANConfig
    model: PreTrainedModel
    rollout_policy: PreTrainedModel
    discriminator: Discriminator
    texts: GameTexts
    _sets_played: int

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.discriminator.save(Path(output_dir or self.args.output_dir) / DISCRIMINATOR_FOLDER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not (Path(resume_from_checkpoint) / _STATE_FILE).is_file():
            raise ValueError(
                f"{resume_from_checkpoint} cannot be resumed: it lacks {_STATE_FILE}, the state of the game. Resume a "
                "checkpoint that SeqGANTrainer saved without `save_only_model`, or pass its folder as `model`."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.discriminator.load(Path(resume_from_checkpoint) / DISCRIMINATOR_FOLDER)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            self.discriminator.load(Path(self.state.best_model_checkpoint) / DISCRIMINATOR_FOLDER)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        delayed = None if self.rollout_policy is self.model else self.rollout_policy.state_dict()
        state = {
            "discriminator_optimizer": self.discriminator.optimizer.state_dict(),
            "texts": self.texts.state_dict(),
            "sets_played": self._sets_played,
            "rollout_policy": delayed,
        }
        torch.save(state, os.path.join(output_dir, _STATE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = torch.load(os.path.join(checkpoint, _STATE_FILE), map_location=self.args.device, weights_only=True)
        self.discriminator.optimizer.load_state_dict(state["discriminator_optimizer"])
        self.texts.load_state_dict(state["texts"])
        self._sets_played = state["sets_played"]
        if state["rollout_policy"] is not None:
            self.rollout_policy.load_state_dict(state["rollout_policy"])
