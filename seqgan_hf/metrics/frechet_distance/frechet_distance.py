"""Fréchet distance between generated and real texts, over the features of an encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqgan_hf.metrics import features

_DESCRIPTION = """\
The Fréchet distance between two normal distributions, fitted to an encoder's features of generated and of real texts.
It asks for quality and diversity at once: it is large where texts are of another kind, and where they are all alike.
"""

_CITATION = """\
@inproceedings{heusel-etal-2017-gans,
    title     = "{GAN}s Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    author    = "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp",
    booktitle = "Advances in Neural Information Processing Systems",
    year      = "2017",
    volume    = "30",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str`):
        The generated texts, two or more.
    reference_corpus (`list` of `str`):
        Real texts, two or more; as many as generated ones, if figures shall compare.
    encoder (`str` or `PreTrainedModel`):
        A model with hidden states, or its name or folder; their mean over the tokens of a text are its features.
    tokenizer (`PreTrainedTokenizerBase`, *optional*):
        The encoder's; by default it is loaded from where the encoder came from.
    batch_size (`int`, defaults to 64):
        Texts at a time.

Returns:
    `dict[str, float]`: `frechet_distance`, at least 0 but for rounding, in squared units of the features.

Raises:
    ValueError: If there are fewer than two texts of either kind, one has no token, or `batch_size` is below 1.
    TypeError: If a text is not a string.

Examples:
    >>> frechet_distance = evaluate.load("seqgan_hf/metrics/frechet_distance")
    >>> frechet_distance.compute(predictions=generated, reference_corpus=real, encoder="distilbert-base-uncased")
"""


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """
    The squared Fréchet distance between normal distributions fitted to two sets of features.

    `|m - n|^2 + trace(S + T - 2 (S T)^(1/2))`, with the means m and n and the covariances S and T: Dowson and Landau
    (https://doi.org/10.1016/0047-259X(82)90077-X). The root is taken of the symmetric S^(1/2) T S^(1/2), which has the
    same trace, so nothing becomes complex where there are fewer texts than features.

    Args:
        features, others (`np.ndarray` of shape `(num_texts, hidden_size)`):
            At least two texts each.
    """
    distance = np.sum((features.mean(axis=0) - others.mean(axis=0)) ** 2)
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (features, others))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    return float(distance + np.trace(first) + np.trace(second) - 2 * np.sqrt(shared).sum())


class FrechetDistance(features.FeatureMetric):
    """
    Fréchet distance between generated and real texts: the FID of Heusel et al. (https://huggingface.co/papers/1706.08500).

    Semeniuta et al. (https://arxiv.org/abs/1806.04936) took it to texts. Here the encoder is yours: state which.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://huggingface.co/papers/1706.08500", "https://arxiv.org/abs/1806.04936")

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        reference_corpus: Sequence[str],
        encoder: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 64,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        return self.measure_features(predictions, reference_corpus, encoder, tokenizer, batch_size)

    def compare(self, generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
        return {"frechet_distance": frechet_distance(generated, real)}
