"""Novelty: what a generator wrote that it had not read."""

from collections.abc import Sequence
from typing import Any

from seqgan_hf.metrics import texts

_DESCRIPTION = """\
The share of n-grams of generated texts that do not stand in the training texts, and the share of generated texts that
are a training text, word for word. It asks how much was memorised. Held-out real texts have a novelty, too: that is the
figure to compare with, and one far below it is a generator that copies.
"""

_CITATION = """\
@inproceedings{wang-wan-2018-sentigan,
    title     = "{S}enti{GAN}: Generating Sentimental Texts via Mixture Adversarial Networks",
    author    = "Wang, Ke and Wan, Xiaojun",
    booktitle = "Proceedings of the Twenty-Seventh International Joint Conference on Artificial Intelligence",
    year      = "2018",
    pages     = "4446--4452",
    doi       = "10.24963/ijcai.2018/618",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str` or of `list[str]`):
        The generated texts. A string is split at white space; a list is taken as the tokens it holds.
    training_texts (`list` of `str` or of `list[str]`):
        The texts that the generator learned from; tokenised like `predictions`.
    max_order (`int`, defaults to 4):
        Longest n-gram counted; at least 1.

Returns:
    `dict[str, float]`, all in [0, 1]: `novelty1`, `novelty2`, ... up to `max_order`: of all n-grams written, repeated
    ones counted each time, the share that no training text has, 0 where no text has so many tokens; `copied_texts`:
    the share of texts that are a training text.

Raises:
    ValueError: If there are no texts of either kind, or `max_order` is not an integer of at least 1.
    TypeError: If a text is neither a string nor a list of strings, or one string stands where a list of texts should.

Examples:
    >>> novelty = evaluate.load("seqgan_hf/metrics/novelty")
    >>> novelty.compute(predictions=["a b c", "a c"], training_texts=["a b c d"], max_order=2)
    {'novelty1': 0.0, 'novelty2': 0.3333333333333333, 'copied_texts': 0.0}
"""


class Novelty(texts.TextMetric):
    """
    What generated texts do not have in common with the training texts.

    Whole sentences are compared in SentiGAN (https://doi.org/10.24963/ijcai.2018/618) by their overlap of words; here
    n-grams are looked up, and whole texts must be equal to count as copied.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://doi.org/10.24963/ijcai.2018/618",)

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        training_texts: Sequence[Any] | None = None,
        max_order: int = 4,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("max_order", max_order)
        read = texts.tokenize_corpus(training_texts, "training_texts", "what was written is looked up in them.")
        return self.measure(predictions, training_texts=read, max_order=max_order)

    def score(
        self, predictions: list[list[str]], *, training_texts: list[list[str]], max_order: int
    ) -> dict[str, float]:
        scores = {}
        for order in range(1, max_order + 1):
            written = [ngram for tokens in predictions for ngram in texts.ngrams(tokens, order)]
            # Of the training texts, only what was written is kept.
            unseen = set(written)
            for tokens in training_texts:
                unseen.difference_update(texts.ngrams(tokens, order))
            scores[f"novelty{order}"] = sum(ngram in unseen for ngram in written) / max(1, len(written))
        read = set(map(tuple, training_texts))
        return scores | {"copied_texts": sum(tuple(tokens) in read for tokens in predictions) / len(predictions)}
