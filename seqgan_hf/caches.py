"""Attention caches that rows and tokens are written into, instead of being copied to grow."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_FEWEST_TOKENS = 16


class InPlaceLayer(DynamicLayer):
    """
    Keys and values of one attention layer as views of memory with room for more rows and tokens.

    `DynamicLayer` copies its whole content at every token and at every change of rows. For a small model on a CPU these
    copies take more time than the model. Here the room doubles where it does not suffice.

    Args:
        expected_length (`int`): Tokens of a row at the end, if nothing unforeseen is added to it: room is not doubled
            beyond that.
    """

    def __init__(self, expected_length: int) -> None:
        super().__init__()
        self.expected_length = expected_length
        self._memory: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next tokens, `(num_rows, num_heads, num_tokens, head_dim)`, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._memory = [
                states.new_empty(0, states.shape[1], 0, states.shape[3]) for states in (key_states, value_states)
            ]
        start = self.get_seq_length()
        num_rows, _, num_tokens, _ = key_states.shape
        self._make_room(num_rows, start + num_tokens, written=start)
        for memory, states in zip(self._memory, (key_states, value_states), strict=True):
            memory[:num_rows, :, start : start + num_tokens] = states
        return self._show(num_rows, start + num_tokens)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Put row `beam_idx[i]` at place `i`. Only rows that change their place, or are repeated, are copied."""
        length = self.get_seq_length()
        beam_idx = beam_idx.to(self.device)
        self._make_room(len(beam_idx), length, written=length)
        changed = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero().squeeze(1)
        for memory in self._memory:
            written = memory[:, :, :length]
            written[changed] = written[beam_idx[changed]]  # the right side is a copy, made first
        self._show(len(beam_idx), length)

    def _make_room(self, num_rows: int, length: int, written: int) -> None:
        """Move to larger memory where this is too small; `written` tokens are in it."""
        rows, _, room, _ = self._memory[0].shape
        if num_rows <= rows and length <= room:
            return
        if length > room:
            room = max(length, min(max(2 * room, _FEWEST_TOKENS), self.expected_length))
        larger = [
            memory.new_empty(max(num_rows, rows), memory.shape[1], room, memory.shape[3]) for memory in self._memory
        ]
        for old, new in zip(self._memory, larger, strict=True):
            new[:rows, :, :written] = old[:, :, :written]
        self._memory = larger

    def _show(self, num_rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (memory[:num_rows, :, :length] for memory in self._memory)
        self.keys, self.values = keys, values
        return keys, values


def write_in_place(cache: Any, expected_length: int) -> None:
    """
    Let the full-attention layers of an empty cache write in place. Other caches, and other layers, stay as they are.

    Args:
        cache (`Cache`, *optional*): What `generate` prepared.
        expected_length (`int`): Tokens of a row at the end.
    """
    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length() > 0:
        return
    cache.layers = [InPlaceLayer(expected_length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
