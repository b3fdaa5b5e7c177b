"""
A long game on several processes: does memory grow, does anything leak, does it slow down?

    torchrun --nproc_per_node 2 benchmarks/soak.py --rounds 2000
    torchrun --nproc_per_node 2 benchmarks/soak.py --rounds 40 --save soak.json --figure soak.png    # a quick look

A toy game with all that accumulates over a run switched on: checkpoints, logs, sample completions, replayed texts. After
each round every process notes its resident memory, its open files, its threads and its CPU time, which stands against
that of a fixed piece of work right then: the machine's own speed comes and goes. The picture goes to docs/results.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from matplotlib.figure import Figure
from measuring import cpu_model, progress, resident_bytes, versions
from performance import insert_tables, markdown_table
from torch import distributed
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, logging

from seqgan_hf import (
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANConfig,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)

VOCAB_SIZE, LENGTH, SETTLED = 50, 10, 200
NAMES = ("resident_mib", "open_files", "threads", "round_seconds", "yardstick_seconds")


class Watch(TrainerCallback):
    """Notes after each round what this process holds, the CPU time that it took, and that of the yardstick right then."""

    def __init__(self) -> None:
        self.notes: dict[str, list[float]] = {name: [] for name in NAMES}
        self._began = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ended = time.process_time()
        yardstick()
        values = (
            resident_bytes() / 2**20,
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            ended - self._began,
            time.process_time() - ended,
        )
        for name, value in zip(NAMES, values, strict=True):
            self.notes[name].append(value)
        if state.is_world_process_zero and state.global_step % 100 == 0:
            progress(f"round {state.global_step}: {values[0]:.0f} MiB, {values[1]} files, {values[2]} threads")
        self._began = time.process_time()


def yardstick() -> None:
    """Do some work that is always the same and of a round's kind: small products, and Python around them."""
    state = torch.ones(16, 16)
    for _ in range(200):
        state = torch.tanh(state @ state)


def play(folder: Path, rounds: int) -> Watch:
    """Play the game and return what was noted."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    config = SeqGANConfig(
        output_dir=str(folder), max_steps=rounds, per_device_train_batch_size=8, learning_rate=1e-3,
        max_completion_length=LENGTH, num_rollouts=2, rollout_update_rate=0.5, beta=0.05, discriminator_warmup_steps=2,
        discriminator_steps=1, discriminator_epochs=1, discriminator_samples=32, discriminator_batch_size=16,
        discriminator_replay=0.5, logging_steps=10, save_strategy="steps", save_steps=100, save_total_limit=2,
        disable_tqdm=True, num_completions_to_log=2, use_cpu=True, report_to=["tensorboard"],
    )  # fmt: skip
    torch.manual_seed(0)
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=VOCAB_SIZE, bos_token_id=1, embedding_size=16, hidden_size=16))
    judge = TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=VOCAB_SIZE, embedding_size=8, filter_sizes=(1, 2, 3), num_filters=(8, 8, 8))
    )
    ids = torch.randint(3, VOCAB_SIZE, (256, LENGTH), generator=torch.Generator().manual_seed(9))
    watch = Watch()
    dataset = Dataset.from_dict({"input_ids": ids.tolist()})
    trainer = SeqGANTrainer(generator, judge, config, train_dataset=dataset, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    trainer._display.show_completions = lambda samples, step: None  # a parquet file of each is kept all the same
    trainer.train()
    return watch


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the medians of so many neighbouring values each; a rest is left out."""
    return [statistics.median(values[at : at + window]) for at in range(0, len(values) - window + 1, window)]


def sum_up(notes: Mapping[str, Sequence[float]], settled: int) -> dict[str, float]:
    """
    Say how far a process has come from where it had settled.

    Args:
        notes (`Mapping`): By the names of `NAMES`, a value a round.
        settled (`int`): The rounds before which memory may grow; fewer than there are.

    Returns:
        `dict`: `resident_mib` there and at the end, `growth_percent` (the most after it against it), `open_files` and
        `threads` there and the most after it, `round_milliseconds` of CPU time, and how many yardsticks a round took
        in the quarter behind `settled` and in the last.
    """
    behind = {name: values[settled:] for name, values in notes.items()}
    quarter = max(len(behind["round_seconds"]) // 4, 1)
    yardsticks = [
        round_seconds / yardstick_seconds
        for round_seconds, yardstick_seconds in zip(behind["round_seconds"], behind["yardstick_seconds"], strict=True)
    ]
    memory = behind["resident_mib"]
    return {
        "resident_mib": memory[0],
        "resident_mib_at_the_end": memory[-1],
        "growth_percent": 100 * (max(memory) / memory[0] - 1),
        "open_files": behind["open_files"][0],
        "most_open_files": max(behind["open_files"]),
        "threads": behind["threads"][0],
        "most_threads": max(behind["threads"]),
        "round_milliseconds": 1000 * statistics.median(behind["round_seconds"]),
        "first_yardsticks": statistics.median(yardsticks[:quarter]),
        "last_yardsticks": statistics.median(yardsticks[-quarter:]),
    }


def draw(runs: Sequence[Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw memory and CPU time over the rounds, a line a process."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, notes in enumerate(runs):
        left.plot(notes["resident_mib"], label=f"process {index}")
        rounds, yardsticks = notes["round_seconds"], notes["yardstick_seconds"]
        window = max(len(rounds) // 40, 1)
        ratios = smoothed([one / other for one, other in zip(rounds, yardsticks, strict=True)], window)
        right.plot([window * (number + 0.5) for number in range(len(ratios))], ratios, label=f"process {index}")
    left.set(title="Resident memory, MiB", xlabel="round")
    right.set(title="CPU time of a round, in yardsticks", xlabel="round")
    for axes in (left, right):
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def soak_table(found: Sequence[Mapping[str, float]]) -> str:
    """Lay out what [`sum_up`] found, a line a process."""
    rows = [
        [
            str(index),
            f"{one['resident_mib']:.0f} to {one['resident_mib_at_the_end']:.0f}",
            f"{one['growth_percent']:.1f}",
            f"{one['open_files']:.0f}, {one['most_open_files']:.0f}",
            f"{one['threads']:.0f}, {one['most_threads']:.0f}",
            f"{one['round_milliseconds']:.0f}",
            f"{one['first_yardsticks']:.1f} to {one['last_yardsticks']:.1f}",
        ]
        for index, one in enumerate(found)
    ]
    header = [
        "process", "MiB", "most above the first, %", "open files, most", "threads, most", "CPU ms a round",
        "in yardsticks",
    ]  # fmt: skip
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="Of the game.")
    parser.add_argument("--save", type=Path, default=Path("docs/results/soak.json"), help="Where figures go.")
    parser.add_argument("--figure", type=Path, default=Path("docs/results/soak.png"), help="Where the picture goes.")
    parser.add_argument("--page", type=Path, help="A page whose table is replaced.")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    folder = Path(tempfile.gettempdir()) / f"soak_{os.environ.get('MASTER_PORT', 'alone')}"
    watch = play(folder, args.rounds)
    runs: list[Any] = [watch.notes]
    if distributed.is_initialized():
        runs = [None] * distributed.get_world_size()
        distributed.all_gather_object(runs, watch.notes)
        if distributed.get_rank() > 0:
            return
    shutil.rmtree(folder)
    found = [sum_up(notes, min(SETTLED, args.rounds // 2)) for notes in runs]
    table = soak_table(found)
    progress(table)
    results = {"machine": cpu_model(), "versions": versions(), "rounds": args.rounds, "processes": found}
    args.save.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(runs, args.figure)
    if args.page:
        page = insert_tables(args.page.read_text(encoding="utf-8"), {"soak": table})
        args.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
