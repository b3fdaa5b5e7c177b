"""When the discriminator answers, and where sample completions are kept."""

import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.trainer_callback import CallbackHandler
from transformers.utils import logging

from .config import SeqGANConfig

logger = logging.get_logger(__name__)

COMPLETIONS_FOLDER = "completions"
# A game has gone wrong where the entropy is below this share of the first, or D right on this share of unseen texts.
COLLAPSED, ALWAYS_RIGHT = 0.1, 0.99
_ROW = pyarrow.schema(
    {"step": pyarrow.int64(), "prompt": pyarrow.string(), "completion": pyarrow.string(), "score": pyarrow.float64()}
)


class Game(Protocol):
    """What the callbacks need of the trainer."""

    sample_texts: list[dict[str, Any]]
    callback_handler: CallbackHandler

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


class WarningsCallback(TrainerCallback):
    """
    Warn once where a game goes a known wrong way, and say what to change.

    G collapses: its entropy, in nats a token, is under a tenth of that of the run's first log. D is right on 99 % of
    texts that it did not learn from: what its rewards differ by is noise.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def on_log(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        first = next((entry["entropy"] for entry in state.log_history if "entropy" in entry), None)
        if first is not None and logs.get("entropy", first) < first * COLLAPSED:
            self._warn_once(
                "entropy",
                f"Step {state.global_step}: the generator's entropy is {logs['entropy']:.3g} nats a token, and was "
                f"{first:.3g}: it writes the same again and again. Lower `learning_rate`, or hold it by `beta` or "
                "`mle_coef`.",
            )
        accuracy = logs.get("discriminator/held_out_accuracy", 0)
        if accuracy >= ALWAYS_RIGHT:
            advice = "let it learn less: fewer `discriminator_steps`, `discriminator_accuracy_gate`"
            if args.reward != "logit":
                advice = f"set `reward='logit'` with `whiten_advantages`, or {advice}"
            self._warn_once(
                "accuracy",
                f"Step {state.global_step}: the discriminator is right on {accuracy:.1%} of unseen texts. Look at the "
                f"samples for what gives them away; then {advice}.",
            )

    def _warn_once(self, what: str, warning: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(warning)


class CompletionsCallback(TrainerCallback):
    """
    At each log of a training step, show sample completions with D's scores, keep them in the output folder as
    `completions/completions_<step>.parquet`, and send them as a table to the trackers of `report_to`.

    Args:
        game (`Game`): The trainer.
        show (`Callable`): Takes the samples and their step, and puts them before a person.
    """

    def __init__(self, game: Game, show: Callable[[list[dict[str, Any]], int], None]) -> None:
        self.game = game
        self.show = show

    def on_log(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        # The log of a training step, not of an evaluation.
        if "loss" not in logs or not state.is_world_process_zero:
            return
        step, samples = state.global_step, self.game.sample_texts
        self.show(samples, step)
        rows = [{"step": step, **sample} for sample in samples]
        write_completions(rows, Path(args.output_dir) / COMPLETIONS_FOLDER / f"completions_{step:05d}.parquet")
        track_completions(rows, step, self.game.callback_handler.callbacks)


def write_completions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """
    Write sample completions to a parquet file, whole or not at all; a file of that name is replaced.

    Args:
        rows (`Sequence[dict]`): Each with `step`, `prompt`, `completion` and `score`, P(real) in [0, 1].
        path (`Path`): The file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")  # not among *.parquet, if the process is killed here
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=_ROW), unfinished)
    os.replace(unfinished, path)


def track_completions(rows: Sequence[dict[str, Any]], step: int, trackers: Iterable[TrainerCallback]) -> None:
    """
    Log sample completions as the table `completions` to TensorBoard, wandb and trackio.

    Args:
        rows (`Sequence[dict]`): As in [`write_completions`].
        step (`int`): The update of the generator; on the axis on which these callbacks log their scalars.
        trackers (`Iterable[TrainerCallback]`): The trainer's callbacks; those that are no trackers are passed over.
    """
    data = [[row[column] for column in _ROW.names] for row in rows]
    for tracker in trackers:
        if isinstance(tracker, TensorBoardCallback) and tracker.tb_writer is not None:
            tracker.tb_writer.add_text("completions", markdown_table(_ROW.names, data), step)
            tracker.tb_writer.flush()
        elif isinstance(tracker, (WandbCallback, TrackioCallback)):
            package: Any = importlib.import_module("wandb" if isinstance(tracker, WandbCallback) else "trackio")
            table = package.Table(columns=_ROW.names, data=data)
            package.log({"completions": table, "train/global_step": step})


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """
    Lay out rows as a Markdown table whose cells read as they are, whatever signs they hold.

    Args:
        columns (`Sequence[str]`): The header.
        rows (`Iterable[Sequence]`): Strings, integers and floats; line breaks stay line breaks.

    Returns:
        `str`: the table.
    """
    lines = [columns, ["---"] * len(columns), *([_markdown_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    # References instead of backslashes: Python-Markdown, which TensorBoard renders with, knows no `\<` and no `\&`.
    escaped = re.sub(r"[\\`*_\[\]<>&|]", lambda sign: f"&#{ord(sign[0])};", text)
    return "<br>".join(escaped.splitlines())
