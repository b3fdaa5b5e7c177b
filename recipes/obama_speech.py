"""
Fine-tune a language model on Barack Obama's speeches against a discriminator (SeqGAN, Table 3).

    accelerate launch recipes/obama_speech.py                   # distilgpt2 against distilroberta, from the Hub
    accelerate launch recipes/obama_speech.py --sample          # no network, 2 to 5 minutes on 2 cores
    accelerate launch recipes/obama_speech.py --from_scratch    # the paper's LSTM and CNN
    accelerate launch recipes/obama_speech.py my_run.yaml --max_steps 100

By default the file that the paper used is asked for; if it is gone, pass `--dataset_name`. That takes any other texts,
for example `--dataset_name jsulz/state-of-the-union-addresses --text_column NAME --keep_rows "potus=Barack Obama"
--split_paragraphs`, whose rows are whole addresses.
All flags: --help. The presets are the YAML files in recipes/configs/obama_speech.
"""

from seqgan_hf.real_text import run
from seqgan_hf.text_measures import Task

SPEECHES = Task(order=3)


def main(argv: list[str] | None = None) -> None:
    run(__file__, argv, __doc__, SPEECHES, default_preset="pretrained")


if __name__ == "__main__":
    main()
