"""MSE of melodies: how far, in semitones squared, what was written lies from what is real."""

import numbers
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np

from seqgan_hf.metrics import texts

HIGHEST_KEY = 88  # of a piano; key 1 is MIDI pitch 21
_BLOCK = 1024  # melodies of either kind at a time: 8 MB of distances
_KEYS = {str(key): key for key in range(HIGHEST_KEY + 1)}

_DESCRIPTION = """\
Mean squared difference in pitch, in semitones squared, between generated and real melodies: to the nearest real one, and
over all pairs. It asks whether what was written lies near something real, and says nothing of diversity.
"""

_CITATION = """\
@inproceedings{yu-etal-2017-seqgan,
    title     = "{S}eq{GAN}: Sequence Generative Adversarial Nets with Policy Gradient",
    author    = "Yu, Lantao and Zhang, Weinan and Wang, Jun and Yu, Yong",
    booktitle = "Proceedings of the Thirty-First AAAI Conference on Artificial Intelligence",
    year      = "2017",
    pages     = "2852--2858",
    doi       = "10.1609/aaai.v31i1.10804",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `str`, of `list[str]` or of `list[int]`):
        The generated melodies, a token a step: 0 is a rest, 1 to 88 are the keys of a piano, MIDI pitch minus 20. A
        string is split at white space.
    reference_corpus (`list` of `str`, of `list[str]` or of `list[int]`):
        The real melodies, of any number, and of the length of the generated ones.

Returns:
    `dict[str, float]`: `mse_nearest`, the mean over generated melodies of the smallest, over real ones, mean squared
    difference of their pitch lines; `mse_pairs`, the mean of that difference over all pairs of a generated and a real
    melody; both in semitones squared. `silent`, in [0, 1): the share of generated melodies of rests only. They have no
    pitch and are left out of the two means, as are such real ones. In a pitch line a rest keeps the pitch of the step
    before it, and rests at the start take that of the first note.

Raises:
    ValueError: If there are no melodies of either kind, or all of a kind are silent, if their lengths differ, or a token
        is not an integer from 0 to 88.
    TypeError: If a melody is neither a string nor a list, or one string stands where a list of melodies should.

Examples:
    >>> mse_music = evaluate.load("seqgan_hf/metrics/mse_music")
    >>> mse_music.compute(predictions=["40 42 0 44"], reference_corpus=["40 42 44 44", "47 0 47 47"])
    {'mse_nearest': 1.0, 'mse_pairs': 14.0, 'silent': 0.0}
"""


def parse_melody(melody: Any, argument: str = "melody") -> list[int]:
    """
    Read one melody.

    Args:
        melody (`str`, `list` or array): A token a step, as a string with white space between them, as strings or as
            integers: 0 is a rest, 1 to 88 are the keys of a piano, MIDI pitch minus 20.
        argument (`str`): What the caller calls it, for the errors.

    Returns:
        `list[int]`: its tokens.

    Raises:
        TypeError: If it is neither a string nor a list.
        ValueError: If it is empty, or a token is not an integer from 0 to 88.
    """
    tokens = melody.split() if isinstance(melody, str) else getattr(melody, "tolist", lambda: melody)()
    if not isinstance(tokens, list | tuple):
        raise TypeError(
            f"`{argument}`: a melody must be a string of integers or a list of them, got {reprlib.repr(melody)}."
        )
    if not tokens:
        raise ValueError(f"`{argument}`: a melody must have at least one step, got {melody!r}. Leave it out.")
    return [_parse_token(token, step, argument) for step, token in enumerate(tokens)]


def _parse_token(token: Any, step: int, argument: str) -> int:
    if isinstance(token, str) and token in _KEYS:
        return _KEYS[token]
    if isinstance(token, numbers.Integral) and not isinstance(token, bool) and 0 <= int(token) <= HIGHEST_KEY:
        return int(token)
    raise ValueError(
        f"`{argument}`: a token must be an integer from 0, a rest, to {HIGHEST_KEY}, the highest key of a piano; got "
        f"{reprlib.repr(token)} at step {step}. The key of a MIDI pitch is 20 less."
    )


def pitch_lines(melodies: np.ndarray) -> np.ndarray:
    """
    Give every step a pitch: a rest keeps that of the step before it, rests at the start take that of the first note.

    Args:
        melodies (`np.ndarray` of shape `(num_melodies, num_steps)`):
            Tokens; 0 is a rest. A melody of rests only stays as it is.

    Returns:
        `np.ndarray` of the same shape.
    """
    sounding = melodies > 0
    last_note = np.maximum.accumulate(np.where(sounding, np.arange(melodies.shape[1]), -1), axis=1)
    first_note = sounding.argmax(axis=1, keepdims=True)
    return np.take_along_axis(melodies, np.where(last_note < 0, first_note, last_note), axis=1)


def mse_to_nearest(lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """
    For each pitch line its mean squared difference to the nearest of the others.

    `|x|^2 + |y|^2 - 2 x y`, a block of lines of either kind at a time. Pitches are small integers, so nothing is rounded
    before the division by the number of steps, and the distance to a copy is 0.

    Args:
        lines (`np.ndarray` of shape `(num_lines, num_steps)`): Integers, in float64.
        others (`np.ndarray` of shape `(num_others, num_steps)`): The same, at least one.

    Returns:
        `np.ndarray` of shape `(num_lines,)`.
    """
    nearest = np.empty(len(lines))
    for first in range(0, len(lines), _BLOCK):
        rows = lines[first : first + _BLOCK]
        least = np.full(len(rows), np.inf)
        for start in range(0, len(others), _BLOCK):
            columns = others[start : start + _BLOCK]
            least = np.minimum(least, ((columns**2).sum(axis=1) - 2 * rows @ columns.T).min(axis=1))
        nearest[first : first + _BLOCK] = least + (rows**2).sum(axis=1)
    return nearest / lines.shape[1]


def mse_over_pairs(lines: np.ndarray, others: np.ndarray) -> float:
    """
    The mean squared difference over all pairs of a line and one of the others.

    At each step it is the sum of both variances and the squared difference of both means, so no pair is looked at.

    Args:
        lines (`np.ndarray` of shape `(num_lines, num_steps)`): Numbers, in float64.
        others (`np.ndarray` of shape `(num_others, num_steps)`): The same.
    """
    between_means = (lines.mean(axis=0) - others.mean(axis=0)) ** 2
    return float((lines.var(axis=0) + others.var(axis=0) + between_means).mean())


def _lines_with_a_note(melodies: list[list[int]], argument: str) -> np.ndarray:
    with_a_note = [melody for melody in melodies if any(melody)]
    if not with_a_note:
        raise ValueError(
            f"`{argument}` must hold at least one melody with a note, as a rest has no pitch to compare; got "
            f"{len(melodies)} of rests only."
        )
    return pitch_lines(np.array(with_a_note)).astype(np.float64)


class MSEMusic(texts.TextMetric):
    """
    Mean squared difference in pitch between generated and real melodies.

    SeqGAN (https://huggingface.co/papers/1609.05473) reports an "MSE" of melodies and does not say between what. This
    one is defined here, and its figures are not comparable with the paper's.
    """

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://huggingface.co/papers/1609.05473",)
    form = datasets.Sequence(datasets.Value("int64"))

    @staticmethod
    def take(texts: Iterable[Any], argument: str) -> list[list[int]]:
        """Check melodies, and turn each into the list of its tokens."""
        if isinstance(texts, str):
            raise TypeError(f"`{argument}` must be a list of melodies, got the one string {reprlib.repr(texts)}.")
        return [parse_melody(melody, argument) for melody in texts]

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        reference_corpus: Sequence[Any] | None = None,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        real = [] if reference_corpus is None else self.take(reference_corpus, "reference_corpus")
        if not real:
            raise ValueError(
                "`reference_corpus` must hold at least one melody; every prediction is compared with all of them."
            )
        return self.measure(predictions, reference_corpus=real)

    def score(self, predictions: list[list[int]], *, reference_corpus: list[list[int]]) -> dict[str, float]:
        lengths = [len(melody) for melody in [*predictions, *reference_corpus]]
        if min(lengths) != max(lengths):
            raise ValueError(
                "All melodies must have one length, to be compared step by step; got lengths from "
                f"{min(lengths)} to {max(lengths)}. Cut them into windows of the same length."
            )
        lines = _lines_with_a_note(predictions, "predictions")
        real = _lines_with_a_note(reference_corpus, "reference_corpus")
        return {
            "mse_nearest": float(mse_to_nearest(lines, real).mean()),
            "mse_pairs": mse_over_pairs(lines, real),
            "silent": (len(predictions) - len(lines)) / len(predictions),
        }
