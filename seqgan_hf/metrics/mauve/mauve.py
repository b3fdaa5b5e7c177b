"""MAUVE: how far generated and real texts overlap, over the features of an encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqgan_hf.metrics import features

_DESCRIPTION = """\
MAUVE: an encoder's features of generated and of real texts are sorted into the same clusters, and the two histograms are
compared by the area under their divergence curve. It asks for quality and diversity at once: it is low where generated
texts lie where no real ones are, and where real texts lie that nothing generated comes near.
"""

_CITATION = """\
@inproceedings{pillutla-etal-2021-mauve,
    title     = "{MAUVE}: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers",
    author    = "Pillutla, Krishna and Swayamdipta, Swabha and Zellers, Rowan and Thickstun, John and Welleck, Sean and
                 Choi, Yejin and Harchaoui, Zaid",
    booktitle = "Advances in Neural Information Processing Systems",
    year      = "2021",
    volume    = "34",
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
    num_buckets (`int` or `"auto"`, defaults to `"auto"`):
        Clusters, two or more, and no more than texts of both kinds together. `"auto"`: a tenth of the texts of the kind
        that has fewer.
    scaling_factor (`float`, defaults to 5):
        The constant c of the paper, above 0: the larger, the lower all figures.
    seed (`int`, defaults to 25):
        Decides where the clusters begin.

Returns:
    `dict[str, float]`: `mauve`, in (0, 1]; 1 where the texts are spread over the clusters alike.

Raises:
    ImportError: If mauve-text is not installed.
    ValueError: If there are fewer than two texts of either kind, one has no token, `batch_size` is below 1,
        `num_buckets` is below 2 or above the number of texts, or `scaling_factor` is not above 0.
    TypeError: If a text is not a string.

Examples:
    >>> mauve = evaluate.load("seqgan_hf/metrics/mauve")
    >>> mauve.compute(predictions=generated, reference_corpus=real, encoder="gpt2-large")
"""


def load_library() -> Callable[..., Any]:
    """
    The function `compute_mauve` of the authors' library.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        # The library of that name: imports of this package are absolute, and so this file does not stand before it.
        from mauve import compute_mauve
    except ImportError as error:
        raise ImportError("MAUVE needs the package mauve-text: pip install 'seqgan_hf[mauve]'.") from error
    function: Callable[..., Any] = compute_mauve
    return function


class Mauve(features.FeatureMetric):
    """
    MAUVE of Pillutla et al. (https://arxiv.org/abs/2102.01454), through their library mauve-text.

    There the features are the last hidden state of the last token under GPT-2; here they are a mean over the tokens, and
    the encoder is yours: state which.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://arxiv.org/abs/2102.01454", "https://krishnap25.github.io/mauve/")

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        reference_corpus: Sequence[str],
        encoder: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 64,
        num_buckets: int | str = "auto",
        scaling_factor: float = 5.0,
        seed: int = 25,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        if num_buckets != "auto" and (not isinstance(num_buckets, int) or num_buckets < 2):
            raise ValueError(f'`num_buckets` must be "auto" or an integer of at least 2, got {num_buckets!r}.')
        if not scaling_factor > 0:
            raise ValueError(f"`scaling_factor` must be above 0, got {scaling_factor!r}.")
        load_library()
        return self.measure_features(
            predictions,
            reference_corpus,
            encoder,
            tokenizer,
            batch_size,
            num_buckets=num_buckets,
            scaling_factor=scaling_factor,
            seed=seed,
        )

    def compare(
        self, generated: np.ndarray, real: np.ndarray, *, num_buckets: int | str, scaling_factor: float, seed: int
    ) -> dict[str, float]:
        number = len(generated) + len(real)
        if isinstance(num_buckets, int) and num_buckets > number:
            raise ValueError(f"`num_buckets` must be at most the number of texts, {number}; got {num_buckets}.")
        result = load_library()(
            p_features=generated,
            q_features=real,
            num_buckets=num_buckets,
            mauve_scaling_factor=scaling_factor,
            seed=seed,
            verbose=False,
        )
        # Where both histograms are the same, mauve-text 0.4.0 sorts points that tie, and may say 0.75.
        same = np.array_equal(result.p_hist, result.q_hist)
        return {"mauve": 1.0 if same else float(result.mauve)}
