"""What generated texts are worth: against real ones, among themselves, and against those that were read in training."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .evaluation import words
from .metrics import Bleu, DistinctN, Novelty, SelfBleu
from .metrics.texts import ngrams
from .tokenization import UNKNOWN

_DISTINCT = ("distinct2", "distinct_texts")


@dataclass(frozen=True)
class Task:
    """
    What tells one recipe on real text from another.

    Args:
        order (`int`): BLEU and self-BLEU of this order are compared, as the paper does.
        longest_order (`int`): BLEU is reported from order 2 to this one.
        level (`str`): What metrics count: `word`, words and punctuation marks, or `character`.
        clean (`Callable`, *optional*): From a text as the dataset has it to the text to learn; the empty string drops it.
        alphabet (`tuple[str, ...]`): Texts with all that a tokenizer from scratch must know, seen in training or not.
        more (`Callable`, *optional*): From samples and real texts to further metrics.
        write (`Callable`, *optional*): Takes `output_dir` and some texts of `real`, `MLE` and `SeqGAN`, to be kept there
            in another form.
    """

    order: int
    longest_order: int = 4
    level: str = "word"
    clean: Callable[[str], str] | None = None
    alphabet: tuple[str, ...] = ()
    more: Callable[[Sequence[str], Sequence[str]], dict[str, float]] | None = None
    write: Callable[[Path, Mapping[str, Sequence[str]]], None] | None = None

    def tokens(self, text: str) -> list[str]:
        """Return what metrics count in a text."""
        return words(text) if self.level == "word" else [letter for letter in text if not letter.isspace()]

    @property
    def quality(self) -> str:
        """The metric that says how good texts are; higher is better."""
        return f"bleu{self.order}"

    @property
    def sameness(self) -> str:
        """The metric that says how much alike texts are; lower is better."""
        return f"self_bleu{self.order}"

    def caption(self) -> str:
        """Say what the figures of the printed table are."""
        return (
            "nll: of held-out texts, nats per token; nll_best: the lowest over the temperature. "
            "bleu: of samples against held-out texts (higher is better). "
            f"{self.sameness}: against each other; distinct2, distinct_texts: the share of bigrams and of texts that "
            f"differ. novelty{self.order}: the share of {self.order}-grams that no training text has; copied: texts that "
            "are one."
        )


class TextMeasures:
    """
    Measures of samples of one task, with what they are compared to.

    Args:
        task (`Task`): Says what is counted.
        references (`Sequence[str]`): Real texts that nothing has learned from; each is a reference of every sample.
        training_texts (`Sequence[str]`): Real texts that the generator has learned from.
        num_compared (`int`): Measures of diversity depend on the number of texts: they take so many, the first, of each.
    """

    def __init__(
        self, task: Task, references: Sequence[str], training_texts: Sequence[str], num_compared: int
    ) -> None:
        self.task = task
        self.references = list(references)
        self.num_compared = num_compared
        # What the vocabulary lacks is another word each time: no sample may match it. In training texts it may be
        # matched: a sample with such a word counts rather as known than as new.
        self._references = [task.tokens(text.replace(UNKNOWN, "\0")) for text in references]
        self._training_texts = [task.tokens(text) for text in training_texts]
        digest = hashlib.sha256(f"{task.level} {num_compared}".encode())
        for text in (*sorted(references), "", *sorted(training_texts)):
            digest.update(text.encode() + b"\n")
        # Names what samples are compared to: figures compare where this is the same.
        self.digest = digest.hexdigest()[:16]

    def of(self, samples: Sequence[str], varied: Sequence[str] | None = None) -> dict[str, float]:
        """
        Measure samples.

        Args:
            samples (`Sequence[str]`): At least `num_compared`, two or more.
            varied (`Sequence[str]`, *optional*): As many other texts, whose variety is taken instead of theirs.

        Returns:
            `dict`: `bleu2`, ... (quality, in [0, 1]), those of [`variety`], `novelty<order>` (the share of n-grams that
            no training text has), `copied` (the share of texts that are a training text, token for token), and what the
            task adds.
        """
        task = self.task
        tokens = [task.tokens(text) for text in samples]
        bleu = _computed(Bleu, predictions=tokens, reference_corpus=self._references, max_order=task.longest_order)
        new = _computed(Novelty, predictions=tokens, training_texts=self._training_texts, max_order=task.order)
        return {
            **{f"bleu{order}": bleu[f"bleu{order}"] for order in range(2, task.longest_order + 1)},
            **self.variety(samples if varied is None else varied),
            f"novelty{task.order}": new[f"novelty{task.order}"],
            "copied": new["copied_texts"],
            **(task.more(samples, self.references) if task.more else {}),
        }

    def variety(self, texts: Sequence[str]) -> dict[str, float]:
        """
        Measure how much texts differ.

        Args:
            texts (`Sequence[str]`): At least `num_compared`, two or more.

        Returns:
            `dict`: `self_bleu<order>` (sameness, in [0, 1]), `distinct2` (different bigrams for each bigram) and
            `distinct_texts` (different texts for each text).
        """
        compared = [self.task.tokens(text) for text in texts[: self.num_compared]]
        alike = _computed(SelfBleu, predictions=compared, max_order=self.task.order)
        distinct = _computed(DistinctN, predictions=compared, max_order=2)
        return {self.task.sameness: alike[self.task.sameness], **{name: distinct[name] for name in _DISTINCT}}


def _computed(metric: type, **arguments: Any) -> dict[str, float]:
    scores = metric().compute(**arguments)
    assert scores is not None  # `evaluate` returns None on other processes than the first; this one computes alone
    return dict(scores)


def best_temperature(
    curve: Sequence[Mapping[str, float]], quality: str, sameness: str, limit: float
) -> Mapping[str, float]:
    """
    Find the temperature at which a generator writes best without being more uniform than real texts are.

    Args:
        curve (`Sequence[Mapping]`): Its metrics at several temperatures, 1 among them.
        quality (`str`): The metric that is to be high.
        sameness (`str`): The metric that has a limit.
        limit (`float`): That of real texts.

    Returns:
        `Mapping`: the point of the curve; that of temperature 1 if all are beyond the limit.
    """
    within = [point for point in curve if point[sameness] <= limit]
    within = within or [point for point in curve if point["temperature"] == 1]
    return max(within, key=lambda point: point[quality])


def temperature_where(curve: Sequence[Mapping[str, float]], metric: str, value: float) -> float | None:
    """
    Find the temperature at which a metric of a generator has some value.

    Args:
        curve (`Sequence[Mapping]`): Its metrics at several temperatures. Between two lies a straight line.
        metric (`str`): Falls or rises with the temperature.
        value (`float`): Of that metric.

    Returns:
        `float`, *optional*: the highest such temperature; `None` if the curve does not reach it.
    """
    points = sorted(curve, key=lambda point: -point["temperature"])
    for warmer, colder in itertools.pairwise(points):
        low, high = sorted((warmer[metric], colder[metric]))
        if low <= value <= high:
            share = 0.0 if low == high else (value - warmer[metric]) / (colder[metric] - warmer[metric])
            return float(warmer["temperature"] + share * (colder["temperature"] - warmer["temperature"]))
    return None


def point_between(curve: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, float]:
    """
    Read a generator's metrics off at some temperature.

    Args:
        curve (`Sequence[Mapping]`): Its metrics at several temperatures. Between two lies a straight line.
        temperature (`float`): Within the curve.

    Returns:
        `dict`: `temperature`, and each metric there.
    """
    points = sorted(curve, key=lambda point: point["temperature"])
    at = [point["temperature"] for point in points]
    shared = set.intersection(*(set(point) for point in points))
    metrics = [name for name, value in points[0].items() if isinstance(value, float) and name in shared]
    return {name: float(np.interp(temperature, at, [point[name] for point in points])) for name in metrics}


def nearest_texts(samples: Sequence[Sequence[str]], texts: Iterable[Sequence[str]]) -> list[int]:
    """
    Find for each sample the text that shares most with it, by [`likeness`].

    Args:
        samples (`Sequence[Sequence[str]]`): Tokens of each.
        texts (`Iterable[Sequence[str]]`): Tokens of each; at least one. They are read once.

    Returns:
        `list[int]`: for each sample the index of the text; of equal ones the first.
    """
    wanted = [_parts(sample) for sample in samples]
    best = [(-1.0, 0)] * len(wanted)
    for index, text in enumerate(texts):
        other = _parts(text)
        for number, own in enumerate(wanted):
            shared = _shared(own, other)
            if shared > best[number][0]:
                best[number] = (shared, index)
    return [index for _, index in best]


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """
    Say how much two texts share: the Dice coefficient of the counts of their tokens and bigrams.

    Args:
        one, other (`Sequence[str]`): Tokens of each.

    Returns:
        `float` in [0, 1]; 1 only for texts with the same tokens and bigrams.
    """
    return _shared(_parts(one), _parts(other))


def _parts(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter([*ngrams(tokens, 1), *ngrams(tokens, 2)])


def _shared(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    return 2 * (one & other).total() / max(one.total() + other.total(), 1)
