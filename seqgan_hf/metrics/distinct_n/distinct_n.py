"""Distinct-n: different n-grams for each n-gram written."""

from collections.abc import Sequence
from typing import Any

from seqgan_hf.metrics import texts

_DESCRIPTION = """\
The share of different n-grams among all n-grams of generated texts, and of different texts among all texts. It asks how
much the texts repeat themselves and each other. It falls as more texts are measured, so compare equal numbers of them.
"""

_CITATION = """\
@inproceedings{li-etal-2016-diversity,
    title     = "A Diversity-Promoting Objective Function for Neural Conversation Models",
    author    = "Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill",
    booktitle = "Proceedings of the 2016 Conference of the North {A}merican Chapter of the Association for Computational
                 Linguistics: Human Language Technologies",
    year      = "2016",
    pages     = "110--119",
    doi       = "10.18653/v1/N16-1014",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str` or of `list[str]`):
        The generated texts. A string is split at white space; a list is taken as the tokens it holds.
    max_order (`int`, defaults to 4):
        Longest n-gram counted; at least 1.

Returns:
    `dict[str, float]`: `distinct1`, `distinct2`, ... up to `max_order`: different n-grams per n-gram, over all texts at
    once, in (0, 1], and 0 where no text has so many tokens; `distinct_texts`: different texts per text, in (0, 1].

Raises:
    ValueError: If there are no texts, or `max_order` is not an integer of at least 1.
    TypeError: If a text is neither a string nor a list of strings, or one string stands where a list of texts should.

Examples:
    >>> distinct_n = evaluate.load("seqgan_hf/metrics/distinct_n")
    >>> distinct_n.compute(predictions=["a b a b", "a b a b"], max_order=2)
    {'distinct1': 0.25, 'distinct2': 0.3333333333333333, 'distinct_texts': 0.5}
"""


class DistinctN(texts.TextMetric):
    """Different n-grams per n-gram of all generated texts, Section 5 of Li et al. (https://aclanthology.org/N16-1014)."""

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://aclanthology.org/N16-1014",)

    def compute(self, *, predictions: Sequence[Any] | None = None, max_order: int = 4) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("max_order", max_order)
        return self.measure(predictions, max_order=max_order)

    def score(self, predictions: list[list[str]], *, max_order: int) -> dict[str, float]:
        scores = {}
        for order in range(1, max_order + 1):
            written = [ngram for tokens in predictions for ngram in texts.ngrams(tokens, order)]
            scores[f"distinct{order}"] = len(set(written)) / max(1, len(written))
        return scores | {"distinct_texts": len(set(map(tuple, predictions))) / len(predictions)}
