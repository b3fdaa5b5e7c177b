"""When the discriminator answers, and what a person sees of the texts."""

import json
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from .config import SeqGANConfig


class Game(Protocol):
    """What the callbacks need of the trainer."""

    sample_texts: list[dict[str, Any]]

    def pretrain_discriminator(self) -> None: ...

    def update_discriminator(self) -> None: ...

    def update_rollout_policy(self) -> None: ...


class DiscriminatorCallback(TrainerCallback):
    """
    Let D learn before the first round and after every `generator_steps` updates of G, before a checkpoint is written.

    Args:
        game (`Game`): The trainer.
    """

    def __init__(self, game: Game) -> None:
        self.game = game

    def on_train_begin(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self.game.pretrain_discriminator()

    def on_step_end(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.game.update_rollout_policy()
        if state.global_step % args.generator_steps == 0:
            self.game.update_discriminator()
        # A run shorter than `logging_steps` would end without a word.
        control.should_log |= state.global_step >= state.max_steps


class CompletionsCallback(TrainerCallback):
    """
    Show sample completions with D's scores at each log, and append them to `completions.jsonl` in the output folder.

    Args:
        game (`Game`): The trainer.
    """

    def __init__(self, game: Game) -> None:
        self.game = game

    def on_log(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        # The log of a training step, not of an evaluation.
        if "loss" not in logs or not state.is_world_process_zero:
            return
        samples = self.game.sample_texts
        tqdm.write(completions_table(samples, state.global_step))
        with (Path(args.output_dir) / "completions.jsonl").open("a", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps({"step": state.global_step, **sample}, ensure_ascii=False) + "\n")


def completions_table(samples: list[dict[str, Any]], step: int, width: int = 88) -> str:
    """
    Lay out completions with their scores for a terminal.

    Args:
        samples (`list[dict]`): Each with `prompt`, `completion` and `score`, P(real) in [0, 1].
        step (`int`): The update of the generator that they come from.
        width (`int`): Characters of a text that are shown, at least 4.

    Returns:
        `str`: a header and one line a completion.
    """
    lines = [f"step {step}  P(real)  completion"]
    for sample in samples:
        text = " ".join(f"{sample['prompt']} {sample['completion']}".split())
        text = text if len(text) <= width else text[: width - 3] + "..."
        lines.append(f"{'':{len(str(step)) + 5}}  {sample['score']:7.3f}  {text}")
    return "\n".join(lines)
