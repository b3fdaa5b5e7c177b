"""Melodies as texts to learn from: read from MIDI files or datasets, and measured as such."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, DownloadManager
from tqdm.auto import tqdm

from .arguments import TextRecipeArguments
from .corpora import load_splits
from .metrics import MSEMusic
from .music import midi_to_melody, parse_melody

NUM_STEPS = 32  # the paper
STEP_SECONDS = 0.4  # the paper
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
        seed (`int`): Decides the splits of a dataset that lacks them.

    Returns:
        `DatasetDict` with the column `text`.

    Raises:
        ValueError: If a split would be empty.
        OSError: If the texts cannot be had.
    """
    folder = Path(args.dataset_name)
    if folder.suffix.lower() == ".zip":
        folder = Path(str(DownloadManager().download_and_extract(args.dataset_name)))
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _MIDI) if folder.is_dir() else []
    if not files:
        return load_splits(args, seed)
    files = [path for path in files if path.parent.name == "melody"] or files
    texts: dict[str, dict[str, None]] = {"train": {}, "validation": {}, "test": {}}
    for path in tqdm(files, "Reading melodies", unit="file"):
        place = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) % 100
        split = "train" if place < 90 else "validation" if place < 95 else "test"
        texts[split] |= dict.fromkeys(pieces(midi_to_melody(path, STEP_SECONDS)))
    for split, found in texts.items():
        if not found:
            raise ValueError(
                f"`{args.dataset_name}` has {len(files)} MIDI files, and none for the split `{split}` that lasts "
                f"{NUM_STEPS * STEP_SECONDS:g} seconds. Give more files, or a dataset with splits of its own."
            )
    return DatasetDict(
        {split: Dataset.from_dict({"text": list(found)}, split=split) for split, found in texts.items()}
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
        `dict`: `melodies`, the share of samples that are keys of that length, and `mse_nearest` of these, in semitones
        squared ([`~seqgan_hf.metrics.MSEMusic`]); NaN if there are none.
    """
    (length,) = {len(parse_melody(text)) for text in real}
    melodies = [text for text in samples if is_melody(text, length)]
    scores = None
    if any(set(text.split()) != {"0"} for text in melodies):
        scores = MSEMusic().compute(predictions=melodies, reference_corpus=list(real))
    nearest = float("nan") if scores is None else scores["mse_nearest"]
    return {"melodies": len(melodies) / len(samples), "mse_nearest": nearest}


def is_melody(text: str, length: int = NUM_STEPS) -> bool:
    """Tell whether a text is so many keys or rests: what a language model writes may be anything."""
    try:
        return len(parse_melody(text)) == length
    except ValueError:
        return False
