"""Rows are worked on in chunks, and in smaller ones where memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers.utils import logging

logger = logging.get_logger(__name__)

Result = TypeVar("Result")


class RowLimit:
    """
    How many rows have been too many: kept from call to call, so that memory runs out once for each halving.

    Args:
        what (`str`): What is done with the rows, for the warning.
        setting (`str`): The setting that bounds them.

    Attributes:
        most (`int`, *optional*): The most rows at once from now on; `None`: memory has never run out.
    """

    def __init__(self, what: str, setting: str) -> None:
        self.what, self.setting = what, setting
        self.most: int | None = None

    def split(
        self, num_items: int, at_once: int, work: Callable[[slice], Result], rows_each: int = 1
    ) -> Iterator[Result]:
        """
        Work on items in chunks.

        Args:
            num_items (`int`): How many.
            at_once (`int`): Of them in a chunk, at least 1.
            work (`Callable`): Takes a slice of the items.
            rows_each (`int`): Rows that an item takes.

        Yields:
            what `work` returns, chunk by chunk.

        Raises:
            MemoryError: If a single item does not fit.
        """
        start = 0
        while start < num_items:
            if self.most is not None:
                at_once = max(min(at_once, self.most // rows_each), 1)
            result = _unless_out_of_memory(work, slice(start, min(start + at_once, num_items)))
            if isinstance(result, _OutOfMemory):
                clear_device_cache(garbage_collection=True)
                self._halve(min(at_once, num_items - start), rows_each, result.said)
            else:
                yield result
                start += at_once

    def _halve(self, at_once: int, rows_each: int, said: str) -> None:
        if at_once == 1:
            raise MemoryError(f"Memory ran out for {self.what} of {rows_each} rows, the fewest possible ({said}).")
        self.most = at_once // 2 * rows_each
        logger.warning(
            f"Memory ran out for {self.what} of {at_once * rows_each} rows at once; from now on it is {self.most}. Set "
            f"`{self.setting}` to that, and the next run need not find out."
        )


@contextmanager
def naming_knobs(what: str, knobs: str) -> Iterator[None]:
    """
    Say what to change where memory runs out in what cannot be cut into smaller parts.

    Args:
        what (`str`): The beginning of the sentence.
        knobs (`str`): An advice, without its full stop.

    Raises:
        MemoryError: Where memory runs out.
    """
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise MemoryError(f"{what} does not fit into memory ({str(error).splitlines()[0]}). {knobs}.") from error


class _OutOfMemory:
    def __init__(self, said: str) -> None:
        self.said = said


def _unless_out_of_memory(work: Callable[[slice], Result], rows: slice) -> Result | _OutOfMemory:
    """Return the failure instead of raising it: an error that is being handled holds on to the memory of its frames."""
    try:
        return work(rows)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return _OutOfMemory(str(error).splitlines()[0])
