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

from seqgan_hf.melodies import ALL_KEYS, load_melodies, melody_metrics, write_melodies
from seqgan_hf.real_text import run
from seqgan_hf.text_measures import Task

TUNES = Task(order=4, alphabet=(ALL_KEYS,), more=melody_metrics, write=write_melodies)


def main(argv: list[str] | None = None) -> None:
    run(__file__, argv, __doc__, TUNES, default_preset="paper", load=load_melodies)


if __name__ == "__main__":
    main()
