"""BLEU of free text: every hypothesis against a whole corpus, as SeqGAN reports it."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from seqgan_hf.metrics import texts
from seqgan_hf.metrics.texts import ngrams

SMOOTHINGS = ("none", "epsilon", "add_one")
EPSILON = 0.1  # the default of NLTK's SmoothingFunction, and of the "floor" smoothing of sacrebleu

_DESCRIPTION = """\
Mean sentence BLEU of generated texts, each scored with every text of a corpus as one of its references. It asks how
much of what was written is made of n-grams that the corpus has too: it measures quality and says nothing of diversity.
"""

_CITATION = """\
@inproceedings{papineni-etal-2002-bleu,
    title     = "{B}leu: a Method for Automatic Evaluation of Machine Translation",
    author    = "Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing",
    booktitle = "Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics",
    year      = "2002",
    pages     = "311--318",
    doi       = "10.3115/1073083.1073135",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str` or of `list[str]`):
        The hypotheses. A string is split at white space; a list is taken as the tokens it holds.
    reference_corpus (`list` of `str` or of `list[str]`):
        The references that all hypotheses share, of any number; tokenised like `predictions`.
    max_order (`int`, defaults to 4):
        Longest n-gram counted; at least 1.
    smoothing (`str`, defaults to `"none"`):
        What a precision without a match becomes. `"none"`: it stays 0, and so is the BLEU of that hypothesis.
        `"epsilon"`: 0.1 matches. `"add_one"`: one more match and one more n-gram, at every order above 1 and whether
        or not there was a match.

Returns:
    `dict[str, float]`: the means over the hypotheses, in [0, 1]. `bleu` is of order `max_order`; `bleu2`, `bleu3`, ...
    up to `max_order` are of the order they name, each with uniform weights over the orders 1 to n.

Raises:
    ValueError: If there are no predictions, if the corpus is empty or missing, if `max_order` is not an integer of at
        least 1, or if `smoothing` is unknown.
    TypeError: If a text is neither a string nor a list of strings, or one string stands where a list of texts should.

Examples:
    >>> bleu = evaluate.load("seqgan_hf/metrics/bleu")
    >>> bleu.compute(predictions=["a b c d"], reference_corpus=["a b c e", "b c d"], max_order=2)
    {'bleu': 1.0, 'bleu2': 1.0}
"""


def check_smoothing(smoothing: str) -> None:
    """
    Check the name of a smoothing.

    Raises:
        ValueError: If it is none of `SMOOTHINGS`.
    """
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"`smoothing` must be one of {', '.join(map(repr, SMOOTHINGS))}, got {smoothing!r}.")


def count_clips(
    hypotheses: Iterable[list[str]], corpus: Iterable[list[str]], max_order: int
) -> dict[tuple[str, ...], int]:
    """
    The largest count of each hypothesis n-gram in any one reference, from one pass over the corpus.

    Clipping against all references at once needs no more than this maximum, so no hypothesis is compared with a
    reference. N-grams that no hypothesis has are not kept: memory grows with the hypotheses, not with the corpus.

    Returns:
        `dict[tuple[str, ...], int]`: for each n-gram of 1 to `max_order` tokens of the hypotheses; 0 if no reference
        has it.
    """
    orders = range(1, max_order + 1)
    clips = {ngram: 0 for tokens in hypotheses for order in orders for ngram in ngrams(tokens, order)}
    for tokens in corpus:
        for order in orders:
            for ngram, count in Counter(filter(clips.__contains__, ngrams(tokens, order))).items():
                clips[ngram] = max(clips[ngram], count)
    return clips


def smoothed_precision(matches: int, total: int, order: int, smoothing: str) -> float:
    """
    The precision of one n-gram order, in [0, 1].

    "epsilon" and "add_one" are methods 1 and 2 of Chen and Cherry (https://aclanthology.org/W14-3346); the second is
    that of Lin and Och (https://aclanthology.org/C04-1072).
    """
    if smoothing == "add_one" and order > 1:
        return (matches + 1) / (total + 1)
    if smoothing == "epsilon" and matches == 0:
        return EPSILON / total
    return matches / total


def brevity_penalty(length: int, reference_lengths: Collection[int]) -> float:
    """The factor in [0, 1] for a hypothesis shorter than the reference closest in length, of two the shorter."""
    closest = min(reference_lengths, key=lambda reference: (abs(reference - length), reference))
    if length >= closest:
        return 1.0
    return math.exp(1 - closest / length) if length else 0.0


def sentence_bleu(
    tokens: list[str],
    clips: dict[tuple[str, ...], int],
    reference_lengths: Collection[int],
    max_order: int,
    smoothing: str,
) -> list[float]:
    """
    BLEU of one hypothesis at the orders 1 to `max_order`.

    Without a single known token all are 0, whatever the smoothing. A hypothesis shorter than an order has no n-gram of
    it; that order then counts as one n-gram without a match. Both are what NLTK does.

    Args:
        tokens (`list[str]`):
            The hypothesis.
        clips (`dict[tuple[str, ...], int]`):
            What `count_clips` returned for hypotheses that include this one.
        reference_lengths (`Collection[int]`):
            The distinct lengths of the references, in tokens.
        max_order (`int`):
            Longest n-gram counted.
        smoothing (`str`):
            One of `SMOOTHINGS`.

    Returns:
        `list[float]`: `max_order` scores in [0, 1], that of order n at index n - 1.
    """
    log_precisions = []
    for order in range(1, max_order + 1):
        counts = Counter(ngrams(tokens, order))
        matches = sum(min(count, clips[ngram]) for ngram, count in counts.items())
        if order == 1 and matches == 0:
            return [0.0] * max_order
        precision = smoothed_precision(matches, max(1, counts.total()), order, smoothing)
        log_precisions.append(math.log(precision) if precision else -math.inf)
    penalty = brevity_penalty(len(tokens), reference_lengths)
    # Weights inside an exact sum, as in NLTK, so that the two agree to the last bit.
    return [
        penalty * math.exp(math.fsum(1 / order * value for value in log_precisions[:order]))
        for order in range(1, max_order + 1)
    ]


def mean_scores(scores: Sequence[Sequence[float]], name: str) -> dict[str, float]:
    """
    The means over texts, as the metric called `name` reports them: of the longest order, and of each from 2 on.

    Args:
        scores (`Sequence[Sequence[float]]`):
            What `sentence_bleu` returned for each text, at least one.
        name (`str`):
            The key of the longest order; the others have their order behind it.
    """
    means = [math.fsum(of_order) / len(scores) for of_order in zip(*scores, strict=True)]
    return {name: means[-1]} | {f"{name}{order}": means[order - 1] for order in range(2, len(means) + 1)}


class Bleu(texts.TextMetric):
    """
    Mean sentence BLEU of hypotheses that all have a whole corpus as their references.

    SeqGAN's measure of real text (https://huggingface.co/papers/1609.05473, Tables 2 to 4), built on Papineni et al.
    (https://aclanthology.org/P02-1040). The corpus goes in as `reference_corpus`, because `evaluate` wants
    `references` to be as many as the predictions.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://aclanthology.org/P02-1040", "https://huggingface.co/papers/1609.05473")

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        reference_corpus: Sequence[Any] | None = None,
        max_order: int = 4,
        smoothing: str = "none",
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("max_order", max_order)
        check_smoothing(smoothing)
        corpus = texts.tokenize_corpus(reference_corpus, "reference_corpus", "every prediction is scored against all.")
        return self.measure(predictions, reference_corpus=corpus, max_order=max_order, smoothing=smoothing)

    def score(
        self, predictions: list[list[str]], *, reference_corpus: list[list[str]], max_order: int, smoothing: str
    ) -> dict[str, float]:
        clips = count_clips(predictions, reference_corpus, max_order)
        reference_lengths = {len(tokens) for tokens in reference_corpus}
        scores = [sentence_bleu(tokens, clips, reference_lengths, max_order, smoothing) for tokens in predictions]
        return mean_scores(scores, "bleu")
