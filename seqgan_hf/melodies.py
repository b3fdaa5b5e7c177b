"""Melodies as texts to learn from: read from MIDI files or datasets, and measured as such."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, DownloadManager
from tqdm.auto import tqdm
from transformers.utils import is_matplotlib_available

from .arguments import TextRecipeArguments
from .corpora import load_splits
from .metrics import MSEMusic
from .music import midi_to_melody, parse_melody, require_mido, save_melodies
from .plots import plot_piano_rolls

NUM_STEPS = 32  # the paper
STEP_SECONDS = 0.4  # the paper
NUM_DRAWN = 4
ALL_KEYS = " ".join(map(str, range(89)))
_MIDI = (".mid", ".midi")


def load_melodies(args: TextRecipeArguments, seed: int) -> DatasetDict:
    """
    Load melodies as `train`, `validation` and `test`, a text of keys each.

    Of MIDI files each is cut into pieces of 32 steps of 0.4 seconds; the remainder, pieces of a single repeated token
    and pieces that came before are left out. All pieces of a file are in one split, which the SHA-256 of its name
    decides: 90 % train, 5 % each of the others. Where some files are in a folder `melody`, as in the Nottingham set,
    those alone are read.

    Args:
        args (`TextRecipeArguments`): Names a folder or a zip file of MIDI files, or any dataset that `load_splits` takes.
        seed (`int`): Decides which training texts of a dataset `max_samples` keeps.

    Returns:
        `DatasetDict` with the column `text`.

    Raises:
        ValueError: If a split would be empty, a file is no melody, or a text is not keys and rests.
        ImportError: If mido is not installed.
        OSError: If the texts cannot be had.
    """
    require_mido()  # it writes what was generated, too
    folder = Path(args.dataset_name)
    if folder.suffix.lower() == ".zip":
        folder = Path(str(DownloadManager().download_and_extract(args.dataset_name)))
    files = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in _MIDI) if folder.is_dir() else []
    if not files:
        splits = load_splits(args, seed)
        for split, found in splits.items():
            for number, text in enumerate(found["text"]):
                if not is_melody(text, len(found["text"][0].split())):
                    raise ValueError(
                        f"Text {number} of the split `{split}` of `{args.dataset_name}` must be keys and rests, numbers "
                        f"from 0 to 88, as many as the first text has; got {text[:60]!r}. Leave it out, or give MIDI."
                    )
        return splits
    files = [path for path in files if path.parent.name == "melody"] or files
    texts: dict[str, dict[str, None]] = {"train": {}, "validation": {}, "test": {}}
    for path in tqdm(files, "Reading melodies", unit="file"):
        place = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) % 100
        split = "train" if place < 90 else "validation" if place < 95 else "test"
        try:
            keys = midi_to_melody(path, STEP_SECONDS)
        except (EOFError, OSError, ValueError) as error:
            why = str(error) or "it is no MIDI file."
            raise ValueError(f"{path} cannot be read as a melody: {why} Leave it out, or mend it.") from error
        texts[split] |= dict.fromkeys(pieces(keys))
    for split, found in texts.items():
        if not found:
            raise ValueError(
                f"`{args.dataset_name}` has {len(files)} MIDI files, and none for the split `{split}` that lasts "
                f"{NUM_STEPS * STEP_SECONDS:g} seconds. Give more files, or a dataset with splits of its own."
            )
    # No split of the dataset's own: all are cut from one.
    return DatasetDict(
        {split: Dataset.from_dict({"text": list(found)}, split="train") for split, found in texts.items()}
    )


def pieces(keys: Sequence[int]) -> list[str]:
    """Cut a melody into texts of 32 steps, without the remainder and without those of a single repeated token."""
    cut = [keys[start : start + NUM_STEPS] for start in range(0, len(keys) - NUM_STEPS + 1, NUM_STEPS)]
    return [" ".join(map(str, piece)) for piece in cut if len(set(piece)) > 1]


def melody_metrics(samples: Sequence[str], real: Sequence[str]) -> dict[str, float]:
    """
    Measure generated melodies as music.

    Args:
        samples (`Sequence[str]`): Texts; a language model may write some that are no melody.
        real (`Sequence[str]`): Melodies of one length.

    Returns:
        `dict`: `melodies`, the share of samples that are keys of that length, and, if there are any that sound,
        `mse_nearest` of these, in semitones squared (the metric `mse_music`).
    """
    (length,) = {len(parse_melody(text)) for text in real}
    melodies = [text for text in samples if is_melody(text, length)]
    metrics = {"melodies": len(melodies) / len(samples)}
    if any(set(text.split()) != {"0"} for text in melodies):
        scores = MSEMusic().compute(predictions=melodies, reference_corpus=list(real))
        assert scores is not None  # `evaluate` returns None on other processes than the first; this one computes alone
        metrics["mse_nearest"] = scores["mse_nearest"]
    return metrics


def write_melodies(output_dir: Path, melodies: Mapping[str, Sequence[str]]) -> None:
    """
    Keep melodies as MIDI files, `melodies/<whose>/01.mid` and so on, and draw the first of each.

    Args:
        output_dir (`Path`): Where `melodies/` is made.
        melodies (`Mapping`): Texts of `real`, `MLE`, ...; those that are no melody are left out, and counted.
    """
    folder = output_dir / "melodies"
    rolls: dict[str, Sequence[str]] = {}
    length = len(melodies["real"][0].split())
    for whose, texts in melodies.items():
        playable = [text for text in texts if is_melody(text, length)]
        save_melodies(playable, folder / whose, STEP_SECONDS)
        print(f"MIDI files: {len(playable)} of {len(texts)} texts ({whose}) are melodies; in {folder / whose}")
        if playable:
            rolls[whose] = playable[:NUM_DRAWN]
    if is_matplotlib_available():
        plot_piano_rolls(rolls, folder / "piano_rolls.png", step_seconds=STEP_SECONDS)
        print(f"Piano rolls: {folder / 'piano_rolls.png'}")


def is_melody(text: str, length: int = NUM_STEPS) -> bool:
    """Tell whether a text is so many keys or rests: what a language model writes may be anything."""
    try:
        return len(parse_melody(text)) == length
    except ValueError:
        return False
