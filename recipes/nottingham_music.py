"""
Learn to write folk tunes against a discriminator (SeqGAN, Table 4).

    accelerate launch recipes/nottingham_music.py               # the paper's LSTM and CNN, from scratch
    accelerate launch recipes/nottingham_music.py --sample      # no network, under 4 minutes on 2 cores

A melody is 32 steps of 0.4 seconds, each a token: 0 is a rest, 1 to 88 are the keys of a piano. `--dataset_name` takes a
folder or a zip file of MIDI files (also a URL), whose melodies are cut into pieces of that length; or a dataset whose
texts are such tokens, separated by spaces. BLEU counts keys; mse_nearest is the mean squared distance in semitones to the
nearest held-out melody, with a rest held as the note before it. `melodies/` in `output_dir` gets MIDI files of real and
generated melodies and a picture of them. Needs mido: pip install 'seqgan_hf[music]'. All flags: --help. The presets are
the YAML files in recipes/configs/nottingham_music.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers.utils import is_matplotlib_available

from seqgan_hf.melodies import is_melody, load_melodies, melody_metrics
from seqgan_hf.music import save_melodies
from seqgan_hf.plots import plot_piano_rolls
from seqgan_hf.real_text import run
from seqgan_hf.text_measures import Task

NUM_DRAWN = 4


def write_melodies(output_dir: Path, melodies: Mapping[str, Sequence[str]]) -> None:
    """Keep melodies as MIDI files, `melodies/<whose>/01.mid` and so on, and draw the first of each."""
    folder, rolls = output_dir / "melodies", {}
    for whose, texts in melodies.items():
        playable = [text for text in texts if is_melody(text)]
        save_melodies(playable, folder / whose)
        print(f"MIDI files: {len(playable)} of {len(texts)} texts ({whose}) are melodies; in {folder / whose}")
        if playable:
            rolls[whose] = playable[:NUM_DRAWN]
    if is_matplotlib_available():
        plot_piano_rolls(rolls, folder / "piano_rolls.png")
        print(f"Piano rolls: {folder / 'piano_rolls.png'}")


TUNES = Task(order=4, more=melody_metrics, write=write_melodies)


def main(argv: list[str] | None = None) -> None:
    run(__file__, argv, __doc__, TUNES, default_preset="paper", load=load_melodies)


if __name__ == "__main__":
    main()
