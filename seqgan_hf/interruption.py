"""Ctrl-C and SIGTERM: the update under way is finished, a checkpoint is written, and the process ends."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .processes import is_first, largest

logger = logging.get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 5


class Interrupted(SystemExit):
    """
    The end of a run that a signal asked for, after its checkpoint was written.

    Args:
        number (`int`): The signal. The exit status is 128 more, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class InterruptionCallback(TrainerCallback):
    """
    Ends training after the update under way, with a checkpoint, on SIGINT (Ctrl-C) or SIGTERM (a scheduler's notice).

    Another one does what it did before, if it comes 5 seconds after the first or later: a scheduler's notice may come
    twice, to a process and by way of its launcher. Of several processes, which get it at different moments, all end after
    the same update.

    Args:
        device (`torch.device`): That of the network.

    Attributes:
        received (`int`, *optional*): The number of the signal, as soon as all processes know of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.received: int | None = None
        self._came: int | None = None
        self._came_at = 0.0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while this is entered. Other threads than the first cannot, and are left alone."""
        self.received = self._came = None
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: a run in the background of a shell is not meant by its Ctrl-C.
            wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in wanted}
        try:
            yield
        finally:
            self._stop_listening()

    def _stop_listening(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._came is not None:
            if time.monotonic() - self._came_at >= _PATIENCE:
                self._stop_listening()
                signal.raise_signal(number)
            return
        self._came, self._came_at = number, time.monotonic()
        if not is_first():
            return
        name = signal.Signals(number).name
        # A handler may interrupt a print, and what buffers refuses to be entered again. It prints all the same, and does
        # not write to the terminal itself: a live display would lose its place.
        with suppress(RuntimeError):
            print(
                f"{name}: finishing this update, then saving. Another one, {_PATIENCE} seconds later, ends at once.",
                file=sys.stderr,
                flush=True,
            )

    def _tell_each_other(self) -> None:
        self.received = largest(self._came or 0, self.device) or None

    def end_if_asked(self, last_words: str) -> None:
        """
        End the process, if a signal has asked for it. All processes ask at once.

        Args:
            last_words (`str`): A warning, where things stand.

        Raises:
            Interrupted: If a signal has come.
        """
        self._tell_each_other()
        if self.received is not None:
            self.end(last_words)

    def end(self, last_words: str) -> NoReturn:
        """
        End the process as the signal has asked for.

        Args:
            last_words (`str`): A warning, where things stand.

        Raises:
            Interrupted: Always.
        """
        if is_first():
            logger.warning(last_words)
        raise Interrupted(self.received or 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell_each_other()
        if self.received is not None:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.received is not None:  # the end that it asked for is no end of an epoch, and all is saved
            control.should_save = control.should_evaluate = False
