"""Melodies as sound, for whoever judges them by ear: plain tones, which need no more than numpy."""

import io
import itertools
import wave
from collections.abc import Sequence

import numpy as np

from .music import PITCH_OF_KEY_0

_RATE = 11_025  # samples a second
_PARTIALS = (1.0, 0.4, 0.2)
_DECAY = 2.5  # nats a second
_EDGE_SECONDS = 0.005  # a tone that began or ended at once would click


def melody_to_wav(keys: Sequence[int], step_seconds: float = 0.4) -> bytes:
    """
    Play a melody: decaying tones, equal keys in a row as one.

    Args:
        keys (`Sequence[int]`): A key a step, 1 to 88 of a piano, or 0 for a rest; at least one.
        step_seconds (`float`): How long a step lasts.

    Returns:
        `bytes`: a WAV file, mono, 16 bits, 11,025 samples a second.
    """
    played = []
    done = 0
    for key, held in itertools.groupby(keys):
        begin = round(done * step_seconds * _RATE)
        done += len(list(held))
        played.append(_tone(key, round(done * step_seconds * _RATE) - begin))
    samples = np.concatenate(played)
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes((samples * 0.6 * 32767 / sum(_PARTIALS)).astype("<i2").tobytes())
    return written.getvalue()


def _tone(key: int, length: int) -> np.ndarray:
    """Return the samples of a key, in [-sum(_PARTIALS), sum(_PARTIALS)]; of key 0 silence."""
    if key == 0:
        return np.zeros(length)
    seconds = np.arange(length) / _RATE
    frequency = 440 * 2 ** ((key + PITCH_OF_KEY_0 - 69) / 12)
    partials = [
        loudness * np.sin(2 * np.pi * number * frequency * seconds)
        for number, loudness in enumerate(_PARTIALS, start=1)
        if number * frequency < _RATE / 2
    ]
    edge = np.minimum(1, np.minimum(seconds, (length - 1) / _RATE - seconds) / _EDGE_SECONDS)
    return sum(partials, np.zeros(length)) * np.exp(-_DECAY * seconds) * edge
