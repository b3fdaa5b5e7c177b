"""
Melodies as MIDI files, and back. Needs mido: the extra `music`.

A melody is a token a step, as in SeqGAN's experiment on folk tunes (https://huggingface.co/papers/1609.05473): 0 is a
rest, 1 to 88 are the keys of a piano, MIDI pitch minus 20. Held and repeated notes are not told apart.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .metrics.mse_music.mse_music import HIGHEST_KEY, parse_melody

__all__ = ["PITCH_OF_KEY_0", "melody_to_midi", "midi_to_melody", "parse_melody", "save_melodies"]

PITCH_OF_KEY_0 = 20
_DRUMS = 9  # the channel whose notes are no pitches
_TICKS_PER_STEP = 480
_LONGEST_STEP = 0xFFFFFF  # microseconds; a tempo has 24 bits


def melody_to_midi(tokens: Any, step_seconds: float = 0.4, program: int = 0) -> Any:
    """
    Write a melody as MIDI: a track on which equal keys in a row are one held note.

    Args:
        tokens (`str` or `Sequence`): The melody, as [`parse_melody`] takes it.
        step_seconds (`float`): How long a step lasts, to the microsecond. It becomes a beat.
        program (`int`): The instrument of General MIDI, from 0; 0 is a piano.

    Returns:
        `mido.MidiFile`: it lasts as long as the melody, rests at the end included; `save(path)` writes it.

    Raises:
        ValueError: If a token is not an integer from 0 to 88, if the step is no length that MIDI has, or `program` is not
            from 0 to 127.
        ImportError: If mido is not installed.
    """
    mido = require_mido()
    keys = parse_melody(tokens, "tokens")
    tempo = _microseconds(step_seconds)
    track = mido.MidiTrack(
        [mido.MetaMessage("set_tempo", tempo=tempo), mido.Message("program_change", program=program)]
    )
    written = 0  # steps
    for step, (before, key) in enumerate(zip([0, *keys], [*keys, 0], strict=True)):
        if before == key:
            continue
        # The pauses between messages add up: each waits for what has passed since the last.
        for name, sounds in (("note_off", before), ("note_on", key)):
            if sounds:
                pause, written = step - written, step
                track.append(mido.Message(name, note=sounds + PITCH_OF_KEY_0, time=pause * _TICKS_PER_STEP))
    track.append(mido.MetaMessage("end_of_track", time=(len(keys) - written) * _TICKS_PER_STEP))
    return mido.MidiFile(type=0, ticks_per_beat=_TICKS_PER_STEP, tracks=[track])


def midi_to_melody(midi: Any, step_seconds: float = 0.4) -> list[int]:
    """
    Read a melody from MIDI: at each multiple of the step, the note that sounds then.

    A note sounds from its start up to its end, which is excluded. Of several the highest is taken, over all tracks and
    channels but that of the drums. There is a token for every step that begins before the file ends.

    Args:
        midi (`str`, `Path` or `mido.MidiFile`): The file.
        step_seconds (`float`): How long a step lasts, to the microsecond, whatever the tempo of the file.

    Returns:
        `list[int]`: the tokens.

    Raises:
        ValueError: If a note to be taken is no key of a piano, if the file has no beats or its tracks do not play
            together, or the step is no length that MIDI has.
        ImportError: If mido is not installed.
    """
    mido = require_mido()
    step = _microseconds(step_seconds)
    file = midi if isinstance(midi, mido.MidiFile) else mido.MidiFile(midi)
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise ValueError(
            "A melody is read from MIDI of type 0 or 1 that counts in beats, got type "
            f"{file.type} with {file.ticks_per_beat} ticks a beat. Convert it."
        )
    keys: list[int] = []
    sounding: Counter[tuple[int, int]] = Counter()
    # In microseconds times ticks a beat everything is an integer, and a step that begins with a note gets that note.
    now, tempo = 0, mido.bpm2tempo(120)
    for message in file.merged_track:
        now += message.time * tempo
        while len(keys) * step * file.ticks_per_beat < now:
            keys.append(_highest_key(sounding))
        if message.type == "set_tempo":
            tempo = message.tempo
        elif message.type in ("note_on", "note_off") and message.channel != _DRUMS:
            note = (message.channel, message.note)
            begins = message.type == "note_on" and message.velocity > 0
            # Counted, as a note may begin again before it has ended: its first end is then not the last.
            sounding[note] = max(0, sounding[note] + (1 if begins else -1))
    return keys


def save_melodies(
    melodies: Iterable[Any], folder: str | Path, step_seconds: float = 0.4, program: int = 0
) -> list[Path]:
    """
    Write each melody to a MIDI file of its own: `01.mid`, `02.mid`, ...

    Args:
        melodies (`Iterable`): Melodies as [`parse_melody`] takes them. If one is refused, no file is written.
        folder (`str` or `Path`): Where to; it is made if missing, and files of these names are overwritten.
        step_seconds (`float`): As for [`melody_to_midi`].
        program (`int`): As for [`melody_to_midi`].

    Returns:
        `list[Path]`: the files, in the order of the melodies.
    """
    files = [melody_to_midi(melody, step_seconds, program) for melody in melodies]
    digits = max(2, len(str(len(files))))
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder, f"{number:0{digits}}.mid") for number in range(1, len(files) + 1)]
    for path, file in zip(paths, files, strict=True):
        file.save(path)
    return paths


def require_mido() -> Any:
    """Return the package mido, or raise `ImportError` that says how to have it."""
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI files need the package mido: pip install 'seqgan_hf[music]'.") from error
    return mido


def _microseconds(step_seconds: float) -> int:
    step = round(step_seconds * 1e6)
    if not 1 <= step <= _LONGEST_STEP:
        raise ValueError(
            f"`step_seconds` must be from 0.000001 to {_LONGEST_STEP / 1e6} seconds, got {step_seconds!r}."
        )
    return step


def _highest_key(sounding: Counter[tuple[int, int]]) -> int:
    """The key of the highest note that sounds; 0 if none does."""
    pitches = [pitch for (_, pitch), times in sounding.items() if times]
    if not pitches:
        return 0
    key = max(pitches) - PITCH_OF_KEY_0
    if not 1 <= key <= HIGHEST_KEY:
        raise ValueError(
            f"A melody has the notes of a piano, MIDI pitches {1 + PITCH_OF_KEY_0} to {HIGHEST_KEY + PITCH_OF_KEY_0}; "
            f"got {max(pitches)}. Transpose the file."
        )
    return key
