"""
Learn to write captions of pictures against a discriminator, on the captions that Texygen compares generators with
(https://huggingface.co/papers/1802.01886).

    accelerate launch recipes/image_coco.py                     # the paper's LSTM and CNN, from scratch
    accelerate launch recipes/image_coco.py --sample            # no network, under 4 minutes on 2 cores
    accelerate launch recipes/image_coco.py --preset pretrained

`--dataset_name` takes any other texts; all flags: --help. The presets are the YAML files in recipes/configs/image_coco.
"""

from seqgan_hf.real_text import run
from seqgan_hf.text_measures import Task

CAPTIONS = Task(order=4, longest_order=5)


def main(argv: list[str] | None = None) -> None:
    run(__file__, argv, __doc__, CAPTIONS, default_preset="paper")


if __name__ == "__main__":
    main()
