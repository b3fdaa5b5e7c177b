"""Held-out likelihood and what is reported of a finished run."""

import math

from transformers import EvalPrediction


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    Held-out negative log-likelihood per token and perplexity, each token counting the same.

    Args:
        prediction (`EvalPrediction`): `predictions` of shape `(num_texts,)`, the sum of -log p of each text in nats;
            `label_ids` of shape `(num_texts,)`, its number of tokens.

    Returns:
        `dict`: `nll`, nats per token, and `perplexity`, its exponential.
    """
    nll = float(prediction.predictions.sum(dtype="float64") / prediction.label_ids.sum())
    return {"nll": nll, "perplexity": math.exp(nll)}
