"""Reverse perplexity: of real text, under an n-gram model of generated texts."""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from seqgan_hf.metrics import texts

START, END, UNKNOWN = range(3)  # the ids before those of tokens

_DESCRIPTION = """\
The perplexity of real text under a small language model, an interpolated Kneser-Ney n-gram model, of generated texts. It
asks for quality and diversity at once: what the generated texts never say is expensive. It falls as more texts are
given, so compare equal numbers of them, against the same real text.
"""

_CITATION = """\
@inproceedings{zhao-etal-2018-adversarially,
    title     = "Adversarially Regularized Autoencoders",
    author    = "Zhao, Junbo and Kim, Yoon and Zhang, Kelly and Rush, Alexander M. and LeCun, Yann",
    booktitle = "Proceedings of the 35th International Conference on Machine Learning",
    year      = "2018",
    pages     = "5902--5911",
    volume    = "80",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str` or of `list[str]`):
        The generated texts, which the n-gram model is made of. A string is split at white space; a list is taken as the
        tokens it holds.
    reference_corpus (`list` of `str` or of `list[str]`):
        Held-out real texts, whose perplexity is measured; tokenised like `predictions`.
    max_order (`int`, defaults to 3):
        Longest n-gram of the model; at least 1.
    discount (`float`, defaults to 0.75):
        What is taken from every count and given to the next shorter context; above 0 and below 1.
    end_of_text (`bool`, defaults to `True`):
        Whether the end of a text is predicted, like a token. Not so for texts that were cut off at some length.

Returns:
    `dict[str, float]`: `reverse_nll`, the mean negative log-likelihood of a token of the real texts, in nats, and
    `reverse_perplexity`, its exponential; low is good. The numbers depend on how many texts there are: compare equal
    numbers.

Raises:
    ValueError: If there are no texts of either kind, if the real ones have nothing to predict, if `max_order` is not an
        integer of at least 1, or if `discount` is not between 0 and 1.
    TypeError: If a text is neither a string nor a list of strings, one string stands where a list of texts should, or
        `end_of_text` is not a bool.

Examples:
    >>> reverse_perplexity = evaluate.load("seqgan_hf/metrics/reverse_perplexity")
    >>> reverse_perplexity.compute(predictions=["a b", "a c"], reference_corpus=["a b"], max_order=2, discount=0.5)
    {'reverse_perplexity': 1.721530188696593, 'reverse_nll': 0.5432135399172067}
"""


class KneserNey:
    """
    An interpolated Kneser-Ney n-gram model.

    With one discount for all counts (Chen and Goodman, https://doi.org/10.1006/csla.1999.0128). An n-gram
    of the longest order, or from the start of a text, counts as often as it was seen; a shorter one as often as there
    are different items before it (Kneser and Ney, https://doi.org/10.1109/ICASSP.1995.479394). Below single items is the
    uniform distribution.

    Args:
        sequences (`Iterable[Sequence[int]]`):
            The texts as ids. The first id of each is only ever a context, and stands nowhere else.
        num_outcomes (`int`):
            How many different ids may follow a context.
        max_order (`int`):
            Longest n-gram.
        discount (`float`):
            Above 0 and below 1.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], num_outcomes: int, max_order: int, discount: float):
        self.num_outcomes, self.max_order, self.discount = num_outcomes, max_order, discount
        # For each context what follows it, and how often.
        self.followers: dict[tuple[int, ...], dict[int, int]] = {}
        for ids in sequences:
            for position in range(1, len(ids)):
                self._count(ids[position], self._context(ids, position))
        self.totals = {context: sum(counts.values()) for context, counts in self.followers.items()}

    def _context(self, ids: Sequence[int], position: int) -> tuple[int, ...]:
        return tuple(ids[max(0, position + 1 - self.max_order) : position])

    def _count(self, item: int, context: tuple[int, ...]) -> None:
        for start in range(len(context) + 1):
            counts = self.followers.setdefault(context[start:], {})
            counts[item] = counts.get(item, 0) + 1
            if counts[item] > 1:
                break  # an n-gram seen before is nothing new in front of the shorter one that it ends with

    def probability(self, ids: Sequence[int], position: int) -> float:
        """
        The probability of the id at a position of a text, given those before it.

        Args:
            ids (`Sequence[int]`): The text, from its first id, which has no probability.
            position (`int`): At least 1.

        Returns:
            `float` in (0, 1); over all outcomes at that position the sum is 1.
        """
        context = self._context(ids, position)
        probability = 1 / self.num_outcomes
        for start in range(len(context), -1, -1):
            counts = self.followers.get(context[start:])
            if counts is None:
                break  # no longer context was seen either
            kept = max(counts.get(ids[position], 0) - self.discount, 0)
            probability = (kept + self.discount * len(counts) * probability) / self.totals[context[start:]]
        return probability


class ReversePerplexity(texts.TextMetric):
    """
    Perplexity of real text under an n-gram model of generated texts.

    The idea is from Zhao et al. (https://arxiv.org/abs/1706.04223), where a recurrent network learns from the generated
    texts; see also Cífka et al. (https://arxiv.org/abs/1804.07972). An n-gram model is counted, without random numbers.
    The figures depend on how many texts are given: compare equal numbers of them.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://arxiv.org/abs/1706.04223", "https://arxiv.org/abs/1804.07972")

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        reference_corpus: Sequence[Any] | None = None,
        max_order: int = 3,
        discount: float = 0.75,
        end_of_text: bool = True,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("max_order", max_order)
        if not isinstance(discount, numbers.Real) or not 0 < discount < 1:
            raise ValueError(
                f"`discount` must be a number between 0 and 1, neither of them included; got {discount!r}."
            )
        if not isinstance(end_of_text, bool):
            raise TypeError(f"`end_of_text` must be True or False, got {end_of_text!r}.")
        real = texts.tokenize_corpus(reference_corpus, "reference_corpus", "its perplexity is measured.")
        if not end_of_text and not any(real):
            raise ValueError("`reference_corpus` must hold at least one token, where no end of text is predicted.")
        return self.measure(
            predictions, reference_corpus=real, max_order=max_order, discount=discount, end_of_text=end_of_text
        )

    def score(
        self,
        predictions: list[list[str]],
        *,
        reference_corpus: list[list[str]],
        max_order: int,
        discount: float,
        end_of_text: bool,
    ) -> dict[str, float]:
        types = dict.fromkeys(token for tokens in reference_corpus for token in tokens)
        ids = {token: number for number, token in enumerate(types, start=UNKNOWN + 1)}
        end = [END] if end_of_text else []
        generated, real = (
            [[START, *(ids.get(token, UNKNOWN) for token in tokens), *end] for tokens in corpus]
            for corpus in (predictions, reference_corpus)
        )
        # Of the same real text there are always the same outcomes, so figures of different generators compare.
        model = KneserNey(generated, len([*ids, UNKNOWN, *end]), max_order, discount)
        logs = [math.log(model.probability(text, position)) for text in real for position in range(1, len(text))]
        nll = -math.fsum(logs) / len(logs)
        return {"reverse_perplexity": math.exp(nll), "reverse_nll": nll}
