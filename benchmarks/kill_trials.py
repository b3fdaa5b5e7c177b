"""
SIGKILL at random moments: does the resumed run end bit-identical to one that nothing interrupted?

    python benchmarks/kill_trials.py --trials 50

Each trial plays the same small game, with all that a checkpoint must hold switched on, in a process of its own; kills it
at a random moment; and goes on in another process from the newest complete checkpoint. Compared are, bit by bit, the last
checkpoints: both networks, both optimizers, the delayed policy, the streams of texts, the replayed texts, random states.
The table goes to docs/results/kill_trials.md.
"""

import argparse
import hashlib
import mmap
import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from measuring import cpu_model, versions
from performance import insert_tables, markdown_table
from safetensors.torch import load_file
from transformers import PrinterCallback, logging
from transformers.trainer_pt_utils import safe_globals

from seqgan_hf import (
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANConfig,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from seqgan_hf.checkpoints import checkpoints_in, last_checkpoint

VOCAB_SIZE, LENGTH, STEPS = 50, 10, 10
BEFORE, AFTER = "before the game", "after the game"
SAVING, BETWEEN = "saving", "between phases"


class Moment:
    """What a process is doing, readable by another after its death."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64)
        self.write(BEFORE)

    def write(self, name: str) -> None:
        """Set it, in one copy of 64 bytes."""
        self._memory[:] = name.encode().ljust(64)

    def read(self) -> str:
        """Return it."""
        return self._memory[:].decode().strip()


def make_trainer(folder: Path) -> SeqGANTrainer:
    """Build the game, always the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=VOCAB_SIZE, bos_token_id=1, embedding_size=16, hidden_size=16))
    judge = TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=VOCAB_SIZE, embedding_size=8, filter_sizes=(1, 2, 3), num_filters=(8, 8, 8))
    )
    ids = torch.randint(3, VOCAB_SIZE, (64, LENGTH), generator=torch.Generator().manual_seed(9))
    config = SeqGANConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=8, learning_rate=1e-2,
        lr_scheduler_type="linear", max_completion_length=LENGTH, num_rollouts=4, rollout_update_rate=0.5, beta=0.05,
        mle_coef=0.1, generator_steps=2, gradient_accumulation_steps=2, discriminator_warmup_steps=2,
        discriminator_steps=2, discriminator_epochs=2, discriminator_samples=32, discriminator_batch_size=16,
        discriminator_replay=0.5, discriminator_data="cross_fit", logging_steps=1, save_strategy="steps", save_steps=1,
        save_total_limit=2, disable_tqdm=True, log_completions=False, use_cpu=True,
    )  # fmt: skip
    return SeqGANTrainer(generator, judge, config, train_dataset=Dataset.from_dict({"input_ids": ids.tolist()}))


def play(folder: Path, moment: Moment) -> None:
    """Play the game to its end, from the newest complete checkpoint, if there is one."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    trainer = make_trainer(folder)
    trainer.remove_callback(PrinterCallback)
    save, enter = trainer._save_checkpoint, trainer._meter.listener

    def saving(*args: Any) -> None:
        moment.write(SAVING)
        save(*args)
        moment.write(BETWEEN)

    def entering(name: str | None) -> None:
        moment.write(name or BETWEEN)
        if enter is not None:
            enter(name)

    trainer._save_checkpoint, trainer._meter.listener = saving, entering  # type: ignore[method-assign]
    trainer.train(resume_from_checkpoint=str(last_checkpoint(folder) or "") or None)
    moment.write(AFTER)


def digest(checkpoint: Path) -> str:
    """Return a hash of all that a checkpoint holds, but for seconds and the order of a file's parts."""
    parts = hashlib.sha256()
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix == ".safetensors":
            _add(parts, load_file(path))
        elif path.suffix in (".pt", ".pth"):
            _add(parts, _load(path))
    return parts.hexdigest()


def _load(path: Path) -> Any:
    with safe_globals():  # numpy's random state
        return torch.load(path, weights_only=True)


def _add(parts: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        kept = [item for item in value.items() if item[0] != "cpu_seconds"]
        value = tuple(sorted(kept, key=lambda item: str(item[0])))
    if isinstance(value, (tuple, list)):
        parts.update(f"{len(value)}[".encode())
        for part in value:
            _add(parts, part)
    else:
        parts.update(value if isinstance(value, bytes) else repr(value).encode())


def run(folder: Path, seconds: float | None = None) -> tuple[str, float]:
    """
    Play in a process of its own.

    Args:
        folder (`Path`): Its `output_dir`.
        seconds (`float`, *optional*): When to kill it.

    Returns:
        `tuple`: what it did last (`after the game` where it came to its end), and the seconds that it lived.
    """
    moment = Moment()
    process = multiprocessing.get_context("fork").Process(target=play, args=(folder, moment))
    began = time.monotonic()
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    elif process.exitcode != 0:
        raise RuntimeError(f"The game in {folder} ended with status {process.exitcode}.")
    return moment.read(), time.monotonic() - began


def trial(folder: Path, seconds: float, expected: str) -> tuple[str, int | None, bool]:
    """
    Kill a run, resume it, and compare it.

    Args:
        folder (`Path`): Its `output_dir`.
        seconds (`float`): When it is killed.
        expected (`str`): The [`digest`] of the uninterrupted run.

    Returns:
        `tuple`: the phase in which it died, the update of the checkpoint it went on from, and whether it ended alike.
    """
    phase, _ = run(folder, seconds)
    while phase == AFTER:  # too late: the machine is faster than before
        shutil.rmtree(folder)
        seconds *= 0.8
        phase, _ = run(folder, seconds)
    kept = last_checkpoint(folder)
    run(folder)
    same = digest(checkpoints_in(folder)[-1]) == expected
    return phase, None if kept is None else int(kept.name.split("-")[1]), same


def main() -> None:
    """Run the trials and write their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="Of the moments.")
    parser.add_argument("--page", type=Path, help="A page with a place for the table.")
    args = parser.parse_args()
    moments, died, alike = random.Random(args.seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        _, lifetime = run(whole)
        expected = digest(checkpoints_in(whole)[-1])
        print(f"Uninterrupted: {lifetime:.1f} s, {expected[:16]}", flush=True)
        for number in range(1, args.trials + 1):
            phase, update, same = trial(Path(folder) / str(number), moments.uniform(0, lifetime), expected)
            died[phase] += 1
            alike[phase] += same
            went_on = "from the beginning" if update is None else f"from update {update}"
            print(f"{number:3d}. killed in {phase}, went on {went_on}: {'same' if same else 'DIFFERENT'}", flush=True)
    counts = [(phase, died[phase], alike[phase]) for phase in sorted(died)] + [("all", died.total(), alike.total())]
    rows = [(phase, str(trials), str(same)) for phase, trials, same in counts]
    table = markdown_table(("killed in", "trials", "bit-identical at the end"), rows)
    print(f"\n{cpu_model()}, torch {versions()['torch']}\n{table}")
    if args.page:
        page = insert_tables(args.page.read_text(encoding="utf-8"), {"kill_trials": table})
        args.page.write_text(page, encoding="utf-8")
    if alike != died:
        raise SystemExit("Not all ended alike.")


if __name__ == "__main__":
    main()
