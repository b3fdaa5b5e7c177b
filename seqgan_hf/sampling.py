"""Next tokens from states or logits: projected, warped and drawn a block of rows at a time."""

import math
from collections.abc import Callable

import torch

from .blockwise import Projection, row_blocks


def choose_tokens(
    states: torch.Tensor,
    project: Projection | None,
    draws: torch.Tensor | None,
    process: Callable[[slice, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """
    Choose a next token for each row: the likeliest, or one drawn by inverse-CDF sampling.

    Args:
        states (`torch.Tensor` of shape `(num_rows, hidden_size)`): What is projected; without a projection, logits of
            shape `(num_rows, vocab_size)`. A logit of -inf is never chosen.
        project (`Projection`, *optional*): To the vocabulary.
        draws (`torch.Tensor` of shape `(num_rows,)`, *optional*): Uniform in [0, 1), float64. `None`: greedy.
        process (`Callable`, *optional*): Warps the logits of the rows of a slice.

    Returns:
        `torch.Tensor` of shape `(num_rows,)`: token ids; none drawn has probability 0.

    Raises:
        FloatingPointError: If logits are not finite.
    """
    tokens = torch.empty(len(states), dtype=torch.long, device=states.device)
    first_probabilities = torch.zeros(len(states), device=states.device)
    probabilities = None
    vocab_size, hidden_size = (states.shape[-1], 0) if project is None else project.weight.shape
    for rows in row_blocks(len(states), vocab_size, hidden_size, states.device):
        logits = states[rows].float() if project is None else project(states[rows])
        if process is not None:
            logits = process(rows, logits)
        if draws is None:
            tokens[rows] = logits.argmax(dim=-1)
            continue
        if probabilities is None:
            probabilities = (
                torch.empty_like(logits) if project is None else project.buffer("probabilities", len(logits))
            )
        block = torch.softmax(logits, dim=-1, out=probabilities[: len(logits)])
        first_probabilities[rows] = block[:, 0]
        tokens[rows] = inverse_cdf_sample(block, draws[rows].unsqueeze(1)).squeeze(1)
    # A softmax spreads what is not finite over its whole row.
    if not bool(first_probabilities.isfinite().all()):
        raise FloatingPointError(
            "The generator's logits are not finite: it diverged. Go back to the last checkpoint and lower "
            "`learning_rate`."
        )
    return tokens


def inverse_cdf_sample(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """
    Sample by inverting the cumulative sum, in two steps: the part of the vocabulary, then the token in it.

    One cumulative sum over a whole row would cost more than the softmax, and in float32 round away the tail of a large
    vocabulary; here sums of parts, and within a part, are added in float64.

    Args:
        probabilities (`torch.Tensor` of shape `(num_rows, vocab_size)`): At least 0, not all 0; need not sum to 1.
        draws (`torch.Tensor` of shape `(num_rows, num_draws)`): Uniform in [0, 1), float64.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_draws)`: token ids; none has probability 0.
    """
    vocab_size = probabilities.shape[1]
    width = 2 ** round(math.log2(vocab_size) / 2 - 0.5)
    whole = vocab_size // width * width
    sums = probabilities[:, :whole].unflatten(1, (-1, width)).sum(dim=-1)
    if whole < vocab_size:
        sums = torch.cat([sums, probabilities[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    cumulative = sums.cumsum(dim=1, dtype=torch.float64)
    target = _strictly_below(cumulative[:, -1:], draws * cumulative[:, -1:])
    # `right=True` finds the first entry above the target, which a part of probability 0 never is.
    part = torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[1] - 1)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, part)

    ids = part.unsqueeze(2) * width + torch.arange(width, device=part.device)
    inside = probabilities.gather(1, ids.clamp(max=vocab_size - 1).flatten(1)).view(ids.shape)
    if whole < vocab_size:
        inside = inside.masked_fill(ids >= vocab_size, 0.0)
    cumulative = inside.cumsum(dim=2, dtype=torch.float64)
    target = _strictly_below(cumulative[..., -1:], (target - before).clamp(min=0).unsqueeze(2))
    place = torch.searchsorted(cumulative, target, right=True).clamp_(max=width - 1).squeeze(2)
    tokens = (part * width + place).clamp_(max=vocab_size - 1)
    if tokens.device.type == "cpu":
        return tokens
    # The parallel cumulative sums of a GPU may grow by a rounding error where nothing was added.
    return torch.where(probabilities.gather(1, tokens) > 0, tokens, probabilities.argmax(dim=1, keepdim=True))


def _strictly_below(total: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Undo a product's rounding up to the total, above which there is nothing."""
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
