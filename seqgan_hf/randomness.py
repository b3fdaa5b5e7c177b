"""Random numbers by name: a function of a key and a place, so that no other row, chunk or process has a say in them."""

import torch

# What numbers are drawn for: keys of different purposes have nothing in common.
COMPLETIONS, ROLLOUTS, NEGATIVES, CONTROLS, SAMPLES = range(5)

# SplitMix64 (Steele, Lea and Flood, https://doi.org/10.1145/2660193.2660195): the step of its counter, and its mixer.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)


def new_keys(count: int, device: torch.device) -> torch.Tensor:
    """
    Draw keys from torch's own random numbers, for who has no names to give.

    Args:
        count (`int`): How many.
        device (`torch.device`): Where they are wanted; they are drawn on the CPU.

    Returns:
        `torch.Tensor` of shape `(count,)` and dtype `long`.
    """
    return torch.randint(-(2**63), 2**63 - 1, (count,)).to(device)


def named_key(*names: int) -> int:
    """
    Make a key of names, such as a seed, a purpose and a step.

    Args:
        *names (`int`): In their order.

    Returns:
        `int`: of 64 bits, with a sign.
    """
    key = torch.zeros((), dtype=torch.long)
    for name in names:
        key = derived_keys(key, torch.tensor(name))
    return int(key)


def derived_keys(keys: torch.Tensor | int, names: torch.Tensor) -> torch.Tensor:
    """
    Make new keys, each of a key and a name. A key that others are derived from is not drawn with itself.

    Args:
        keys (`torch.Tensor` or `int`): Of dtype `long`, any shape.
        names (`torch.Tensor`): Of dtype `long`, of a shape that goes with it.

    Returns:
        `torch.Tensor` of dtype `long`.
    """
    return _mixed(keys + (names + 1) * _STEP)


def uniform_draws(keys: torch.Tensor, place: int) -> torch.Tensor:
    """
    Draw one number of each key.

    Args:
        keys (`torch.Tensor` of shape `(num_keys,)`): From [`derived_keys`] or [`new_keys`].
        place (`int`): Which of its numbers, from 0 on.

    Returns:
        `torch.Tensor` of shape `(num_keys,)` and dtype `double`: in [0, 1), the same on every device.
    """
    step = ((place + 1) * _STEP + 2**63) % 2**64 - 2**63
    return _logical_shift(_mixed(keys + step), 11).double().mul_(2.0**-53)


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Mix new numbers, in place."""
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        numbers ^= _logical_shift(numbers, shift)
        if factor is not None:
            numbers *= factor
    return numbers


def _logical_shift(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift to the right, and fill with zeros instead of the sign."""
    return (numbers >> bits).bitwise_and_(2 ** (64 - bits) - 1)
