"""Prefixes of completions become finished sequences: Monte Carlo rollouts in lockstep, scored as they finish."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from .chunks import RowLimit
from .completions import Completions
from .generation import ForkPlan, new_row_limit, run_plan, sampling_mode
from .masking import mask_after_eos
from .randomness import derived_keys, new_keys

Score = Callable[[Completions], torch.Tensor]


@dataclass
class Rollouts:
    """
    Finished sequences and the prefixes they were forked from.

    Args:
        completions (`Completions`): The finished sequences, forced prefix included.
        row (`torch.Tensor` of shape `(num_sequences,)`): The completion each was forked from.
        prefix_length (`torch.Tensor` of shape `(num_sequences,)`): How many of its tokens were kept; 0: the prompt alone.
        rollout (`torch.Tensor` of shape `(num_sequences,)`): Its number among the rollouts of that prefix.
    """

    completions: Completions
    row: torch.Tensor
    prefix_length: torch.Tensor
    rollout: torch.Tensor


@torch.inference_mode()
def rollout(
    model: PreTrainedModel,
    completions: Completions,
    generation_config: GenerationConfig,
    num_rollouts: int,
    stride: int = 1,
    batch_size: int | None = None,
    from_prompt: bool = False,
    row_limit: RowLimit | None = None,
    row_keys: torch.Tensor | None = None,
) -> Iterator[Rollouts]:
    """
    Finish every prefix of every completion `num_rollouts` times: MC search of SeqGAN, Eq. 3
    (https://huggingface.co/papers/1609.05473).

    A prefix that is the whole completion is not rolled out. Forks are sorted by prefix length and cut into chunks of
    `batch_size`: a chunk encodes its shortest prefix once and walks on from there, so memory is bounded whatever the
    number of rollouts, completions and tokens. In one chunk it takes at most one forward pass a position.

    Args:
        model (`PreTrainedModel`): The rollout policy.
        completions (`Completions`): On the model's device.
        generation_config (`GenerationConfig`): From `sampling_config`; its `max_new_tokens` bounds what is finished.
        num_rollouts (`int`): Per prefix, at least 1.
        stride (`int`): Roll out every so many tokens only, at least 1.
        batch_size (`int`, *optional*): The most rollouts alive at once; all by default.
        from_prompt (`bool`): Also finish the empty prefix of each completion: the value of its prompt.
        row_limit (`RowLimit`, *optional*): Where it is kept how many were too many for the memory.
        row_keys (`torch.Tensor` of shape `(batch_size,)`, *optional*): Those of the rollouts' random numbers are made of
            each completion's, the prefix length and the rollout's number; drawn from torch's own by default.

    Yields:
        `Rollouts`: a chunk as soon as it is finished.
    """
    prefix_length, row, number = _forks(completions, num_rollouts, stride, from_prompt)
    if len(row) == 0:
        return
    row_limit = row_limit or new_row_limit()
    if row_keys is None:
        row_keys = new_keys(len(completions), row.device)
    keys = derived_keys(derived_keys(row_keys[row], prefix_length), number)
    forced_ids = _pad_to(completions.completion_ids, generation_config.max_new_tokens, generation_config.pad_token_id)

    def finish(chunk: slice) -> Rollouts:
        chunk_length, chunk_row = prefix_length[chunk], row[chunk]
        rows, parents = chunk_row.unique(return_inverse=True)
        plan = ForkPlan(
            forced_ids=forced_ids[rows],
            first_length=int(chunk_length[0]),
            forks={int(p): parents[chunk_length == p] for p in chunk_length.unique()},
            keys=keys[chunk],
        )
        with sampling_mode(model):
            ids = run_plan(model, completions.prompt_ids[rows], completions.prompt_mask[rows], plan, generation_config)
        finished = Completions(
            prompt_ids=completions.prompt_ids[chunk_row],
            prompt_mask=completions.prompt_mask[chunk_row],
            completion_ids=ids,
            completion_mask=mask_after_eos(ids, generation_config.eos_token_id),
        )
        return Rollouts(finished, chunk_row, chunk_length, number[chunk])

    yield from row_limit.split(len(row), batch_size or len(row), finish)


def score_rollouts(
    model: PreTrainedModel,
    completions: Completions,
    score: Score,
    generation_config: GenerationConfig,
    num_rollouts: int,
    stride: int = 1,
    batch_size: int | None = None,
    from_prompt: bool = False,
    row_limit: RowLimit | None = None,
    row_keys: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Score the rollouts of every prefix, and each whole completion for its last token.

    Q(Y_{1:t-1}, y_t) of SeqGAN before the mean over rollouts, Eq. 4. A token whose prefix was not rolled out
    (`stride > 1`) has the scores of the next prefix that was.

    Args:
        model, completions, generation_config, num_rollouts, stride, batch_size, from_prompt, row_limit, row_keys: See
            [`rollout`].
        score (`Callable`): Finished `Completions` to scores, a `torch.Tensor` of shape `(batch_size,)`.

    Returns:
        `tuple` of two `torch.Tensor`: scores of shape `(num_rollouts, batch_size, completion_length)`, 0 behind each
        completion, and of the prompts alone, of shape `(num_rollouts, batch_size)` (0 unless `from_prompt`).
    """
    batch, length = completions.completion_ids.shape
    device = completions.completion_ids.device
    # Column 0 holds the prompt's value, column t + 1 the value after token t.
    values = torch.zeros(num_rollouts, batch, length + 1, device=device)
    rows = torch.arange(batch, device=device)
    values[:, rows, completions.lengths] = score(completions).float()
    for chunk in rollout(
        model, completions, generation_config, num_rollouts, stride, batch_size, from_prompt, row_limit, row_keys
    ):
        values[chunk.rollout, chunk.row, chunk.prefix_length] = score(chunk.completions).float()
    prefix_length = torch.arange(1, length + 1, device=device)
    estimated = torch.minimum((prefix_length + stride - 1) // stride * stride, completions.lengths.unsqueeze(1))
    scores = values.gather(2, estimated.expand(num_rollouts, -1, -1)) * completions.completion_mask
    return scores, values[:, :, 0].clone()


def _forks(
    completions: Completions, num_rollouts: int, stride: int, from_prompt: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """List the forks as prefix lengths, rows and rollout numbers, sorted in this order."""
    lengths = completions.lengths
    candidates = torch.arange(stride, max(int(lengths.max()), stride), stride, device=lengths.device)
    unfinished = candidates.unsqueeze(1) < lengths.unsqueeze(0)
    position, row = unfinished.nonzero(as_tuple=True)
    prefix_length = candidates[position]
    if from_prompt:
        prefix_length = torch.cat([torch.zeros_like(lengths), prefix_length])
        row = torch.cat([torch.arange(len(lengths), device=lengths.device), row])
    number = torch.arange(num_rollouts, device=lengths.device).repeat(len(row))
    return prefix_length.repeat_interleave(num_rollouts), row.repeat_interleave(num_rollouts), number


def _pad_to(ids: torch.Tensor, length: int, pad_token_id: int) -> torch.Tensor:
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=pad_token_id)
