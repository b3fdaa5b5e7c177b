"""What a person who watches a run sees: a display at the foot of a terminal, and tqdm's bars everywhere else."""

import contextlib
import logging
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import has_length
from transformers.utils import is_rich_available

from .completions import one_line
from .config import SeqGANConfig

if is_rich_available():
    from rich.columns import Columns
    from rich.console import Console, Group, RenderableType
    from rich.file_proxy import FileProxy
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

_REFRESHES_PER_SECOND = 2  # of about 2 ms each, in a thread: below half a percent of a core
_UPDATES_OF_AN_ESTIMATE = 10
_HEADLINES = ("loss", "reward/mean", "entropy", "discriminator/held_out_auc")


class TqdmDisplay:
    """
    What goes to a pipe, a notebook or a log of CI: bars by tqdm, completions as plain text.

    Args:
        disable (`bool`): No bars, as `disable_tqdm` of the settings has it.
    """

    def __init__(self, disable: bool = False) -> None:
        self.disable = disable

    def track(self, count: int, description: str, unit: str) -> Iterator[int]:
        """Count up to `count` beside a bar that shows how far the loop has come."""
        yield from tqdm(range(count), desc=description, unit=unit, disable=self.disable or count == 0)

    def show_completions(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Print sample completions with D's scores, as [`completions_table`] lays them out."""
        tqdm.write(completions_table(samples, step))

    def close(self) -> None:
        """Give the terminal back: nothing to do."""


class RichProgressCallback(TrainerCallback, TqdmDisplay):
    """
    The game at the foot of a terminal: updates, round, time left, the phase that runs and the share of each. Logs and
    completions scroll by above it. It stands in for the `ProgressCallback` of transformers.

    A callback is not told that training raised. Whoever calls `train` therefore closes the display in any case, as
    `SeqGANTrainer` does, by `contextlib.closing`.

    Args:
        console (`rich.console.Console`, *optional*): Where to draw; stdout by default.

    Raises:
        ImportError: If rich is not installed.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        if not is_rich_available():
            raise ImportError("The display needs the package rich: pip install 'seqgan_hf[rich]'.")
        super().__init__()
        self.console = console or Console()
        self._live: Live | None = None
        self._undo = contextlib.ExitStack()
        self._stopwatch = Stopwatch()
        self._training: _Training | None = None
        self._loop: _Loop | None = None

    # ---- Open and close --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        stdout, stderr = sys.stdout, sys.stderr
        self._live = Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            redirect_stderr=False,  # `_WholeLines` does it better
        )
        self._live.start()
        # `Live` hides the cursor, and a process that is killed would not show it again.
        self.console.show_cursor(True)
        lines = self._undo.enter_context(_WholeLines(self.console, stderr))
        self._undo.enter_context(contextlib.redirect_stderr(lines))
        # Handlers keep the stream they were made with, and would write across the display.
        for logger in (logging.getLogger(), *logging.Logger.manager.loggerDict.values()):
            for handler in getattr(logger, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and handler.stream in (stdout, stderr):
                    old = handler.setStream(sys.stdout if handler.stream is stdout else sys.stderr)
                    self._undo.callback(handler.setStream, old)

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back. To close twice does no harm."""
        live, self._live = self._live, None
        if live is not None:
            self._undo.close()
            live.stop()
        self._training = self._loop = None

    def on_train_begin(  # type: ignore[override]
        self, args: SeqGANConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()
        # Whole rounds, so that an estimate holds both players' time.
        rounds = math.ceil(_UPDATES_OF_AN_ESTIMATE / args.generator_steps)
        self._stopwatch = Stopwatch(window=rounds * args.generator_steps)
        self._training = _Training(state.global_step, state.max_steps, args.generator_steps)
        self._open()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    # ---- Follow ----------------------------------------------------------------------------------------------------

    def enter(self, phase: str | None) -> None:
        """Take note of the phase that runs from now on; the listener of a [`Meter`]. `None`: none."""
        self._stopwatch.enter(phase)
        if phase is None and self._training is None:
            self.close()  # an evaluation outside of training has ended, or failed

    def track(self, count: int, description: str, unit: str) -> Iterator[int]:
        """Count up to `count` beside a bar in the display, if that is open."""
        if self._live is None:
            yield from super().track(count, description, unit)
            return
        self._loop = loop = _Loop(description, f"{unit}s", count)
        for index in range(count):
            yield index
            loop.done += 1
        self._loop = None

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._training is not None:
            self._training.begin(state.global_step)
            self._stopwatch.begin_update(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._training is not None:
            self._training.updates = state.global_step

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self._live is None:
            self._open()
        if self._loop is None:
            total = len(eval_dataloader) if has_length(eval_dataloader) else None
            self._loop = _Loop("evaluation", "batches", total)
        self._loop.done += 1

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._loop = None

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any) -> None:
        self._loop = None

    # ---- Show ------------------------------------------------------------------------------------------------------

    def on_log(  # type: ignore[override]
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if self._training is None:
            return
        warmup = any(name.startswith("warmup_") for name in logs)
        values = [Text.assemble((f"{name} ", "dim"), f"{value:.4g}") for name, value in headlines(logs).items()]
        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text("warm-up" if warmup else f"step {state.global_step}", "bold"), Columns(values, (0, 2)))
        self.console.print(grid)

    def show_completions(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Print sample completions with D's scores above the display, a line each."""
        if self._live is None:
            super().show_completions(samples, step)
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("P(real)", justify="right", width=len("P(real)"))
        table.add_column("completion")
        for sample in samples:
            # Not `no_wrap` of the column, for which rich would narrow the other one.
            table.add_row(
                f"{sample['score']:.3f}",
                Text(one_line(f"{sample['prompt']} {sample['completion']}"), no_wrap=True, overflow="ellipsis"),
            )
        self.console.print(table)

    def _render(self) -> "RenderableType":
        lines: list[RenderableType] = []
        if self._training is not None:
            lines += [_training_line(self._training, self._stopwatch), _phases_line(self._stopwatch)]
        if self._loop is not None:
            lines.append(_loop_line(self._loop))
        return Group(*lines)


if is_rich_available():

    class _WholeLines(FileProxy):
        """
        A stream whose lines scroll by above the display. It keeps an unfinished one back: of a bar that a library draws
        over and over, the last state is printed.
        """

        _unfinished = ""

        def write(self, text: str) -> int:
            self._unfinished = (self._unfinished + text).rpartition("\n")[2]
            return super().write(text)

        def flush(self) -> None:
            pass

        def __exit__(self, *exception: object) -> None:
            if self._unfinished.rpartition("\r")[2].strip():
                self.write("\n")


@dataclass
class _Training:
    """How far the game has come."""

    updates: int
    total: int
    generator_steps: int
    round: int = 0

    def begin(self, updates: int) -> None:
        self.updates, self.round = updates, updates // self.generator_steps + 1

    @property
    def rounds(self) -> int:
        return math.ceil(self.total / self.generator_steps)


@dataclass
class _Loop:
    """A loop inside of it, of a length that may be unknown."""

    description: str
    unit: str
    total: int | None
    done: int = 0


def _bar_line(name: str, done: int, total: int | None, *texts: str) -> "RenderableType":
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(name), ProgressBar(total, done, width=None), *(Text(text, no_wrap=True) for text in texts))
    grid.columns[1].ratio = 1
    grid.expand = True
    return grid


def _training_line(training: _Training, stopwatch: "Stopwatch") -> "RenderableType":
    left = stopwatch.seconds_left(training.total)
    texts = [f"{training.updates}/{training.total} updates"]
    if training.round:
        texts.append(f"round {training.round}/{training.rounds}")
    texts.append(f"{tqdm.format_interval(stopwatch.elapsed)} elapsed")
    if left is not None:
        texts.append(f"{tqdm.format_interval(left)} left")
    return _bar_line("G", training.updates, training.total, *texts)


def _phases_line(stopwatch: "Stopwatch") -> "RenderableType":
    shares = stopwatch.shares()
    texts = []
    for phase, share in shares.items():
        runs = phase == stopwatch.phase
        texts.append(Text(f"{'>' if runs else ' '} {phase or 'other'} {share:.0%}", "bold" if runs else "dim"))
    return Columns(texts, (0, 1))


def _loop_line(loop: _Loop) -> "RenderableType":
    total = "" if loop.total is None else f"/{loop.total}"
    return _bar_line(loop.description, loop.done, loop.total, f"{loop.done}{total} {loop.unit}")


class Stopwatch:
    """
    How long a game runs, how much of it in each phase, and how long it has to go.

    Args:
        window (`int`): Updates that an estimate rests on, at least 1.
        now (`Callable`): Gives the time in seconds.
    """

    def __init__(self, window: int = 1, now: Callable[[], float] = time.perf_counter) -> None:
        self.phase: str | None = None
        self._now = now
        self._start = self._since = now()
        self._seconds: dict[str | None, float] = {}
        self._begun: deque[tuple[int, float]] = deque(maxlen=window + 1)
        self._first_update, self._evaluated_before = 0, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._start

    def enter(self, phase: str | None) -> None:
        """Let the time from now on count for `phase`."""
        now = self._now()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    def shares(self) -> dict[str | None, float]:
        """Return the share of the time so far in each phase that was entered; `None` is the time between them."""
        seconds = dict(self._seconds)  # in one go: the display reads in a thread of its own
        seconds[self.phase] = seconds.get(self.phase, 0.0) + self._now() - self._since
        total = sum(seconds.values())
        shares = {phase: value / total if total else 0.0 for phase, value in seconds.items()}
        between = shares.pop(None, 0.0)
        return shares | {None: between}

    def begin_update(self, done: int) -> None:
        """Take note that an update begins after `done` others. What was before the first is no part of an estimate."""
        if not self._begun:
            self._first_update, self._evaluated_before = done, self._evaluation
        self._begun.append((done, self._now() - self._evaluation))

    def seconds_left(self, total: int) -> float | None:
        """
        Estimate the time to the last of `total` updates.

        The last updates, from one's beginning to the next one's, tell how long one takes. Evaluations are rare and long:
        each update bears its part of all so far.

        Returns:
            `float`: seconds, or `None` before the second update.
        """
        if len(self._begun) < 2:
            return None
        (old, then), (done, last) = self._begun[0], self._begun[-1]
        evaluated = self._evaluation - self._evaluated_before
        per_update = (last - then) / (done - old) + evaluated / (done - self._first_update)
        return max(0.0, (total - done) * per_update - (self._now() - self._evaluation - last))

    @property
    def _evaluation(self) -> float:
        running = self._now() - self._since if self.phase == "evaluate" else 0.0
        return self._seconds.get("evaluate", 0.0) + running


def choose_display(args: SeqGANConfig) -> TqdmDisplay | RichProgressCallback:
    """
    Return the display for where a run's output goes: rich's in a terminal, unless rich is missing or `disable_tqdm` is
    set; else tqdm's.

    Args:
        args (`SeqGANConfig`): The settings.
    """
    in_terminal = sys.stdout.isatty() and sys.stderr.isatty() and args.process_index == 0
    if in_terminal and not args.disable_tqdm and is_rich_available():
        console = Console()
        if console.is_interactive and not console.is_jupyter:
            return RichProgressCallback(console)
    return TqdmDisplay(bool(args.disable_tqdm) or args.process_index > 0)


def headlines(logs: Mapping[str, Any]) -> dict[str, float]:
    """
    Pick the few values of a log that a person watches.

    Args:
        logs (`Mapping`): Of a training step, an evaluation or the warm-up.

    Returns:
        `dict`: loss, mean reward, entropy, D's AUC on held-out texts, held-out NLL and seconds per update, as far as the
        log has them; of a log without any, all its numbers.
    """
    logs = {name.removeprefix("warmup_"): value for name, value in logs.items() if isinstance(value, (int, float))}
    chosen = {name: logs[name] for name in _HEADLINES if name in logs}
    chosen |= {name: value for name, value in logs.items() if re.fullmatch("eval_(.*_)?nll", name)}
    phases = [value for name, value in logs.items() if name.startswith("seconds/") and name != "seconds/evaluate"]
    if phases and "loss" in logs:
        chosen["seconds per update"] = sum(phases)
    return chosen or {name: value for name, value in logs.items() if name != "total_flos"}


def completions_table(samples: Sequence[Mapping[str, Any]], step: int, width: int = 88) -> str:
    """
    Lay out completions with their scores as plain text.

    Args:
        samples (`Sequence[Mapping]`): Each with `prompt`, `completion` and `score`, P(real) in [0, 1].
        step (`int`): The update of the generator that they come from.
        width (`int`): Characters of a text that are shown, at least 4.

    Returns:
        `str`: a header and one line a completion.
    """
    lines = [f"step {step}  P(real)  completion"]
    for sample in samples:
        text = one_line(f"{sample['prompt']} {sample['completion']}")
        text = text if len(text) <= width else text[: width - 3] + "..."
        lines.append(f"{'':{len(str(step)) + 5}}  {sample['score']:7.3f}  {text}")
    return "\n".join(lines)
