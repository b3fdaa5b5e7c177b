"""
Draw docs/images/curves.png from the log of the run in docs/reading_the_log.md, which first_run.json keeps:

    python recipes/obama_speech.py --sample --output_dir first --logging_steps 3 \
        --eval_strategy steps --eval_steps 6 --eval_on_start true
"""

import json
from pathlib import Path

from drawing import IMAGES

from seqgan_hf.plots import plot_learning_curves

log_history = json.loads(Path(__file__).with_name("first_run.json").read_text(encoding="utf-8"))
plot_learning_curves(log_history, IMAGES / "curves.png")
