"""Scores become a reward per token, and rewards an advantage per token: one pure function per estimator."""

import torch

from .config import REWARDS, SeqGANConfig
from .masking import masked_whiten


def reward_from_scores(scores: torch.Tensor, reward: str) -> torch.Tensor:
    """
    Say what a score of the discriminator is worth.

    Args:
        scores (`torch.Tensor`): Log-odds that a text is real, any shape.
        reward (`str`): `probability` for P(real) in [0, 1] (SeqGAN, Eq. 4), `logit` for the log-odds as they are
            (GAD, https://huggingface.co/papers/2511.10643), `centered_probability` for 2 P(real) - 1 in [-1, 1]
            (ScratchGAN, https://huggingface.co/papers/1905.09922), `log_probability` for log P(real), at most 0 (GAIL
            with the generator's non-saturating objective, https://huggingface.co/papers/1606.03476).

    Returns:
        `torch.Tensor` of the same shape.

    Raises:
        ValueError: If `reward` is unknown.
    """
    if reward == "probability":
        return scores.sigmoid()
    if reward == "logit":
        return scores
    if reward == "centered_probability":
        return torch.tanh(scores / 2)
    if reward == "log_probability":
        return torch.nn.functional.logsigmoid(scores)
    raise ValueError(f"`reward` must be one of {', '.join(REWARDS)}; got {reward!r}.")


def average_rollout_scores(scores: torch.Tensor, completion_mask: torch.Tensor) -> torch.Tensor:
    """
    Turn Monte Carlo scores into one reward per generated token.

    Q(Y_{1:t-1}, y_t) of SeqGAN, Eq. 4 (https://huggingface.co/papers/1609.05473).

    Args:
        scores (`torch.Tensor` of shape `(num_rollouts, batch_size, completion_length)`):
            What the sequences finished from each prefix are worth.
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`):
            1 up to and including the first EOS, 0 after it.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)`: the mean; 0 where the mask is 0.

    Raises:
        ValueError: If `scores` and `completion_mask` disagree on batch size or length.
    """
    if scores.shape[1:] != completion_mask.shape:
        raise ValueError(
            f"`scores` must have shape (num_rollouts, *{tuple(completion_mask.shape)}) to match `completion_mask`, "
            f"got {tuple(scores.shape)}. Score the completions with the padding they were generated with."
        )
    return scores.mean(dim=0) * completion_mask


def apply_reward_control(
    rewards: torch.Tensor,
    completion_mask: torch.Tensor,
    control: str,
    generator: torch.Generator | None = None,
    compared: bool = False,
) -> torch.Tensor:
    """
    Replace rewards by a control, to see what a gain owes to the discriminator.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): From the discriminator.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        control (`str`): `none` keeps them; `constant` is 1; `shuffled` gives each completion the rewards of another
            (where that one had ended, its last reward); `random` is uniform in [0, 1).
        generator (`torch.Generator`, *optional*): Of the random numbers, on the CPU; torch's own by default.
        compared (`bool`): Whether a baseline, or whitening, compares completions with each other. Then `shuffled` is any
            permutation: on average one completion of all keeps its own rewards, which the comparison takes back, and if
            none did, it would teach the opposite. Otherwise none keeps its own, or 1 / `batch_size` of what the
            discriminator said would be left.

    Returns:
        `torch.Tensor` of the same shape; 0 where the mask is 0.

    Raises:
        ValueError: If `control` is unknown, or there is one completion, and none to take rewards from.
    """
    if control == "none":
        return rewards
    if control == "constant":
        return completion_mask.to(rewards.dtype)
    if control == "shuffled":
        if len(rewards) < 2:
            raise ValueError(
                "`reward_control='shuffled'` gives each completion the rewards of another, and needs at least 2 of them; "
                f"got {len(rewards)}."
            )
        permutation = torch.randperm(len(rewards), generator=generator)
        if not compared:
            in_a_ring = torch.empty_like(permutation)
            in_a_ring[permutation] = permutation.roll(1)
            permutation = in_a_ring
        permutation = permutation.to(rewards.device)
        return hold_last_reward(rewards, completion_mask)[permutation] * completion_mask
    if control == "random":
        return torch.rand(rewards.shape, generator=generator).to(rewards) * completion_mask
    raise ValueError(f"`reward_control` must be one of none, constant, shuffled, random; got {control!r}.")


def hold_last_reward(rewards: torch.Tensor, completion_mask: torch.Tensor) -> torch.Tensor:
    """
    Let a completion that ended keep its last reward: a finished text is worth what it is worth from then on.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): 0 behind each completion.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.

    Returns:
        `torch.Tensor` of the same shape: a reward at every position.
    """
    last = (completion_mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    position = torch.arange(rewards.shape[1], device=rewards.device).unsqueeze(0)
    return rewards.gather(1, torch.minimum(position, last))


def leave_one_out_advantages(
    rewards: torch.Tensor, completion_mask: torch.Tensor, group_size: int | None = None
) -> torch.Tensor:
    """
    Compare each token's reward with the mean of the other completions at the same position.

    RLOO (https://huggingface.co/papers/2402.14740), per position. A completion that ended takes part with its last
    reward. Equal rewards give exactly 0.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): From [`average_rollout_scores`].
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        group_size (`int`, *optional*): Compare only within so many neighbouring rows, the completions of one prompt;
            the whole batch by default. At least 2.

    Returns:
        `torch.Tensor` of the same shape; 0 where the mask is 0.

    Raises:
        ValueError: If there are no others to compare with, or the groups do not fill the batch.
    """
    batch, length = rewards.shape
    group_size = group_size or batch
    if group_size < 2 or batch % group_size:
        raise ValueError(
            f"A leave-one-out baseline needs groups of at least 2 that fill the batch; got groups of {group_size} in a "
            f"batch of {batch}. Raise the batch size or `num_generations`."
        )
    held = hold_last_reward(rewards, completion_mask).view(-1, group_size, length)
    others = (held.sum(dim=1, keepdim=True) - held) / (group_size - 1)
    return (held - others).view(batch, length) * completion_mask


def difference_advantages(
    rewards: torch.Tensor, completion_mask: torch.Tensor, prompt_values: torch.Tensor, stride: int = 1
) -> torch.Tensor:
    """
    Credit each token with the change of the value that it makes.

    Q(Y_{1:t}) - Q(Y_{1:t-1}) from the rollouts of both prefixes: VinePPO (https://huggingface.co/papers/2410.01679).
    With a stride, the tokens between two estimates share the change from one to the next.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): From [`average_rollout_scores`].
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        prompt_values (`torch.Tensor` of shape `(batch_size,)`): Mean worth of rollouts from the prompt alone.
        stride (`int`): The one that the rollouts were made with.

    Returns:
        `torch.Tensor` of the same shape; 0 where the mask is 0.
    """
    # Column 0: the prompt's value, column t + 1 the value after token t. A segment begins after its predecessor's end.
    values = torch.cat([prompt_values.unsqueeze(1), rewards], dim=1)
    segment_start = torch.arange(rewards.shape[1], device=rewards.device) // stride * stride
    return (rewards - values[:, segment_start]) * completion_mask


def advantages_from_rewards(
    rewards: torch.Tensor,
    completion_mask: torch.Tensor,
    baseline: str,
    prompt_values: torch.Tensor | None = None,
    num_generations: int = 1,
    stride: int = 1,
    whiten: bool = False,
) -> torch.Tensor:
    """
    Subtract the baseline of a run's settings.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): From [`average_rollout_scores`].
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        baseline (`str`): `none`, `leave_one_out`, `group_leave_one_out` or `difference`.
        prompt_values (`torch.Tensor` of shape `(batch_size,)`, *optional*): For `difference`.
        num_generations (`int`): The group of `group_leave_one_out`.
        stride (`int`): Of the rollouts, for `difference`.
        whiten (`bool`): Scale to mean 0 and standard deviation 1 over the batch.

    Returns:
        `torch.Tensor` of the same shape; 0 where the mask is 0.

    Raises:
        ValueError: If `baseline` is unknown, or `difference` comes without `prompt_values`.
    """
    if baseline == "none":
        advantages = rewards * completion_mask
    elif baseline == "leave_one_out":
        advantages = leave_one_out_advantages(rewards, completion_mask)
    elif baseline == "group_leave_one_out":
        advantages = leave_one_out_advantages(rewards, completion_mask, group_size=num_generations)
    elif baseline == "difference":
        if prompt_values is None:
            raise ValueError("`baseline='difference'` needs `prompt_values`: roll the prompts out with `from_prompt`.")
        advantages = difference_advantages(rewards, completion_mask, prompt_values, stride)
    else:
        raise ValueError(
            f"`baseline` must be one of none, leave_one_out, group_leave_one_out, difference; got {baseline!r}."
        )
    return masked_whiten(advantages, completion_mask) if whiten else advantages


def rewards_of_scores(
    scores: torch.Tensor, prompt_scores: torch.Tensor, completion_mask: torch.Tensor, reward: str
) -> torch.Tensor:
    """
    Say what the discriminator makes of prompts, and of each token behind them.

    Args:
        scores (`torch.Tensor` of shape `(num_rollouts, batch_size, completion_length)`): Log-odds.
        prompt_scores (`torch.Tensor` of shape `(num_rollouts, batch_size)`): Log-odds of rollouts from the prompts alone.
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 where a token counts.
        reward (`str`): See [`reward_from_scores`].

    Returns:
        `torch.Tensor` of shape `(batch_size, 1 + completion_length)`: the prompt's value, then a reward per token.
    """
    rewards = average_rollout_scores(reward_from_scores(scores, reward), completion_mask)
    return torch.cat([reward_from_scores(prompt_scores, reward).mean(dim=0).unsqueeze(1), rewards], dim=1)


def advantages_of_update(
    rewards: torch.Tensor,
    completion_mask: torch.Tensor,
    args: SeqGANConfig,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    Go from the rewards of all completions of an update to advantages, by a run's settings.

    Args:
        rewards (`torch.Tensor` of shape `(batch_size, 1 + completion_length)`): From [`rewards_of_scores`].
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 where a token counts.
        args (`SeqGANConfig`): `reward_control`, `baseline` and what belongs to them.
        generator (`torch.Generator`, *optional*): Of a control's random numbers, on the CPU.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)`: of the control, where one is set.
    """
    # The value of the prompt is one more reward to the controls: they replace whatever D said.
    controlled = apply_reward_control(
        rewards,
        torch.cat([torch.ones_like(completion_mask[:, :1]), completion_mask], dim=1),
        args.reward_control,
        generator,
        compared=args.whiten_advantages or args.baseline in ("leave_one_out", "group_leave_one_out"),
    )
    return advantages_from_rewards(
        controlled[:, 1:],
        completion_mask,
        args.baseline,
        prompt_values=controlled[:, 0],
        num_generations=args.num_generations,
        stride=args.rollout_stride,
        whiten=args.whiten_advantages,
    )
