"""Projection to the vocabulary and what is made of it, a block of rows at a time: logits of all rows never exist."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Logits of a block stay in a CPU core's cache: 128 rows of 5,000 were the fastest of 48 to 192. But a block has at least
# twice as many rows as the states have entries, or the projection's weights are read too often: with 256 entries and
# 8,000 tokens, blocks of 512 rows take three quarters of the time of blocks of 80. On a GPU a block is 256 MiB, not
# measured.
_CPU_ELEMENTS = 128 * 5000
_CPU_MOST_ELEMENTS = 2**25
_GPU_ELEMENTS = 2**26


def rows_at_once(vocab_size: int, hidden_size: int, device: torch.device) -> int:
    """
    Return how many rows of logits to hold at a time.

    Args:
        vocab_size (`int`): Logits of a row.
        hidden_size (`int`): Entries of the states that are projected; 0 where logits come as they are.
        device (`torch.device`): Where they are.

    Returns:
        `int`, at least 1.
    """
    if device.type != "cpu":
        return max(_GPU_ELEMENTS // vocab_size, 1)
    return max(min(max(_CPU_ELEMENTS // vocab_size, 2 * hidden_size), _CPU_MOST_ELEMENTS // vocab_size), 1)


def row_blocks(num_rows: int, vocab_size: int, hidden_size: int, device: torch.device) -> Iterator[slice]:
    """Cut `num_rows` rows into blocks of [`rows_at_once`]."""
    at_once = rows_at_once(vocab_size, hidden_size, device)
    for start in range(0, num_rows, at_once):
        yield slice(start, min(start + at_once, num_rows))


class Projection:
    """
    A linear layer to the vocabulary that writes float32 logits of one block after another into the same memory.

    Memory asked for anew at each block would cost more than the projection: the kernel has to clear its pages.

    Args:
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): Of the layer.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Of the layer.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        device = weight.device
        self.dtype = weight.dtype
        if torch.is_autocast_enabled(device.type):
            self.dtype = torch.get_autocast_dtype(device.type)
        self.weight = weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self._buffers: dict[str, torch.Tensor] = {}

    def buffer(self, name: str, num_rows: int) -> torch.Tensor:
        """Return memory of shape `(num_rows, vocab_size)` in float32, the same for the same name."""
        if name not in self._buffers or len(self._buffers[name]) < num_rows:
            self._buffers[name] = torch.empty(num_rows, len(self.weight), device=self.weight.device)
        return self._buffers[name][:num_rows]

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Project `(num_rows, hidden_size)` to float32 logits `(num_rows, vocab_size)`; the next call overwrites them."""
        states = states.to(self.dtype)
        if self.dtype != torch.float32:
            with torch.autocast(states.device.type, enabled=False):
                return torch.nn.functional.linear(states, self.weight, self.bias).float()
        logits = self.buffer("logits", len(states))
        if self.bias is None:
            return torch.mm(states, self.weight.t(), out=logits)
        return torch.addmm(self.bias, states, self.weight.t(), out=logits)


@torch.no_grad()
def logps_at_temperatures(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    token_ids: torch.Tensor,
    temperatures: Sequence[float],
) -> torch.Tensor:
    """
    Log-probability of tokens at some temperatures: each block is projected once for all.

    Args:
        states (`torch.Tensor` of shape `(num_tokens, hidden_size)`): What the head projects.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The head's.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): The head's.
        token_ids (`torch.Tensor` of shape `(num_tokens,)`): The tokens.
        temperatures (`Sequence[float]`): Each divides the logits; above 0.

    Returns:
        `torch.Tensor` of shape `(num_temperatures, num_tokens)`: nats, at most 0.
    """
    project = Projection(weight, bias)
    logps = torch.empty(len(temperatures), len(states), device=states.device)
    for rows in row_blocks(len(states), weight.shape[0], weight.shape[1], states.device):
        logits = project(states[rows])
        for index, temperature in enumerate(temperatures):
            divided = logits
            if temperature != 1.0:
                divided = torch.div(logits, temperature, out=project.buffer("divided", len(logits)))
            probabilities = torch.softmax(divided, dim=-1, out=project.buffer("probabilities", len(logits)))
            logps[index, rows] = _chosen_logps(divided, probabilities, token_ids[rows].unsqueeze(1))[0]
    return logps


def _chosen_logps(
    logits: torch.Tensor, probabilities: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of one token of each row, and the logarithm of the sum of exponentials."""
    # The largest probability is at least 1 / vocab_size: its logarithm is safe.
    log_total = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
    return logits.gather(1, ids).squeeze(1) - log_total, log_total


@dataclass
class TokenValues:
    """
    What is known of each token under a model: `torch.Tensor`s of shape `(num_tokens,)`, in nats and without gradient.

    Args:
        logps (`torch.Tensor`): Log-probability of the token.
        entropy (`torch.Tensor`): Of the distribution that it was drawn from.
        kl (`torch.Tensor`): From that distribution, at temperature 1, to the reference's.
    """

    logps: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor


def token_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    token_ids: torch.Tensor,
    nll_weights: torch.Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    kl_weights: torch.Tensor | None = None,
    reference: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None,
) -> tuple[torch.Tensor, TokenValues]:
    """
    Weighted sum of each token's -log p and KL to a reference; the gradient is made along the way, block by block.

    Args:
        states (`torch.Tensor` of shape `(num_tokens, hidden_size)`): What the head projects.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The head's.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): The head's.
        token_ids (`torch.Tensor` of shape `(num_tokens,)`): The tokens.
        nll_weights (`torch.Tensor` of shape `(num_tokens,)`): What each -log p is multiplied by.
        temperature (`float`): Divides the logits of -log p and entropy; above 0.
        with_entropy (`bool`): Whether to compute the entropy; it is 0 otherwise.
        kl_weights (`torch.Tensor` of shape `(num_tokens,)`, *optional*): What each KL is multiplied by; needs
            `reference`.
        reference (`tuple`, *optional*): States, weight and bias of the reference policy.

    Returns:
        `tuple`: the sum, a scalar with gradient to `states`, `weight` and `bias`; and the [`TokenValues`].
    """
    job = _Job(token_ids, nll_weights, temperature, with_entropy, kl_weights, reference, torch.is_grad_enabled())
    loss, logps, entropy, kl = _TokenLoss.apply(states, weight, bias, job)
    return loss, TokenValues(logps, entropy, kl)


@dataclass
class _Job:
    token_ids: torch.Tensor
    nll_weights: torch.Tensor
    temperature: float
    with_entropy: bool
    kl_weights: torch.Tensor | None
    reference: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None
    with_gradient: bool

    def largest_weight(self) -> torch.Tensor:
        weights = [weights.abs() for weights in (self.nll_weights, self.kl_weights) if weights is not None]
        return torch.cat([*weights, weights[0].new_full((1,), torch.finfo(torch.float32).tiny)]).amax()


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, job: _Job
    ) -> tuple[torch.Tensor, ...]:
        inputs = (states, weight, bias)
        needed = [job.with_gradient and wanted for wanted in ctx.needs_input_grad[:3]]
        gradients = [
            torch.zeros(tensor.shape, device=tensor.device) if wanted and tensor is not None else None
            for tensor, wanted in zip(inputs, needed, strict=True)
        ]
        project = Projection(weight, bias)
        project_reference = None if job.reference is None else Projection(*job.reference[1:])
        # In half precision a gradient of 1e-4 / (B T) would be lost: it is made at full size and scaled back after.
        scale = job.largest_weight()
        logps, entropy, kl = torch.zeros(3, len(states), device=states.device)
        for rows in row_blocks(len(states), weight.shape[0], weight.shape[1], states.device):
            logits = project(states[rows])
            ids, weights = job.token_ids[rows].unsqueeze(1), (job.nll_weights[rows] / scale).unsqueeze(1)
            slopes = None
            if job.reference is not None and job.kl_weights is not None and project_reference is not None:
                # At temperature 1, before the logits are divided in place.
                kl[rows], slopes = _kl_and_slopes(logits, project_reference(job.reference[0][rows]))
                slopes *= (job.kl_weights[rows] / scale).unsqueeze(1)
            if job.temperature != 1.0:
                logits /= job.temperature
            probabilities = torch.softmax(logits, dim=-1, out=project.buffer("probabilities", len(logits)))
            logps[rows], log_total = _chosen_logps(logits, probabilities, ids)
            if job.with_entropy:
                entropy[rows] = log_total - torch.linalg.vecdot(probabilities, logits)
            if any(needed):
                by_logits = probabilities.mul_(weights).scatter_add_(1, ids, -weights)
                if job.temperature != 1.0:
                    by_logits /= job.temperature
                if slopes is not None:
                    by_logits += slopes
                _add_gradients(gradients, by_logits, states, project, rows)
        loss = -(logps * job.nll_weights).sum()
        if job.kl_weights is not None:
            loss = loss + (kl * job.kl_weights).sum()
        ctx.gradients, ctx.scale = gradients, scale
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        ctx.mark_non_differentiable(logps, entropy, kl)
        return loss, logps, entropy, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factor = by_loss * ctx.scale
        made = [
            None if gradient is None else (gradient * factor).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        return *made, None


def _kl_and_slopes(logits: torch.Tensor, reference_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL(softmax(logits) || softmax(reference_logits)) of each row, and its derivative by the logits."""
    logps = torch.log_softmax(logits, dim=-1)
    differences = logps - torch.log_softmax(reference_logits, dim=-1)
    probabilities = logps.exp_()
    kl = torch.linalg.vecdot(probabilities, differences)
    return kl, differences.sub_(kl.unsqueeze(1)).mul_(probabilities)


def _add_gradients(
    gradients: Sequence[torch.Tensor | None],
    by_logits: torch.Tensor,
    states: torch.Tensor,
    project: Projection,
    rows: slice,
) -> None:
    """Carry the derivative by a block's logits on to states, weight and bias."""
    by_states, by_weight, by_bias = gradients
    if by_bias is not None:
        by_bias += by_logits.sum(dim=0)
    by_logits, states = by_logits.to(project.dtype), states[rows].to(project.dtype)
    with torch.autocast(by_logits.device.type, enabled=False):
        if by_states is not None:
            by_states[rows] = (by_logits @ project.weight).float()
        if by_weight is not None and project.dtype == by_weight.dtype:
            by_weight.addmm_(by_logits.t(), states)
        elif by_weight is not None:
            by_weight += by_logits.t() @ states
