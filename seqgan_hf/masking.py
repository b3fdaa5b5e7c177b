"""Masks: 1 where a token counts. The one place that knows their polarity."""

import torch


def mask_after_eos(completion_ids: torch.Tensor, eos_token_id: int | None) -> torch.Tensor:
    """
    Mark the tokens of each completion up to and including its first EOS.

    Args:
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`):
            Generated token ids, without the prompt.
        eos_token_id (`int`, *optional*):
            The id that ends a completion. `None`: nothing ends it, every token counts.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)` and dtype `long`: 1 up to the first EOS, 0 after it.
    """
    if eos_token_id is None:
        return torch.ones_like(completion_ids)
    is_eos = completion_ids == eos_token_id
    eos_before = is_eos.cumsum(dim=1) - is_eos.long()
    return (eos_before == 0).long()


def positions_from_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """
    Number the tokens that count from 0, whatever padding stands before them.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch_size, length)`: position ids; 0 where the mask is 0 before the first token.
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Average `values` where `mask` is 1.

    Args:
        values (`torch.Tensor`): Any shape.
        mask (`torch.Tensor`): The same shape, 1 where a value counts.

    Returns:
        `torch.Tensor`: a scalar; 0 if nothing counts.
    """
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_whiten(values: torch.Tensor, mask: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """
    Shift and scale `values` to mean 0 and standard deviation 1 over the tokens that count.

    Args:
        values (`torch.Tensor` of shape `(batch_size, length)`): Any range.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a value counts.
        eps (`float`): Added to the variance, so that equal values become 0 and not NaN.

    Returns:
        `torch.Tensor` of shape `(batch_size, length)`: whitened values; 0 where the mask is 0.
    """
    centred = (values - masked_mean(values, mask)) * mask
    variance = masked_mean(centred.square(), mask)
    return centred * torch.rsqrt(variance + eps)


def counting_first(mask: torch.Tensor) -> torch.Tensor:
    """
    Return where the tokens that count stand in each row, in their order, and behind them what fills the row.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch_size, longest)`: column numbers, `longest >= 1`.
    """
    # A stable sort of the mask keeps the order of the tokens: no Python loop over rows.
    longest = max(int(mask.sum(dim=1).max()), 1)
    return mask.sort(dim=1, descending=True, stable=True).indices[:, :longest]


def left_align(ids: torch.Tensor, mask: torch.Tensor, pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Move the tokens that count to the front of each row, in their order, and cut what no row needs.

    Args:
        ids (`torch.Tensor` of shape `(batch_size, length)`): Token ids with padding anywhere.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a token counts.
        pad_token_id (`int`): Written behind the tokens.

    Returns:
        `tuple` of two `torch.Tensor` of shape `(batch_size, longest)`: right-padded ids and their mask, `longest >= 1`.
    """
    order = counting_first(mask)
    aligned_mask, aligned_ids = mask.gather(1, order), ids.gather(1, order)
    return aligned_ids.masked_fill(aligned_mask == 0, pad_token_id), aligned_mask
