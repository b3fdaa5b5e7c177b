"""
Learn to write Chinese quatrains against a discriminator (SeqGAN, Table 2).

    accelerate launch recipes/chinese_poems.py                  # the paper's LSTM and CNN, from scratch
    accelerate launch recipes/chinese_poems.py --sample         # no network, under 4 minutes on 2 cores
    accelerate launch recipes/chinese_poems.py --preset pretrained

A text is one quatrain: four verses of five characters (of seven: `--max_completion_length 28`). Punctuation and white
space are left out, and so are poems of another length. BLEU counts characters. `--dataset_name` takes any dataset with a
poem a row; all flags: --help. The presets are the YAML files in recipes/configs/chinese_poems.
"""

from seqgan_hf.real_text import run
from seqgan_hf.text_measures import Task
from seqgan_hf.tokenization import ideographs

POEMS = Task(order=2, longest_order=4, level="character", clean=ideographs)


def main(argv: list[str] | None = None) -> None:
    run(__file__, argv, __doc__, POEMS, default_preset="paper")


if __name__ == "__main__":
    main()
