"""What the generator is trained on: log-probabilities, the policy gradient, the KL to the reference, the likelihood."""

import inspect

import torch
from torch import nn

from .masking import masked_mean, positions_from_mask


def forward_accepts(model: nn.Module, argument: str) -> bool:
    """
    Tell whether a model's `forward` names `argument`, looking through data-parallel and PEFT wrappers.

    Args:
        model (`nn.Module`): The model as the Trainer holds it.
        argument (`str`): A parameter name, such as `position_ids`.

    Returns:
        `bool`: `True` if the innermost `forward` has a parameter of that name.
    """
    model = getattr(model, "module", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return argument in inspect.signature(model.forward).parameters


def completion_logits(
    model: nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
) -> torch.Tensor:
    """
    Run the model over prompts and completions and return the logits that predict each completion token.

    Position ids are passed wherever the model takes them: with left padding, models with learned positions
    (GPT-2) are wrong without.

    Args:
        model (`nn.Module`): A causal language model.
        prompt_ids (`torch.Tensor` of shape `(batch_size, prompt_length)`): Left-padded; at least one token a row.
        prompt_mask (`torch.Tensor` of shape `(batch_size, prompt_length)`): 1 where a token counts.
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): Right-padded.
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 where a token counts.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`.
    """
    input_ids = torch.cat([prompt_ids, completion_ids], dim=1)
    attention_mask = torch.cat([prompt_mask, completion_mask], dim=1)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if forward_accepts(model, "position_ids"):
        inputs["position_ids"] = positions_from_mask(attention_mask)
    completion_length = completion_ids.shape[1]
    if forward_accepts(model, "logits_to_keep"):
        inputs["logits_to_keep"] = completion_length + 1
    return model(**inputs).logits[:, -completion_length - 1 : -1]


def per_token_logps(logits: torch.Tensor, completion_ids: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """
    Log-probability of each completion token under the distribution it was sampled from.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`): As the model returns them.
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): The tokens.
        temperature (`float`): Divides the logits, as in sampling; above 0.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)`: nats, at most 0.
    """
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    chosen = logits.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def per_token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """
    Entropy of the next-token distribution at each position.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`): As the model returns them.
        temperature (`float`): Divides the logits, as in sampling; above 0.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)`: nats, in [0, log(vocab_size)].
    """
    logps = torch.log_softmax(logits.float() / temperature, dim=-1)
    # A token that cannot be sampled adds 0 and not 0 x -inf.
    return -(logps.exp() * logps.masked_fill(logps.isinf(), 0.0)).sum(dim=-1)


def per_token_kl(logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    """
    KL(generator || reference) of the next-token distributions, summed over the whole vocabulary.

    Both networks' logits are at hand, so the exact sum is taken instead of an estimate from the sampled token: it has
    less variance, and its gradient is the divergence's own.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`): The generator's.
        reference_logits (`torch.Tensor` of the same shape): The frozen reference policy's.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length)`: nats, at least 0.
    """
    logps = torch.log_softmax(logits.float(), dim=-1)
    reference_logps = torch.log_softmax(reference_logits.float(), dim=-1)
    return (logps.exp() * (logps - reference_logps)).sum(dim=-1)


def policy_gradient_loss(
    logps: torch.Tensor, advantages: torch.Tensor, completion_mask: torch.Tensor, max_completion_length: int
) -> torch.Tensor:
    """
    REINFORCE with one advantage per token: its gradient is minus that of SeqGAN's objective.

    Eq. 7 of SeqGAN (https://huggingface.co/papers/1609.05473), whose sum over batch and time is divided here by the
    constant `batch_size * max_completion_length`. Dividing by the tokens present would reward long bad completions.

    Args:
        logps (`torch.Tensor` of shape `(batch_size, completion_length)`): Log-probabilities, with gradient.
        advantages (`torch.Tensor` of the same shape): Held constant.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        max_completion_length (`int`): The most tokens a completion may have.

    Returns:
        `torch.Tensor`: a scalar.
    """
    weighted = logps * advantages.detach() * completion_mask
    return -weighted.sum() / (logps.shape[0] * max_completion_length)


def negative_log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Sum of -log p over the labelled tokens of each text, and how many there are.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, length, vocab_size)`): `logits[:, i]` predicts `labels[:, i]`.
        labels (`torch.Tensor` of shape `(batch_size, length)`): Token ids; -100 where nothing is predicted.

    Returns:
        `tuple` of two `torch.Tensor` of shape `(batch_size,)`: sums in nats, and counts.
    """
    counted = labels != -100
    nll = -per_token_logps(logits, labels.clamp(min=0))
    return (nll * counted).sum(dim=1), counted.sum(dim=1)


def mean_negative_log_likelihood(
    logits: torch.Tensor, completion_ids: torch.Tensor, completion_mask: torch.Tensor
) -> torch.Tensor:
    """
    Maximum-likelihood loss per token of real completions.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`): As `completion_logits` has them.
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): Real text.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.

    Returns:
        `torch.Tensor`: a scalar, nats per token.
    """
    return -masked_mean(per_token_logps(logits, completion_ids), completion_mask)
