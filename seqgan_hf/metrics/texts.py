"""
What metrics of generated texts share: tokens, n-grams, and how texts are taken in and checked.

`evaluate.load` copies a metric's file into its module cache and leaves this one behind, so metrics import it by its full
name, and seqgan_hf must be installed where they are loaded by path.
"""

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import datasets
import evaluate


def tokenize(text: str | list[str] | tuple[str, ...], argument: str) -> list[str]:
    """
    The tokens of one text: a string split at white space, a list or tuple as it is.

    Raises:
        TypeError: If `text`, an element of the argument called `argument`, is neither.
    """
    if isinstance(text, str):
        return text.split()
    # Token ids would otherwise be cast to strings on one side only, and nothing would match.
    if isinstance(text, list | tuple) and all(isinstance(token, str) for token in text):
        return list(text)
    raise TypeError(
        f"`{argument}` must hold strings or lists of string tokens, got {reprlib.repr(text)}. "
        "Decode token ids, or turn each into a string."
    )


def tokenize_all(texts: Iterable[str | list[str] | tuple[str, ...]], argument: str) -> list[list[str]]:
    """
    The tokens of every text.

    Raises:
        TypeError: If `texts` is a single string, or an element is neither a string nor a list of strings.
    """
    if isinstance(texts, str):
        raise TypeError(f"`{argument}` must be a list of texts, got the one string {reprlib.repr(texts)}.")
    return [tokenize(text, argument) for text in texts]


def ngrams(tokens: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of length `order`, in their order of appearance; none if there are fewer tokens than that."""
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def check_at_least_one(name: str, value: int) -> None:
    """
    Check the number that is the argument of that name.

    Raises:
        ValueError: If it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")


def tokenize_corpus(corpus: Sequence[Any] | None, argument: str, purpose: str) -> list[list[str]]:
    """
    The tokens of a corpus beside the generated texts.

    Args:
        corpus (`Sequence`, *optional*): Strings or lists of tokens.
        argument (`str`): What the caller calls it.
        purpose (`str`): The end of the sentence that an empty corpus gets.

    Raises:
        TypeError: If it is a single string, or holds anything but texts.
        ValueError: If it is missing or empty.
    """
    texts = [] if corpus is None else tokenize_all(corpus, argument)
    if not texts:
        raise ValueError(f"`{argument}` must hold at least one text; {purpose}")
    return texts


class TextMetric(evaluate.Metric):
    """
    An `evaluate` metric of generated texts, given as strings or lists of string tokens.

    A subclass describes itself in the class variables, checks the arguments of its `compute` and hands them to `measure`,
    and measures in `score`. One that takes texts in another form says so in `form` and `take`.
    """

    # Not named as the properties of `evaluate`, which read them through `_info`.
    about: ClassVar[str]
    inputs: ClassVar[str]
    bibtex: ClassVar[str]
    urls: ClassVar[tuple[str, ...]]
    score: Callable[..., dict[str, float]]
    """Measures texts in the form of `take`, with the settings that `compute` gave to `measure`."""
    form: ClassVar[Any] = datasets.Sequence(datasets.Value("string"))

    @staticmethod
    def take(texts: Iterable[Any], argument: str) -> list[Any]:
        """Check the texts of the argument of that name, and bring them into the form that `score` gets."""
        return tokenize_all(texts, argument)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.bibtex,
            inputs_description=self.inputs,
            features=datasets.Features({"predictions": self.form}),
            reference_urls=list(self.urls),
        )

    # `evaluate` appends the description of the inputs to the docstrings of compute, add_batch and add.

    def measure(
        self, predictions: Sequence[Any] | None, *, fewest: int = 1, **settings: Any
    ) -> dict[str, float] | None:
        """
        Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first.

        Args:
            predictions (`Sequence`, *optional*): As `take` takes them.
            fewest (`int`): How many texts there must be.
            **settings: For `score`.

        Raises:
            TypeError: If a prediction is no text.
            ValueError: If there are too few.
        """
        taken = [] if predictions is None else self.take(predictions, "predictions")
        number = len(self) + len(taken)
        if number == 0:
            raise ValueError("`predictions` must hold at least one text; the mean over none is undefined.")
        if number < fewest:
            raise ValueError(f"`predictions` must hold at least {fewest} texts, to be compared; got {number}.")
        if taken:
            super().add_batch(predictions=taken)
        scores: dict[str, Any] | None = super().compute(**settings)
        if scores and isinstance(scores.get("error"), Exception):
            raise scores["error"]
        return scores

    def _compute(self, *, predictions: list[Any], **settings: Any) -> dict[str, Any]:
        # An error here would leave the lock of the cache file taken, so it is raised when `evaluate` has cleaned up.
        try:
            return dict(self.score(predictions, **settings))
        except Exception as error:
            return {"error": error}

    def add_batch(self, *, predictions: Sequence[Any]) -> None:
        """Keep texts for `compute`."""
        taken = self.take(predictions, "predictions")
        if taken:
            super().add_batch(predictions=taken)

    def add(self, *, prediction: Any) -> None:
        """Keep one text for `compute`."""
        super().add(prediction=self.take([prediction], "prediction")[0])
