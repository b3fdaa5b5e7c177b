"""What the generator is trained on: log-probabilities, the policy gradient, the KL to the reference, the likelihood."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .adapters import is_adapter, without_adapter
from .blockwise import TokenValues, logps_at_temperatures, token_loss
from .completions import Completions
from .heads import split_head, without_head
from .masking import counting_first, positions_from_mask
from .states import dropout_off


def forward_accepts(model: nn.Module, argument: str) -> bool:
    """
    Tell whether a model's `forward` names `argument`, looking through compiled, data-parallel and PEFT wrappers.

    Args:
        model (`nn.Module`): The model as the Trainer holds it.
        argument (`str`): A parameter name, such as `position_ids`.

    Returns:
        `bool`: `True` if the innermost `forward` has a parameter of that name.
    """
    while (inner := _wrapped_by(model)) is not None:
        model = inner
    return argument in inspect.signature(model.forward).parameters


def _wrapped_by(model: nn.Module) -> nn.Module | None:
    if is_adapter(model):
        return without_adapter(model)
    return getattr(model, "_orig_mod", None) or getattr(model, "module", None)


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


@dataclass
class Predictions:
    """
    What predicts the tokens of completions: states that a head projects to logits, or the logits themselves.

    Args:
        states (`torch.Tensor` of shape `(batch_size, completion_length, hidden_size)`): Behind the last token before
            each. Of size `vocab_size` where there is no head: logits.
        head (`nn.Linear`, *optional*): The projection; `None` where the model could not be split from it.
    """

    states: torch.Tensor
    head: nn.Linear | None

    def logits(self) -> torch.Tensor:
        """Return all logits, a `torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`."""
        return self.states if self.head is None else self.head(self.states)


def completion_predictions(model: nn.Module, *completion_tensors: torch.Tensor) -> Predictions:
    """
    Run the model over prompts and completions, without projecting anything to the vocabulary yet.

    Args:
        model (`nn.Module`): A causal language model.
        *completion_tensors (`torch.Tensor`): As [`completion_logits`] takes them.

    Returns:
        `Predictions`: logits only where the model's head cannot be split off, see `heads.split_head`.
    """
    head = split_head(model)
    with without_head(head):
        return Predictions(completion_logits(model, *completion_tensors), head)


def weighted_token_loss(
    predictions: Predictions,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    nll_weights: torch.Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    kl_weights: torch.Tensor | None = None,
    reference: Predictions | None = None,
) -> tuple[torch.Tensor, TokenValues]:
    """
    Weighted sum of -log p, and of the KL to a reference policy, over the tokens that count.

    Where the head could be split off, the projection goes block by block and all logits never exist at once; the result
    is the same.

    Args:
        predictions (`Predictions`): The generator's.
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): The tokens.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        nll_weights (`torch.Tensor` of the same shape): What each -log p is multiplied by; held constant.
        temperature (`float`): Divides the logits, as in sampling; above 0. The KL is that at temperature 1.
        with_entropy (`bool`): Whether the entropies are wanted; they are 0 otherwise.
        kl_weights (`torch.Tensor` of the same shape, *optional*): What each token's KL is multiplied by.
        reference (`Predictions`, *optional*): The frozen reference policy's, for the KL.

    Returns:
        `tuple`: the loss, a scalar; and `TokenValues` of shape `(batch_size, completion_length)`, without gradient and 0
        where the mask is 0.
    """
    counted = completion_mask.bool()
    if predictions.head is None or (reference is not None and reference.head is None):
        logits, reference_logits = predictions.logits(), None if reference is None else reference.logits()
        return _whole_token_loss(
            logits, completion_ids, counted, nll_weights, temperature, with_entropy, kl_weights, reference_logits
        )
    loss, values = token_loss(
        predictions.states[counted],
        predictions.head.weight,
        predictions.head.bias,
        completion_ids[counted],
        nll_weights.detach()[counted],
        temperature,
        with_entropy,
        None if kl_weights is None else kl_weights.detach()[counted],
        None
        if reference is None or reference.head is None
        else (reference.states[counted], reference.head.weight, reference.head.bias),
    )

    def laid_out(value: torch.Tensor) -> torch.Tensor:
        return value.new_zeros(completion_ids.shape).masked_scatter(counted, value)

    return loss, TokenValues(laid_out(values.logps), laid_out(values.entropy), laid_out(values.kl))


def _whole_token_loss(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    counted: torch.Tensor,
    nll_weights: torch.Tensor,
    temperature: float,
    with_entropy: bool,
    kl_weights: torch.Tensor | None,
    reference_logits: torch.Tensor | None,
) -> tuple[torch.Tensor, TokenValues]:
    """Do what `blockwise.token_loss` does, with all logits at once; those of padding stay, or they would be copied."""
    logps = per_token_logps(logits, token_ids, temperature).masked_fill(~counted, 0.0)
    loss = -(logps * nll_weights.detach()).sum()
    entropy = kl = torch.zeros_like(logps, requires_grad=False)
    if with_entropy:
        with torch.no_grad():
            entropy = per_token_entropy(logits, temperature) * counted
    if kl_weights is not None and reference_logits is not None:
        kl = per_token_kl(logits, reference_logits).masked_fill(~counted, 0.0)
        loss = loss + (kl * kl_weights.detach()).sum()
    return loss, TokenValues(logps.detach(), entropy, kl.detach())


def policy_gradient_weights(
    advantages: torch.Tensor, completion_mask: torch.Tensor, max_completion_length: int
) -> torch.Tensor:
    """
    Say what each token's -log p is multiplied by in REINFORCE: the sum has minus the gradient of SeqGAN's objective.

    Eq. 7 of SeqGAN (https://huggingface.co/papers/1609.05473), whose sum over batch and time is divided here by the
    constant `batch_size * max_completion_length`. Dividing by the tokens present would reward long bad completions.

    Args:
        advantages (`torch.Tensor` of shape `(batch_size, completion_length)`): One per token.
        completion_mask (`torch.Tensor` of the same shape): 1 where a token counts.
        max_completion_length (`int`): The most tokens a completion may have.

    Returns:
        `torch.Tensor` of the same shape.
    """
    return advantages * completion_mask / (len(advantages) * max_completion_length)


def mean_weights(completion_mask: torch.Tensor, num_tokens: float | None = None) -> torch.Tensor:
    """
    Say what each token's -log p is multiplied by for a mean over tokens: maximum likelihood.

    Args:
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 where a token counts.
        num_tokens (`float`, *optional*): Above 0; those of the batch by default. A part of an update takes the mean of
            all its parts, so that the mean over the parts is one over tokens.

    Returns:
        `torch.Tensor` of the same shape: sums to 1 by default, or is 0 if nothing counts.
    """
    return completion_mask / (completion_mask.sum().clamp(min=1) if num_tokens is None else num_tokens)


def mean_negative_log_likelihood(
    model: nn.Module, texts: Completions, num_tokens: float | None = None
) -> torch.Tensor:
    """
    Maximum-likelihood loss per token of real completions.

    Args:
        model (`nn.Module`): A causal language model.
        texts (`Completions`): Real texts, on the model's device.
        num_tokens (`float`, *optional*): As [`mean_weights`] takes it.

    Returns:
        `torch.Tensor`: a scalar, nats per token.
    """
    mask = texts.completion_mask
    predictions = completion_predictions(model, *texts.tensors())
    return weighted_token_loss(predictions, texts.completion_ids, mask, mean_weights(mask, num_tokens))[0]


@torch.no_grad()
def token_logps(
    predictions: Predictions,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperatures: Sequence[float] = (1.0,),
) -> torch.Tensor:
    """
    Log-probability of each token at some temperatures, without gradient and without all logits at once.

    Args:
        predictions (`Predictions`): From [`completion_predictions`].
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): The tokens.
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 where a token counts.
        temperatures (`Sequence[float]`): Each divides the logits; above 0.

    Returns:
        `torch.Tensor` of shape `(num_temperatures, batch_size, completion_length)`: nats, at most 0; 0 where the mask is
        0.
    """
    counted, head = completion_mask.bool(), predictions.head
    if head is None:
        whole = [per_token_logps(predictions.states, completion_ids, temperature) for temperature in temperatures]
        return torch.stack(whole).masked_fill(~counted, 0.0)
    states, ids = predictions.states[counted], completion_ids[counted]
    logps = logps_at_temperatures(states, head.weight, head.bias, ids, temperatures)
    laid_out = logps.new_zeros(len(temperatures), *completion_ids.shape)
    return laid_out.masked_scatter(counted.expand_as(laid_out), logps)


@torch.no_grad()
def generator_view(
    model: nn.Module,
    texts: Completions,
    include_prompt: bool,
    wanted: Sequence[str],
    language_models: Sequence[nn.Module] = (),
    temperature: float = 1.0,
    batch_size: int = 256,
) -> dict[str, torch.Tensor]:
    """
    Tell what the generator makes of texts, token by token, for a discriminator that reads it beside them, and what
    language models of real texts make of them.

    Args:
        model (`nn.Module`): The generator, as it is now; dropout is off.
        texts (`Completions`): Real or generated, on the model's device.
        include_prompt (`bool`): Whether prompts stand before the completions that are read; they get zeros.
        wanted (`Sequence[str]`): `generator_logps`, and `generator_states` where hidden states are read.
        language_models (`Sequence[nn.Module]`): Causal language models with the generator's vocabulary.
        temperature (`float`): At which the generator writes; above 0.
        batch_size (`int`): Texts at once.

    Returns:
        `dict`: what is wanted, and `generator_mask`, laid out as `texts.sequences(include_prompt, ...)`:
        `generator_logps` of shape `(batch_size, longest)`, nats, `generator_states` of shape `(batch_size, longest,
        hidden_size)`, and 1 where the token is one of a completion. With language models also `language_logps`, the log
        of their mean probability of each token, laid out as `generator_logps`.

    Raises:
        ValueError: If hidden states are wanted of a model whose head cannot be split off.
    """
    parts = []
    with dropout_off(model):
        for start in range(0, len(texts), batch_size):
            batch = texts.select(slice(start, start + batch_size))
            predictions = completion_predictions(model, *batch.tensors())
            tokens = batch.completion_ids, batch.completion_mask
            part = {"generator_logps": token_logps(predictions, *tokens, [temperature])[0]}
            if "generator_states" in wanted:
                if predictions.head is None:
                    raise ValueError(
                        "This discriminator reads the generator's hidden states, and this generator has no plain output "
                        "layer to read them before. Set `generator_hidden_size` to 0."
                    )
                part["generator_states"] = predictions.states.float()
            if language_models:
                part["language_logps"] = _mean_probability(language_models, batch)
            parts.append(part)
    view = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    view["generator_mask"] = texts.completion_mask
    if not include_prompt:
        longest = max(int(texts.lengths.max()), 1)
        return {name: tensor[:, :longest] for name, tensor in view.items()}
    mask = torch.cat([texts.prompt_mask, texts.completion_mask], dim=1)
    order = counting_first(mask)

    def behind_prompt(tensor: torch.Tensor) -> torch.Tensor:
        zeros = tensor.new_zeros(len(tensor), texts.prompt_ids.shape[1], *tensor.shape[2:])
        where = order if tensor.dim() == 2 else order.unsqueeze(-1).expand(-1, -1, tensor.shape[2])
        return torch.cat([zeros, tensor], dim=1).gather(1, where)

    return {name: behind_prompt(tensor) for name, tensor in view.items()}


def _mean_probability(models: Sequence[nn.Module], texts: Completions) -> torch.Tensor:
    """Log of the mean probability of each completion token over some models: `(batch_size, completion_length)`."""
    logps = []
    for model in models:
        predictions = completion_predictions(model, *texts.tensors())
        logps.append(token_logps(predictions, texts.completion_ids, texts.completion_mask)[0])
    return (torch.stack(logps).logsumexp(dim=0) - math.log(len(models))) * texts.completion_mask


def reader_of(
    model: nn.Module, include_prompt: bool, temperature: float = 1.0
) -> Callable[..., dict[str, torch.Tensor]]:
    """Return [`generator_view`] of one generator, as a `Discriminator` calls it."""

    def read(
        texts: Completions, wanted: Sequence[str], language_models: Sequence[nn.Module]
    ) -> dict[str, torch.Tensor]:
        return generator_view(model, texts, include_prompt, wanted, language_models, temperature)

    return read


def negative_log_likelihood(model: nn.Module, texts: Completions) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Sum of -log p over the tokens of each text, and how many there are.

    Args:
        model (`nn.Module`): A causal language model.
        texts (`Completions`): On the model's device.

    Returns:
        `tuple` of two `torch.Tensor` of shape `(batch_size,)`: sums in nats, and counts.
    """
    with torch.no_grad():
        predictions = completion_predictions(model, *texts.tensors())
    (logps,) = token_logps(predictions, texts.completion_ids, texts.completion_mask)
    return -logps.sum(dim=1), texts.lengths
