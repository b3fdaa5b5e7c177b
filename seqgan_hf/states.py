"""States that are entered for a while and put back: dropout off, random numbers of one's own."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """
    Put a model into eval mode, and each of its modules back into the mode it was in on leaving.

    Args:
        model (`nn.Module`): Any.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """
    Draw from random states of one's own: those outside do not move.

    Args:
        seed (`int`): Decides what is drawn.
        device (`torch.device`): Where, beside the CPU, numbers are drawn.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # `torch.manual_seed` would also seed GPUs that are not restored.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
