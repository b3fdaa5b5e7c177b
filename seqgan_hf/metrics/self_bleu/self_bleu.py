"""Self-BLEU: every generated text against all others."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from seqgan_hf.metrics import texts
from seqgan_hf.metrics.bleu.bleu import check_smoothing, mean_scores, sentence_bleu

_DESCRIPTION = """\
Mean sentence BLEU of generated texts, each scored with all the others, and never itself, as its references. It asks how
much alike the texts are: high is repetitive.
"""

_CITATION = """\
@inproceedings{zhu-etal-2018-texygen,
    title     = "Texygen: A Benchmarking Platform for Text Generation Models",
    author    = "Zhu, Yaoming and Lu, Sidi and Zheng, Lei and Guo, Jiaxian and Zhang, Weinan and Wang, Jun and Yu, Yong",
    booktitle = "The 41st International ACM SIGIR Conference on Research and Development in Information Retrieval",
    year      = "2018",
    pages     = "1097--1100",
    doi       = "10.1145/3209978.3210080",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str` or of `list[str]`):
        The generated texts, two or more. A string is split at white space; a list is taken as the tokens it holds.
    max_order (`int`, defaults to 4):
        Longest n-gram counted; at least 1.
    smoothing (`str`, defaults to `"none"`):
        What a precision without a match becomes, as in the metric `bleu`: `"none"`, `"epsilon"` or `"add_one"`.

Returns:
    `dict[str, float]`: the means over the texts, in [0, 1]. `self_bleu` is of order `max_order`; `self_bleu2`,
    `self_bleu3`, ... up to `max_order` are of the order they name.

Raises:
    ValueError: If there are fewer than two texts, if `max_order` is not an integer of at least 1, or if `smoothing` is
        unknown.
    TypeError: If a text is neither a string nor a list of strings, or one string stands where a list of texts should.

Examples:
    >>> self_bleu = evaluate.load("seqgan_hf/metrics/self_bleu")
    >>> self_bleu.compute(predictions=["a b c", "a b d", "a b"], max_order=2)
    {'self_bleu': 0.5870770660306283, 'self_bleu2': 0.5870770660306283}
"""


def two_largest_counts(tokenized: Iterable[Sequence[str]], max_order: int) -> dict[tuple[str, ...], tuple[int, int]]:
    """
    The largest and the second largest count that any n-gram has in one text, from one pass over the texts.

    These two are all that is needed to clip a text by the others: where its own count is the largest, taking it away
    leaves the second.

    Returns:
        `dict`: for each n-gram of 1 to `max_order` tokens both counts, the second 0 where a single text has it.
    """
    largest: dict[tuple[str, ...], tuple[int, int]] = {}
    for tokens in tokenized:
        for order in range(1, max_order + 1):
            for ngram, count in Counter(texts.ngrams(tokens, order)).items():
                first, second = largest.get(ngram, (0, 0))
                largest[ngram] = (count, first) if count > first else (first, max(second, count))
    return largest


def clips_by_others(
    tokens: Sequence[str], largest: dict[tuple[str, ...], tuple[int, int]], max_order: int
) -> dict[tuple[str, ...], int]:
    """
    The largest count that each n-gram of a text has in any one of the other texts.

    Args:
        tokens (`Sequence[str]`):
            The text.
        largest (`dict`):
            What `two_largest_counts` returned for all texts, this one among them.
        max_order (`int`):
            Longest n-gram counted.
    """
    clips = {}
    for order in range(1, max_order + 1):
        for ngram, count in Counter(texts.ngrams(tokens, order)).items():
            first, second = largest[ngram]
            clips[ngram] = second if count == first else first
    return clips


class SelfBleu(texts.TextMetric):
    """
    Mean sentence BLEU of generated texts, each with all the others as its references.

    Texygen's measure of diversity (https://arxiv.org/abs/1802.01886). There, by default, the first 500 texts are compared
    with each other; here all.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://arxiv.org/abs/1802.01886",)

    def compute(
        self, *, predictions: Sequence[Any] | None = None, max_order: int = 4, smoothing: str = "none"
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("max_order", max_order)
        check_smoothing(smoothing)
        return self.measure(predictions, fewest=2, max_order=max_order, smoothing=smoothing)

    def score(self, predictions: list[list[str]], *, max_order: int, smoothing: str) -> dict[str, float]:
        largest = two_largest_counts(predictions, max_order)
        lengths = Counter(map(len, predictions))
        scores = []
        for tokens in predictions:
            clips = clips_by_others(tokens, largest, max_order)
            alone = lengths[len(tokens)] == 1
            lengths_of_others = lengths.keys() - {len(tokens)} if alone else lengths.keys()
            scores.append(sentence_bleu(tokens, clips, lengths_of_others, max_order, smoothing))
        return mean_scores(scores, "self_bleu")
