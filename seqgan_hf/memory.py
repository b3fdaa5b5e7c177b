"""How much memory is free, and how many rows of a generator it holds."""

from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .blockwise import rows_at_once
from .heads import split_head
from .states import dropout_off

logger = logging.get_logger(__name__)

_USED_SHARE = 0.5  # the rest is for what a row needs beside its cache, and for fragmentation
_MOST_ROWS_ON_CPU = 2048  # more rows at once are no faster there
_COPIES = 2  # a cache that is moved to larger memory, or reordered, exists twice, at worst
_PROBE_LENGTHS = (1, 4)
# Folder, limit and use of a container's memory, and the part of it that the system takes back when it needs it.
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device) -> int:
    """
    Return how much memory can still be had on a device: of a GPU, what torch holds and does not use counts, too.

    Args:
        device (`torch.device`): On a CPU, the limit of a container (cgroup v2 or v1) counts as well as the machine's.

    Returns:
        `int`: bytes.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    free = psutil.virtual_memory().available
    for folder, limit, used, reclaimable in _CGROUPS:
        if Path(f"{folder}/{limit}").is_file() and (most := Path(f"{folder}/{limit}").read_text().strip()) != "max":
            statistics = dict(line.split() for line in Path(f"{folder}/memory.stat").read_text().splitlines())
            in_use = int(Path(f"{folder}/{used}").read_text()) - int(statistics.get(reclaimable, 0))
            free = min(free, int(most) - in_use)
    return max(free, 0)


def rows_that_fit(model: PreTrainedModel, length: int) -> int:
    """
    Choose how many rows a generator may write at once, from the memory that is free now.

    What a row's cache takes is measured on one row of a few tokens; half of the free memory is given to caches (twice
    each: they are copied where rows fork or grow) and logits.

    Args:
        model (`PreTrainedModel`): The generator, on its device.
        length (`int`): Tokens of a row, prompt included.

    Returns:
        `int`: a power of two, at least 1 and on a CPU at most 2,048.
    """
    short, long = (_cache_bytes(model, tokens) for tokens in _PROBE_LENGTHS)
    per_token = (long - short) / (_PROBE_LENGTHS[1] - _PROBE_LENGTHS[0])
    cache = short + per_token * (length - _PROBE_LENGTHS[0])
    vocab_size, head = model.config.get_text_config().vocab_size, split_head(model)
    fixed, per_row = 0, _COPIES * cache
    if head is None:
        per_row += 3 * 4 * vocab_size
    else:
        fixed = 3 * 4 * vocab_size * rows_at_once(vocab_size, head.in_features, model.device)
    free = free_bytes(model.device)
    rows = int((free * _USED_SHARE - fixed) / max(per_row, 1))
    if rows < 2:
        logger.warning_once(
            f"Only {free / 2**20:,.0f} MiB are free, so rollouts are written one by one, which is slow. Free memory, or "
            "set `rollout_batch_size` to a number."
        )
    if model.device.type == "cpu":
        rows = min(rows, _MOST_ROWS_ON_CPU)
    return 2 ** (max(rows, 1).bit_length() - 1)


@torch.no_grad()
def _cache_bytes(model: PreTrainedModel, length: int) -> int:
    token = torch.zeros(1, length, dtype=torch.long, device=model.device)
    with dropout_off(model):
        outputs = model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=True)
    return sum(_tensor_bytes(outputs.get(name), set()) for name in ("past_key_values", "cache_params"))


def _tensor_bytes(value: Any, seen: set[int]) -> int:
    """Add up the tensors inside a cache, whatever it is made of."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_tensor_bytes(part, seen) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(part, seen) for part in value)
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return _tensor_bytes(vars(value), seen)
    return 0
