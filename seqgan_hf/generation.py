"""Prompts become `Completions`: one decoding loop for completions, negatives and rollouts alike."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from .adapters import is_adapter, without_adapter
from .blockwise import Projection
from .caches import write_in_place
from .chunks import RowLimit
from .completions import Completions
from .heads import split_head, without_head
from .masking import mask_after_eos
from .randomness import new_keys, uniform_draws
from .sampling import choose_tokens
from .states import dropout_off

# These keep their state in their modules, beside a cache that they leave empty.
_STATE_INSIDE = ("recurrent_gemma",)
_CACHE_NAMES = ("past_key_values", "cache_params")


def sampling_config(text_format: Any, temperature: float = 1.0, do_sample: bool = True) -> GenerationConfig:
    """
    Describe plain sampling from the model's own distribution.

    A policy gradient needs the log-probabilities of the distribution that was sampled, so nothing truncates or warps it
    but the temperature.

    Args:
        text_format (`TextFormat`): The special tokens and the most tokens of a completion.
        temperature (`float`): Above 0.
        do_sample (`bool`): `False` decodes greedily.

    Returns:
        `GenerationConfig`
    """
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if do_sample else {}
    return GenerationConfig(
        do_sample=do_sample,
        max_new_tokens=text_format.max_completion_length,
        bos_token_id=text_format.start_token_id,
        eos_token_id=text_format.eos_token_id,
        pad_token_id=text_format.pad_token_id,
        use_cache=True,
        **sampling,
    )


def with_every_eos(sampling: GenerationConfig, own: GenerationConfig) -> GenerationConfig:
    """
    Return a copy of settings that ends a text at every EOS of a model: a chat model may come with several.

    A game knows one of them, which stays the first.

    Args:
        sampling (`GenerationConfig`): From [`sampling_config`].
        own (`GenerationConfig`): That of the model.

    Returns:
        `GenerationConfig`
    """
    config = copy.deepcopy(sampling)
    first, ends = sampling.eos_token_id, own.eos_token_id
    if first is not None and isinstance(ends, list) and set(ends) != {first}:
        config.eos_token_id = [first, *(end for end in ends if end != first)]
    return config


@contextlib.contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """
    Put a model into the state for sampling from exactly its own distribution, and back on leaving.

    Dropout goes off. The model's own `generation_config` steps aside, because `generate` fills whatever is left unset
    from it (a repetition penalty, suppressed tokens, ...), and the samples would no longer be the policy's.

    Args:
        model (`PreTrainedModel`): The generator.
    """
    # An adapter's `generate` writes its own generation_config into the model it wraps.
    owners = [model, without_adapter(model)] if is_adapter(model) else [model]
    configs = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = GenerationConfig()
    try:
        with dropout_off(model):
            yield
    finally:
        for owner, config in zip(owners, configs, strict=True):
            owner.generation_config = config


@dataclass
class ForkPlan:
    """
    Who samples from where: the sequences that `decode` samples, as forks of forced parents.

    Args:
        forced_ids (`torch.Tensor` of shape `(num_parents, length)`): What each parent is forced to write.
        keys (`torch.Tensor` of shape `(num_sequences,)`): Of the sequences' random numbers, in their order. A sequence is
            the same whatever shares its batch.
        first_length (`int`): Tokens of `forced_ids` that stand in the input already: the shortest prefix forked.
        forks (`dict[int, torch.Tensor]`): For each prefix length, the parents (with repeats) that are forked there.
            The sequences are numbered in this order.
    """

    forced_ids: torch.Tensor
    keys: torch.Tensor
    first_length: int = 0
    forks: dict[int, torch.Tensor] = field(default_factory=dict)


def new_row_limit() -> RowLimit:
    """Return the limit that completions and rollouts of one generator share."""
    return RowLimit("completions", "rollout_batch_size")


def generate_completions(
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    generation_config: GenerationConfig,
    num_generations: int = 1,
    batch_size: int | None = None,
    row_limit: RowLimit | None = None,
    row_keys: torch.Tensor | None = None,
) -> Completions:
    """
    Sample completions of prompts. A prompt is encoded once, however many completions it gets.

    Args:
        model (`PreTrainedModel`): Any causal language model.
        prompt_ids (`torch.Tensor` of shape `(num_prompts, prompt_length)`): Left-padded.
        prompt_mask (`torch.Tensor` of shape `(num_prompts, prompt_length)`): 1 where a token counts.
        generation_config (`GenerationConfig`): From [`sampling_config`].
        num_generations (`int`): Completions of each prompt; they stand next to each other.
        batch_size (`int`, *optional*): The most completions at once; all by default.
        row_limit (`RowLimit`, *optional*): Where it is kept how many were too many for the memory.
        row_keys (`torch.Tensor` of shape `(num_prompts * num_generations,)`, *optional*): Of each completion's random
            numbers, from `randomness.derived_keys`; drawn from torch's own by default.

    Returns:
        `Completions` of `num_prompts * num_generations` rows, on the model's device.
    """
    length = generation_config.max_new_tokens
    prompts_at_once = len(prompt_ids) if batch_size is None else max(batch_size // num_generations, 1)
    row_limit = row_limit or new_row_limit()
    if row_keys is None:
        row_keys = new_keys(len(prompt_ids) * num_generations, prompt_ids.device)
    keys_of_prompts = row_keys.view(len(prompt_ids), num_generations)

    def complete(rows: slice) -> torch.Tensor:
        ids, mask = prompt_ids[rows], prompt_mask[rows]
        parents = torch.arange(len(ids), device=ids.device).repeat_interleave(num_generations)
        forced_ids = ids.new_zeros(len(ids), length)
        plan = ForkPlan(forced_ids, keys_of_prompts[rows].flatten(), forks={0: parents})
        with torch.no_grad(), sampling_mode(model):
            return run_plan(model, ids, mask, plan, generation_config)

    completion_ids = torch.cat(list(row_limit.split(len(prompt_ids), prompts_at_once, complete, num_generations)))
    return Completions(
        prompt_ids=prompt_ids.repeat_interleave(num_generations, dim=0),
        prompt_mask=prompt_mask.repeat_interleave(num_generations, dim=0),
        completion_ids=completion_ids,
        completion_mask=mask_after_eos(completion_ids, generation_config.eos_token_id),
    )


def run_plan(
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    plan: ForkPlan,
    generation_config: GenerationConfig,
) -> torch.Tensor:
    """
    Hand [`decode`] to `model.generate`, so that its settings, cache and logits processors hold.

    Args:
        model (`PreTrainedModel`): In [`sampling_mode`].
        prompt_ids (`torch.Tensor` of shape `(num_parents, prompt_length)`): Left-padded.
        prompt_mask (`torch.Tensor` of shape `(num_parents, prompt_length)`): 1 where a token counts.
        plan (`ForkPlan`): What to force and where to fork.
        generation_config (`GenerationConfig`): From [`sampling_config`].

    Returns:
        `torch.Tensor` of shape `(num_sequences, max_new_tokens)`: completions, forced prefix included, padded
        after EOS.
    """
    prefix_ids = plan.forced_ids[:, : plan.first_length]
    return model.generate(
        input_ids=torch.cat([prompt_ids, prefix_ids], dim=1),
        attention_mask=torch.cat([prompt_mask, torch.ones_like(prefix_ids)], dim=1),
        generation_config=generation_config,
        custom_generate=decode,
        plan=plan,
    )


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    plan: ForkPlan,
    **model_kwargs: Any,
) -> torch.Tensor:
    """
    Walk once along the positions; every sequence that forked before a position advances in one forward pass.

    At each prefix length the plan's parents are forked by `reorder_cache` with repeated indices, and rows that ended,
    or have nothing left to fork, leave the batch. One forward pass a position, and no token is sampled twice.

    Args:
        model (`PreTrainedModel`): Called by `generate`, which prepares all other arguments.
        input_ids (`torch.Tensor` of shape `(num_parents, prompt_length + plan.first_length)`): Left-padded.
        logits_processor (`LogitsProcessorList`): Applied to the logits of every row.
        stopping_criteria (`StoppingCriteriaList`): Not used: EOS and the length of the plan end a sequence.
        generation_config (`GenerationConfig`): Gives `do_sample`, EOS and padding.
        plan (`ForkPlan`): What to force and where to fork.
        **model_kwargs: Mask, positions, cache.

    Returns:
        `torch.Tensor` of shape `(num_sequences, length)`.
    """
    length = plan.forced_ids.shape[1]
    output = _prefixes(plan, generation_config.pad_token_id)
    keys = plan.keys if generation_config.do_sample else None
    rows = _Rows(plan)
    write_in_place(model_kwargs.get("past_key_values"), input_ids.shape[1] + length - plan.first_length)
    head = split_head(model)
    project = None if head is None else Projection(head.weight, head.bias)
    with without_head(head):
        model_inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**model_inputs, return_dict=True)
    _require_forkable(model, outputs)
    for position in range(plan.first_length, length):
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        states = outputs.logits[:, -1]
        index = rows.fork(position)
        if index is not None:
            states, input_ids = states[index], input_ids[index]
            model_kwargs = _select_rows(model_kwargs, index)

        # Sequences sample; parents write what they are forced to.
        next_tokens = plan.forced_ids[rows.parent, position]
        sampling = (rows.sequence >= 0).nonzero().squeeze(1)
        sequences, sampling_ids = rows.sequence[sampling], input_ids[sampling]
        next_tokens[sampling] = choose_tokens(
            states[sampling],
            project,
            None if keys is None else uniform_draws(keys[sequences], position),
            process=_on_rows(logits_processor, sampling_ids) if logits_processor else None,
        )
        output[sequences, position] = next_tokens[sampling]
        if generation_config.eos_token_id is not None:
            rows.ended[sampling] = next_tokens[sampling] == generation_config.eos_token_id

        if position + 1 == length or not bool(rows.go_on(position).any()):
            break
        input_ids = torch.cat([input_ids, next_tokens.unsqueeze(1)], dim=1)
        with without_head(head):
            model_inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **model_kwargs)
            outputs = model(**model_inputs, return_dict=True)
    return output


def _on_rows(
    logits_processor: LogitsProcessorList, input_ids: torch.Tensor
) -> Callable[[slice, torch.Tensor], torch.Tensor]:
    return lambda rows, logits: logits_processor(input_ids[rows], logits)


class _Rows:
    """Who the rows of a batch are: the parent each follows, the sequence it writes (-1: a parent), whether it ended."""

    def __init__(self, plan: ForkPlan) -> None:
        self.plan = plan
        self.parent = torch.arange(len(plan.forced_ids), device=plan.forced_ids.device)
        self.sequence = torch.full_like(self.parent, -1)
        self.ended = torch.zeros_like(self.parent, dtype=torch.bool)
        self.num_forked = 0
        self.last_fork = torch.full_like(self.parent, -1)
        for position in sorted(plan.forks):
            self.last_fork[plan.forks[position]] = position

    def go_on(self, position: int) -> torch.Tensor:
        """Tell which rows are needed behind `position`: sequences that did not end, parents yet to be forked."""
        return ~self.ended & ((self.sequence >= 0) | (self.last_fork[self.parent] > position))

    def fork(self, position: int) -> torch.Tensor | None:
        """
        Let rows leave and parents fork at `position`.

        Returns:
            `torch.Tensor` of shape `(num_rows,)`: for each new row the old one it comes from; `None`: nothing changed.
        """
        forks = self.plan.forks.get(position, self.parent.new_empty(0))
        stays = self.go_on(position)
        if len(forks) == 0 and bool(stays.all()):
            return None
        row_of_parent = torch.empty_like(self.last_fork)
        forced = (self.sequence < 0).nonzero().squeeze(1)
        row_of_parent[self.parent[forced]] = forced
        new = torch.arange(self.num_forked, self.num_forked + len(forks), device=forks.device)
        self.num_forked += len(forks)

        # Who stays keeps its place, so that a cache has the fewest rows to move: forks, and rows from behind the new end,
        # fill the places of those that leave.
        num_rows = int(stays.sum()) + len(forks)
        behind = stays[num_rows:].nonzero().squeeze(1) + num_rows
        free = torch.ones(num_rows, dtype=torch.bool, device=forks.device)
        free[: len(stays)] = ~stays[:num_rows]
        index = torch.arange(num_rows, device=forks.device)
        index[free] = torch.cat([behind, row_of_parent[forks]])
        sequence = self.sequence[index]
        sequence[free] = torch.cat([self.sequence[behind], new])
        self.sequence, self.parent = sequence, self.parent[index]
        self.ended = torch.zeros_like(self.parent, dtype=torch.bool)
        return index


def _prefixes(plan: ForkPlan, pad_token_id: int) -> torch.Tensor:
    """Each sequence with the tokens that its parent was forced to write before the fork, padded to full length."""
    parts = []
    for position in sorted(plan.forks):
        sequences = plan.forced_ids[plan.forks[position]]
        sequences[:, position:] = pad_token_id
        parts.append(sequences)
    return torch.cat(parts)


def _require_forkable(model: PreTrainedModel, outputs: Any) -> None:
    cache = next((outputs[name] for name in _CACHE_NAMES if outputs.get(name) is not None), None)
    if not hasattr(cache, "reorder_cache") or model.config.model_type in _STATE_INSIDE:
        raise ValueError(
            f"{type(model).__name__} does not keep its state in a cache that can be forked (`reorder_cache`), so "
            "rollouts cannot branch from it. Choose another architecture as the generator."
        )


def _select_rows(model_kwargs: dict[str, Any], index: torch.Tensor) -> dict[str, Any]:
    """Reorder, repeat and drop rows of everything `generate` carries from step to step."""
    selected = dict(model_kwargs)
    for name, value in model_kwargs.items():
        if name in _CACHE_NAMES and value is not None:
            value.reorder_cache(index)
        elif isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[0] > 1:
            selected[name] = value[index]
        elif isinstance(value, torch.Tensor) and value.ndim > 1:
            # One row may stand for all (positions without padding), or be the whole batch.
            selected[name] = value.expand(len(index), *value.shape[1:])
    return selected
