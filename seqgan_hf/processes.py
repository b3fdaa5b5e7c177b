"""Who works on what where several processes play one game: shares of rows, and tensors put together from them.

Every function behind [`share_of`] is a meeting: all processes call it, in the same order. With one process none of them
does anything.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed, nn

Result = TypeVar("Result")


def num_processes() -> int:
    """Return how many processes play this game."""
    return distributed.get_world_size() if _are_several() else 1


def is_first() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return process_index() == 0


def process_index() -> int:
    """Return the number of this process, from 0 on."""
    return distributed.get_rank() if _are_several() else 0


def share_of(count: int) -> slice:
    """
    Return which of some rows this process works on: neighbours, as many as any other process has, or one less.

    Args:
        count (`int`): Of the rows; those of some processes are none if there are fewer rows than processes.
    """
    index, processes = process_index(), num_processes()
    return slice(count * index // processes, count * (index + 1) // processes)


def put_together(mine: torch.Tensor, rows: torch.Tensor | slice, count: int) -> torch.Tensor:
    """
    Put together what each process has worked out for its rows.

    Args:
        mine (`torch.Tensor` of shape `(num_rows, ...)`): This process's, of one shape and type on all but for the rows.
        rows (`torch.Tensor` or `slice`): Where they stand among all; no row is two processes'.
        count (`int`): Of all rows.

    Returns:
        `torch.Tensor` of shape `(count, ...)`: the same on every process.
    """
    whole = mine.new_zeros(count, *mine.shape[1:])
    whole[rows] = mine
    return total(whole)


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of the processes' tensors, in the place of this one's."""
    if _are_several():
        distributed.all_reduce(tensor)
    return tensor


def largest(number: int, device: torch.device) -> int:
    """
    Return the largest of the processes' numbers.

    Args:
        number (`int`): This process's.
        device (`torch.device`): That of the network, which the processes exchange tensors of.
    """
    if not _are_several():
        return number
    box = torch.tensor(number, device=device)
    distributed.all_reduce(box, distributed.ReduceOp.MAX)
    return int(box)


def from_first(make: Callable[[], Result]) -> Result:
    """
    Return to all what the first process makes, and it alone.

    Args:
        make (`Callable`): Returns anything that can be pickled.
    """
    if not _are_several():
        return make()
    box: list[Any] = [make() if is_first() else None]
    distributed.broadcast_object_list(box)
    made: Result = box[0]
    return made


def meet() -> None:
    """Wait until every process is here."""
    if _are_several():
        distributed.barrier()


@torch.no_grad()
def begin_alike(model: nn.Module) -> None:
    """
    Give a network the weights of the first process's: what is drawn anew may differ.

    Args:
        model (`nn.Module`): On its device; of the same architecture everywhere.
    """
    if _are_several():
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, 0)


def add_gradients(model: nn.Module) -> None:
    """
    Add up the gradients of all processes, in the place of this one's. A process that has none adds 0; where none has any,
    there is none.

    Args:
        model (`nn.Module`): After its backward pass.
    """
    if not _are_several():
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for dtype in sorted({parameter.dtype for parameter in trained}, key=str):
        some = [parameter for parameter in trained if parameter.dtype == dtype]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
        have = torch.tensor([p.grad is not None for p in some], dtype=dtype, device=some[0].device)
        summed = total(torch.cat([have, *(part.flatten() for part in parts)]))
        for parameter, count, part in zip(
            some, summed[: len(some)], summed[len(some) :].split([p.numel() for p in some]), strict=True
        ):
            parameter.grad = part.view_as(parameter) if count > 0 else None


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
