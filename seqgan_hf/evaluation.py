"""Held-out likelihood, BLEU of samples, and what is reported of a run."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel

from .completions import Completions
from .losses import completion_logits, per_token_logps
from .masking import masked_mean
from .metrics import Bleu
from .states import dropout_off


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    Held-out negative log-likelihood per token and perplexity, each token counting the same.

    Args:
        prediction (`EvalPrediction`): `predictions` of shape `(num_texts,)`, the sum of -log p of each text in nats;
            `label_ids` of shape `(num_texts,)`, its number of tokens.

    Returns:
        `dict`: `nll`, nats per token, and `perplexity`, its exponential.
    """
    nll = float(np.sum(prediction.predictions, dtype=np.float64) / np.sum(prediction.label_ids))
    return {"nll": nll, "perplexity": math.exp(nll)}


def completion_metrics(completions: Completions, rewards: torch.Tensor, eos_token_id: int | None) -> dict[str, float]:
    """
    Sum up a batch of completions and what the discriminator thought of them.

    Args:
        completions (`Completions`): The batch.
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): One per token.
        eos_token_id (`int`, *optional*): Ends a completion.

    Returns:
        `dict`: `reward/mean`, `reward/std` (over tokens), `completions/mean_length` (tokens) and, where there is an EOS,
        `completions/ended_ratio` in [0, 1].
    """
    counted = rewards[completions.completion_mask.bool()]
    metrics = {
        "reward/mean": counted.mean().item(),
        "reward/std": counted.std(correction=0).item(),
        "completions/mean_length": completions.lengths.float().mean().item(),
    }
    if eos_token_id is not None:
        ended = (completions.completion_ids == eos_token_id) & completions.completion_mask.bool()
        metrics["completions/ended_ratio"] = ended.any(dim=1).float().mean().item()
    return metrics


@torch.no_grad()
def token_nll(
    model: PreTrainedModel, texts: Completions, temperature: float = 1.0, batch_size: int = 64
) -> torch.Tensor:
    """
    -log p of each token of some texts under a model.

    Args:
        model (`PreTrainedModel`): Any causal language model; dropout is off.
        texts (`Completions`): The texts.
        temperature (`float`): Divides the logits; above 0.
        batch_size (`int`): At once.

    Returns:
        `torch.Tensor` of shape `(num_texts, length)`: nats; 0 behind each text.
    """
    parts = []
    with dropout_off(model):
        for start in range(0, len(texts), batch_size):
            batch = texts.select(slice(start, start + batch_size)).to(model.device)
            logits = completion_logits(model, *batch.tensors())
            logps = per_token_logps(logits, batch.completion_ids, temperature)
            parts.append(-logps * batch.completion_mask)
    return torch.cat(parts)


def mean_nll(model: PreTrainedModel, texts: Completions, temperature: float = 1.0) -> float:
    """
    Mean -log p per token: NLL_oracle if the model is the oracle and the texts a generator's, NLL_test the other way
    round (SeqGAN, Eq. 9, per token instead of per text).

    Args:
        model (`PreTrainedModel`): Any causal language model.
        texts (`Completions`): The texts.
        temperature (`float`): Divides the logits; above 0.

    Returns:
        `float`: nats per token.
    """
    return masked_mean(token_nll(model, texts, temperature).double(), texts.completion_mask.to(model.device)).item()


def bleu_of_samples(samples: Sequence[str], references: Sequence[str], max_order: int = 4) -> dict[str, float]:
    """
    BLEU of generated texts against a whole corpus, as the paper measures speeches and poems.

    Words and punctuation marks are the tokens. A text shorter than the order counts as the metric has it (0 without
    smoothing).

    Args:
        samples (`Sequence[str]`): Generated texts; empty ones count as 0.
        references (`Sequence[str]`): Held-out real texts: each is a reference of every sample.
        max_order (`int`): The longest n-gram, at least 2.

    Returns:
        `dict`: `bleu2` to `bleu<max_order>`, in [0, 1].
    """
    tokenized = [words(text) for text in samples]
    scores = Bleu().compute(
        predictions=tokenized, reference_corpus=[words(text) for text in references], max_order=max_order
    )
    assert scores is not None  # `evaluate` returns None on other processes than the first; this one computes alone
    return {f"bleu{order}": scores[f"bleu{order}"] for order in range(2, max_order + 1)}


def words(text: str) -> list[str]:
    """Split a text into words (apostrophes and hyphens inside them stay) and punctuation marks, case kept."""
    return re.findall(r"\w+(?:['-]\w+)*|[^\w\s]", text)


def stages_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    """
    Lay out the metrics of a run's stages for a terminal.

    Args:
        stages (`Mapping`): For each stage, such as `MLE` and `SeqGAN`, its metrics; the first names the columns.

    Returns:
        `str`: a header and one line a stage.
    """
    columns = list(next(iter(stages.values())))
    first = max(len(name) for name in stages)
    lines = [" " * first + "".join(f"  {column:>11}" for column in columns)]
    for name, metrics in stages.items():
        lines.append(f"{name:<{first}}" + "".join(f"  {metrics[column]:>11.4f}" for column in columns))
    return "\n".join(lines)
