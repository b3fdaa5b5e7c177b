"""
Measure what single settings cost: the phases of an update, rollouts at once, and the memory of logits.

    OMP_NUM_THREADS=1 python benchmarks/settings.py --save benchmarks/results/settings.json --page docs/scaling.md

Seconds are the CPU's, of one thread; ratios are taken within one repeat. Each figure of memory is of a fresh process.
"""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Measured,
    finish,
    interleave,
    make_parser,
    peak_resident_bytes,
    progress,
    ratios,
    reset_peak,
    resident_bytes,
    summary,
)
from performance import insert_tables, markdown_table
from rollouts import SETTINGS, build_model, count_forward_passes, generate_each_prefix, lockstep, write_completions
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainerCallback,
)

from seqgan_hf import SeqGANConfig, SeqGANTrainer
from seqgan_hf.completions import Completions
from seqgan_hf.heads import split_head
from seqgan_hf.memory import rows_that_fit
from seqgan_hf.models import TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.oracle import as_dataset

torch.set_num_threads(1)

_PAPER = SETTINGS["paper"]
_START = 0


@dataclass(frozen=True)
class Game:
    """
    Two networks and the size of their game.

    Args:
        family (`str`): `lstm`, against the paper's CNN, or `gpt2`, against a RoBERTa of 2 layers, 256 wide.
        batch_size, discriminator_samples, num_rollouts, length, vocab_size (`int`): See `SeqGANConfig`.
        settings (`Mapping`): Other fields of `SeqGANConfig`.
    """

    family: str
    batch_size: int
    discriminator_samples: int
    num_rollouts: int = 4
    length: int = 20
    vocab_size: int = 5000
    settings: Mapping[str, Any] = field(default_factory=dict)

    def scaled(self, scale: float) -> "Game":
        """Return a smaller one, large enough for every change."""
        least = {"batch_size": 2, "discriminator_samples": 2, "num_rollouts": 1, "length": 5, "vocab_size": 50}
        return replace(self, **{name: max(round(getattr(self, name) * scale), low) for name, low in least.items()})


def _doubled(name: str) -> Callable[[Game], Game]:
    return lambda game: replace(game, **{name: 2 * getattr(game, name)})


def _with(**settings: Any) -> Callable[[Game], Game]:
    return lambda game: replace(game, settings=settings)


PAIRS = {
    "LSTM and CNN": Game("lstm", batch_size=32, discriminator_samples=256),
    "GPT-2 and RoBERTa": Game("gpt2", batch_size=8, discriminator_samples=64),
}
BASE = "base"
CHANGES: dict[str, Callable[[Game], Game]] = {
    "`num_rollouts` x 2": _doubled("num_rollouts"),
    "length x 2": _doubled("length"),
    "`rollout_stride` 2": _with(rollout_stride=2),
    "`rollout_stride` 4": _with(rollout_stride=4),
    "batch x 2": _doubled("batch_size"),
    "vocabulary x 2": _doubled("vocab_size"),
    "`discriminator_samples` x 2": _doubled("discriminator_samples"),
    "`mle_coef` 1": _with(mle_coef=1.0),
    "`beta` 0.1": _with(beta=0.1),
    "`baseline=difference`": _with(baseline="difference"),
}
# The columns of the page. `generate` and `other` are in the whole.
_PHASES = ("rollout", "score", "generator", "discriminator")
_WHOLE = "update"

ROLLOUT_BATCH_SIZES = (128, 512, 2048, 4096)
_DEFAULT_ROLLOUT_BATCH_SIZE = 512
_ALL, _NAIVE = "all", "`generate` for each prefix"

LOSSES: dict[str, dict[str, float]] = {
    "policy loss alone": {},
    "with `mle_coef`": {"mle_coef": 1.0},
    "with a `temperature` other than 1": {"temperature": 0.9},
    "with `beta`": {"beta": 0.1},
    "with both": {"temperature": 0.9, "beta": 0.1},
}
_ROLLOUTS = "rollouts"
# Whether the head can be split off, by family.
FAMILIES = {"gpt2": True, "gemma2": False}


# ---- Phases of an update -------------------------------------------------------------------------------------------


class PhaseClock(TrainerCallback):
    """CPU seconds of each phase of the last update, from the beginning of its training to its log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._phase: str | None = None
        self._since = 0.0

    def enter(self, phase: str | None) -> None:
        """Count for `phase` from now on; `None`: for `other`. A `Meter` tells its listener so."""
        now = time.process_time()
        self.seconds[self._phase or "other"] += now - self._since
        self._phase, self._since = phase, now

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start anew."""
        self.seconds.clear()
        self._phase, self._since = None, time.process_time()

    def on_log(self, *args: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        """Count what has passed since the last phase, if it is the update's log and not the summary of the training."""
        if "loss" in logs:
            self.enter(None)


class WatchedTrainer(SeqGANTrainer):
    """A [`SeqGANTrainer`] that tells a clock its phases."""

    def watch(self) -> None:
        """Add the clock."""
        self.phase_clock = PhaseClock()
        self.add_callback(self.phase_clock)
        self._meter.listener = self.phase_clock.enter


def make_trainer(game: Game, output_dir: str) -> WatchedTrainer:
    """
    Set up a game of one update, with random texts; each call of `train` makes that update, and one set for D.

    Args:
        game (`Game`): Networks and sizes.
        output_dir (`str`): A folder for what a Trainer leaves behind.
    """
    args = SeqGANConfig(
        output_dir=output_dir, use_cpu=True, max_steps=1, per_device_train_batch_size=game.batch_size,
        max_completion_length=game.length, num_rollouts=game.num_rollouts,
        discriminator_samples=game.discriminator_samples, discriminator_warmup_steps=0, discriminator_steps=1,
        discriminator_epochs=1, logging_steps=1, log_completions=False, save_strategy="no", report_to="none",
        disable_tqdm=True, **game.settings,
    )  # fmt: skip
    generator = build_model(game.family, game.vocab_size, game.length)
    # A tenth is held out from D, which is then tested on as many as it learns from.
    texts = _random_texts(12 * game.discriminator_samples, game.length, game.vocab_size)
    trainer = WatchedTrainer(generator, _make_discriminator(game), args, as_dataset(texts))
    trainer.watch()
    return trainer


def _make_discriminator(game: Game) -> PreTrainedModel:
    torch.manual_seed(0)
    if game.family == "lstm":
        return TextCNNForSequenceClassification(TextCNNConfig(vocab_size=game.vocab_size, pad_token_id=0))
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=game.vocab_size, num_hidden_layers=2, hidden_size=256, intermediate_size=1024,
            num_attention_heads=4, max_position_embeddings=game.length + 2, pad_token_id=0,
        )
    )  # fmt: skip


def _random_texts(count: int, length: int, vocab_size: int) -> Completions:
    torch.manual_seed(0)
    prompt_ids = torch.full((count, 1), _START)
    # Without the padding, by which RoBERTa finds where a text ends.
    completion_ids = torch.randint(1, vocab_size, (count, length))
    return Completions(prompt_ids, torch.ones_like(prompt_ids), completion_ids, torch.ones_like(completion_ids))


def update(trainer: WatchedTrainer) -> dict[str, dict[str, float]]:
    """Make one update, and return its seconds by phase and as a whole: the CPU's, and the wall seconds of the log."""
    trainer.train()
    log = next(entry for entry in reversed(trainer.state.log_history) if "loss" in entry)
    wall = {name.removeprefix("seconds/"): value for name, value in log.items() if name.startswith("seconds/")}
    both = {"cpu": trainer.phase_clock.seconds, "wall": wall}
    return {kind: {**seconds, _WHOLE: sum(seconds.values())} for kind, seconds in both.items()}


def measure_changes(game: Game, repeats: int, output_dir: str) -> dict[str, Any]:
    """
    Make an update with each change, in turns with an update of the base.

    Args:
        game (`Game`): The base.
        repeats (`int`): Updates of each.
        output_dir (`str`): A folder for what a Trainer leaves behind.

    Returns:
        `dict`: for the `base` and each change, by phase, the seconds of CPU and wall and `times_base`, the ratio
        of CPU seconds; for the base itself `shares` of them.
    """
    games = {BASE: game} | {name: change(game) for name, change in CHANGES.items()}
    trainers = {name: make_trainer(changed, output_dir) for name, changed in games.items()}
    update(make_trainer(game.scaled(0), output_dir))  # loads the kernels
    measured = interleave({name: partial(update, trainer) for name, trainer in trainers.items()}, repeats)
    return compare(measured)


def compare(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Set what [`update`] returned beside the base of the same repeat."""

    def series(name: str, kind: str, phase: str) -> list[float]:
        return [value[kind][phase] for value in measured[name].values]

    phases = list(measured[BASE].values[0]["cpu"])
    results: dict[str, Any] = {}
    for name in measured:
        results[name] = {
            "cpu_seconds": {phase: summary(series(name, "cpu", phase)) for phase in phases},
            "wall_seconds": {phase: summary(series(name, "wall", phase)) for phase in phases},
            "times_base": {phase: ratios(series(name, "cpu", phase), series(BASE, "cpu", phase)) for phase in phases},
        }
    whole = series(BASE, "cpu", _WHOLE)
    results[BASE]["shares"] = {phase: ratios(series(BASE, "cpu", phase), whole) for phase in phases}
    return results


# ---- Rollouts at once ----------------------------------------------------------------------------------------------


def measure_rollouts(scale: float, repeats: int) -> dict[str, Any]:
    """
    Time the rollouts of an update of the paper's LSTM against `rollout_batch_size`, and a call of `generate` for each
    prefix.

    Args:
        scale (`float`): Share of the paper's sizes.
        repeats (`int`): Of each.

    Returns:
        `dict`: `num_sequences`; `auto`, what that is here; and `methods`, each with `forward_passes`, `seconds` and
        `times_default`.
    """
    game = Game("lstm", _PAPER.batch_size, 2, _PAPER.num_rollouts, _PAPER.length, _PAPER.vocab_size).scaled(scale)
    model = build_model(game.family, game.vocab_size, game.length)
    completions, generation_config = write_completions(model, game.batch_size, game.length)
    rolled_out = (model, completions, generation_config, game.num_rollouts)
    runs = {_ALL: partial(lockstep, *rolled_out, None)}
    runs = {str(size): partial(lockstep, *rolled_out, size) for size in ROLLOUT_BATCH_SIZES} | runs
    tasks = {name: partial(count_forward_passes, model, run) for name, run in runs.items()}
    tasks[_NAIVE] = partial(count_forward_passes, model, partial(generate_each_prefix, *rolled_out))
    count_forward_passes(model, partial(lockstep, *rolled_out[:-1], 1, None))  # loads the kernels
    measured = interleave(tasks, repeats)
    default = measured[str(_DEFAULT_ROLLOUT_BATCH_SIZE)].seconds
    return {
        "num_sequences": game.num_rollouts * game.batch_size * (game.length - 1),
        "auto": rows_that_fit(model, game.length + 1),
        "methods": {
            name: {
                "forward_passes": task.values[0],
                "seconds": summary(task.seconds),
                "times_default": ratios(task.seconds, default),
            }
            for name, task in measured.items()
        },
    }


# ---- Memory of logits ----------------------------------------------------------------------------------------------


def build_tiny(family: str, vocab_size: int, length: int) -> PreTrainedModel:
    """
    Draw a generator so narrow that nothing but its logits counts.

    Args:
        family (`str`): `gpt2`, whose logits come straight from its head, or `gemma2`, which caps them.
        vocab_size (`int`): Tokens.
        length (`int`): Tokens of a completion.

    Raises:
        RuntimeError: If the head can be split off where it should not, or the other way round.
    """
    special = {"bos_token_id": _START, "eos_token_id": None, "pad_token_id": 0, "vocab_size": vocab_size}
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**special, n_layer=1, n_embd=16, n_head=2, n_positions=length + 1))
    else:
        model = Gemma2ForCausalLM(
            Gemma2Config(
                **special, num_hidden_layers=1, hidden_size=16, intermediate_size=32, num_attention_heads=2,
                num_key_value_heads=2, head_dim=8, max_position_embeddings=length + 1, final_logit_softcapping=30.0,
            )
        )  # fmt: skip
    if (split_head(model) is not None) != FAMILIES[family]:
        raise RuntimeError(
            f"The head of {type(model).__name__} could {'not ' * FAMILIES[family]}be split off, against what is measured."
        )
    return model.eval()


def measure_logits_here(family: str, what: str, args: Namespace) -> dict[str, Any]:
    """
    Measure the memory of a loss with its backward pass, or of rollouts, in this process.

    Args:
        family (`str`): See [`build_tiny`].
        what (`str`): Of [`LOSSES`], or `rollouts`: as many at once as the losses have tokens.
        args (`Namespace`): `logits_batch_size`, `logits_length` and `logits_vocab_size`: B, T and V.

    Returns:
        `dict`: `megabytes` beyond weights and gradients, `times_logits`, in logits of B T tokens, and whether the system
        let the peak be reset (`peak_was_reset`). If not, it may stem from before, and the others are upper bounds.
    """
    batch_size, length, vocab_size = args.logits_batch_size, args.logits_length, args.logits_vocab_size
    model = build_tiny(family, vocab_size, length + 1)
    make_task = _rollout_task if what == _ROLLOUTS else partial(_loss_task, LOSSES[what])
    task = make_task(model, batch_size, length, vocab_size)
    make_task(model, 2, 2, vocab_size)()  # loads the kernels, and gives the weights their gradients
    was_reset = reset_peak()
    before = resident_bytes()
    task()
    grown = peak_resident_bytes() - before
    unit = 4 * batch_size * length * vocab_size
    return {"megabytes": grown / 1e6, "times_logits": grown / unit, "peak_was_reset": was_reset}


def _rollout_task(model: PreTrainedModel, batch_size: int, length: int, vocab_size: int) -> Callable[[], None]:
    """Roll out all prefixes of B completions of T + 1 tokens once: B T rollouts, all alive at the end."""
    completions, generation_config = write_completions(model, batch_size, length + 1)

    def task() -> None:
        for _ in lockstep(model, completions, generation_config, 1, None):
            pass

    return task


def _loss_task(
    settings: Mapping[str, Any], model: PreTrainedModel, batch_size: int, length: int, vocab_size: int
) -> Callable[[], None]:
    """Take the trainer's loss on random texts, and its gradient."""
    judge = TextCNNForSequenceClassification(TextCNNConfig(vocab_size=vocab_size, embedding_size=1, pad_token_id=0))
    texts = _random_texts(batch_size, length, vocab_size)
    with tempfile.TemporaryDirectory() as output_dir:
        args = SeqGANConfig(
            output_dir=output_dir, use_cpu=True, per_device_train_batch_size=batch_size, max_completion_length=length,
            report_to="none", disable_tqdm=True, **settings,
        )  # fmt: skip
        trainer = SeqGANTrainer(model, judge, args, as_dataset(texts))
    tokens = float(texts.completion_mask.sum())
    batch = {
        "completions": texts, "advantages": torch.rand(batch_size, length), "num_tokens": tokens,
        "real": texts, "num_real_tokens": tokens,
    }  # fmt: skip
    return lambda: trainer.compute_loss(trainer.model, batch).backward()


def measure_logits(args: Namespace) -> dict[str, Any]:
    """
    Measure each loss of each family, and rollouts, each in a fresh process.

    Args:
        args (`Namespace`): As for [`measure_logits_here`].

    Returns:
        `dict`: by family, what [`measure_logits_here`] returned for each.
    """
    names = ("logits_batch_size", "logits_length", "logits_vocab_size")
    flags = [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    results: dict[str, Any] = {}
    for family in FAMILIES:
        results[family] = {}
        for what in (*LOSSES, _ROLLOUTS):
            command = [sys.executable, str(Path(__file__).resolve()), "--one", family, what, *flags]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[family][what] = json.loads(done.stdout.splitlines()[-1])
            progress(f"{family}, {what}: {results[family][what]['megabytes']:.0f} MB")
    return results


# ---- The page ------------------------------------------------------------------------------------------------------


def changes_table(results: Mapping[str, Any]) -> str:
    """Show the shares of the phases of each base, and what each change multiplies them by."""
    rows = []
    for pair, changes in results.items():
        shares = (f"{100 * changes[BASE]['shares'][phase]['median']:.0f} %" for phase in _PHASES)
        rows.append([f"{pair}: share", *shares, ""])
        for name, change in changes.items():
            if name != BASE:
                times = (change["times_base"][phase]["median"] for phase in (*_PHASES, _WHOLE))
                rows.append([name, *map(two_digits, times)])
    return markdown_table(["change", *_PHASES, "whole update"], rows)


def rollouts_table(results: Mapping[str, Any]) -> str:
    """Show passes and time of each number of rollouts at once."""
    notes = {str(_DEFAULT_ROLLOUT_BATCH_SIZE): " (default)", str(results["auto"]): " (`auto`, here)"}
    rows = []
    for name, method in results["methods"].items():
        label = f"{int(name):,}{notes.get(name, '')}" if name.isdigit() else name
        if name == _ALL:
            label = f"all {results['num_sequences']:,} at once"
        rows.append([label, f"{method['forward_passes']:,}", two_digits(method["times_default"]["median"])])
    time_column = f"time, {_DEFAULT_ROLLOUT_BATCH_SIZE} = 1"
    return markdown_table(["`rollout_batch_size`", "forward passes of G", time_column], rows)


def logits_table(results: Mapping[str, Any]) -> str:
    """Show the memory of each loss, and of rollouts, in logits of all their tokens."""
    rows = [
        [what, *(two_digits(results[family][what]["times_logits"]) for family in FAMILIES)]
        for what in (*LOSSES, _ROLLOUTS)
    ]
    return markdown_table(["x 4 B T V bytes", "GPT-2, head split off", "Gemma 2, logits capped"], rows)


def two_digits(value: float) -> str:
    """Write a ratio: with two digits where it is below 1, with one decimal above."""
    return f"{value:.2f}" if value < 0.95 else f"{value:.1f}"


_TABLES = {"changes": changes_table, "rollout_batch_size": rollouts_table, "logits": logits_table}


def render_tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return each table that there are results for, in Markdown, by the name of its markers in the page."""
    return {name: render(results[name]) for name, render in _TABLES.items() if name in results}


# ---- The script ----------------------------------------------------------------------------------------------------


def measure(args: Namespace, output_dir: str) -> dict[str, Any]:
    """
    Measure what `--tables` asks for.

    Args:
        args (`Namespace`): Of the script.
        output_dir (`str`): A folder for what a Trainer leaves behind.

    Returns:
        `dict`: by table.
    """
    results: dict[str, Any] = {}
    if "logits" in args.tables:
        results["logits"] = measure_logits(args)
    if "rollout_batch_size" in args.tables:
        results["rollout_batch_size"] = measure_rollouts(args.scale, args.repeats)
    if "changes" in args.tables:
        results["changes"] = {
            pair: measure_changes(game.scaled(args.scale), args.repeats, output_dir) for pair, game in PAIRS.items()
        }
    return results


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=list(_TABLES), help="Measure these.")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the sizes of games and rollouts.")
    parser.add_argument("--logits_batch_size", type=int, default=64, help="Texts whose logits are measured.")
    parser.add_argument("--logits_length", type=int, default=16, help="Their tokens.")
    parser.add_argument("--logits_vocab_size", type=int, default=50_000, help="Logits of each.")
    parser.add_argument("--page", type=Path, help="Also write the tables into this page, between their markers.")
    parser.add_argument("--one", nargs=2, metavar=("FAMILY", "LOSS"), help="Measure memory once, in this process.")
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure_logits_here(*args.one, args)))
        return
    with tempfile.TemporaryDirectory() as output_dir:
        results = measure(args, output_dir)
    if args.page is not None:
        page = args.page.read_text(encoding="utf-8")
        args.page.write_text(insert_tables(page, render_tables(results)), encoding="utf-8")
    names = ("scale", "logits_batch_size", "logits_length", "logits_vocab_size")
    settings = {name: getattr(args, name) for name in names}
    finish("settings", args, settings | {"pairs": {pair: vars(game) for pair, game in PAIRS.items()}}, results)


if __name__ == "__main__":
    main()
