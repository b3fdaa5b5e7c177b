"""Fréchet distance between generated and real texts, over the features of an encoder."""

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from seqgan_hf.metrics import texts
from seqgan_hf.states import dropout_off

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


@torch.no_grad()
def text_features(
    strings: Sequence[str], encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64
) -> np.ndarray:
    """
    The mean of an encoder's last hidden states over the tokens of each text, special ones included.

    Args:
        strings (`Sequence[str]`):
            The texts; what exceeds the encoder's longest input is cut off.
        encoder (`PreTrainedModel`):
            A model whose output has `last_hidden_state`.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        batch_size (`int`):
            Texts at a time.

    Returns:
        `np.ndarray` of shape `(num_texts, hidden_size)`, float64.

    Raises:
        ValueError: If a text has no token.
    """
    longest = min(tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None) or 10**9)
    encoded = tokenizer(list(strings), truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    if not encoded[order[0]]:
        raise ValueError(f"The encoder's tokenizer makes no token of {reprlib.repr(strings[order[0]])}. Leave it out.")
    features = [np.empty(0)] * len(encoded)
    with dropout_off(encoder):
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = [torch.tensor(encoded[row]) for row in rows]
            ids = pad_sequence(batch, batch_first=True).to(encoder.device)
            mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(encoder.device)
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.double()
            means = (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            for row, mean in zip(rows, means.cpu().numpy(), strict=True):
                features[row] = mean
    return np.stack(features)


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


class FrechetDistance(texts.TextMetric):
    """
    Fréchet distance between generated and real texts: the FID of Heusel et al. (https://huggingface.co/papers/1706.08500).

    Semeniuta et al. (https://arxiv.org/abs/1806.04936) took it to texts. Here the encoder is yours: state which.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://huggingface.co/papers/1706.08500", "https://arxiv.org/abs/1806.04936")
    form = datasets.Value("string")

    @staticmethod
    def take(texts: Iterable[Any], argument: str) -> list[str]:
        """Check strings."""
        taken = list(texts)
        wrong = [text for text in taken if not isinstance(text, str)]
        if isinstance(texts, str) or wrong:
            got = texts if isinstance(texts, str) else wrong[0]
            raise TypeError(
                f"`{argument}` must be a list of strings, which the encoder reads; got {reprlib.repr(got)}."
            )
        return taken

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
        texts.check_at_least_one("batch_size", batch_size)
        real = self.take(reference_corpus, "reference_corpus")
        if len(real) < 2:
            raise ValueError(f"`reference_corpus` must hold at least 2 texts, to have a covariance; got {len(real)}.")
        model = AutoModel.from_pretrained(encoder) if isinstance(encoder, str) else encoder
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        return self.measure(
            predictions, fewest=2, real=real, encoder=model, tokenizer=tokenizer, batch_size=batch_size
        )

    def score(
        self,
        predictions: list[str],
        *,
        real: list[str],
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
    ) -> dict[str, float]:
        features = [text_features(strings, encoder, tokenizer, batch_size) for strings in (predictions, real)]
        return {"frechet_distance": frechet_distance(*features)}
