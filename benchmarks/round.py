"""
Time one round of SeqGAN at the paper's sizes: update of G, epoch of D, epoch of likelihood, samples.

    OMP_NUM_THREADS=1 python benchmarks/round.py --save benchmarks/results/round.json

Everything is measured in CPU seconds of one thread. Two yardsticks run along, to compare with the machine on which the
other implementations were measured: the lean loop of rollouts.py, which takes 32 s there and is bound by sampling, and a
large product, which runs at 90 GFLOP/s there. Neither stands for all work: D's is nearly all products.
"""

import functools
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measuring import (
    Measured,
    finish,
    floor_of,
    hardware_rates,
    hardware_tasks,
    interleave,
    make_parser,
    progress,
    summary,
)
from operations import (
    TRAINING,
    cnn_operations,
    optimizer_bytes,
    rollout_operations,
    sampled_tokens,
    sequence_operations,
)
from rollouts import SETTINGS, build_model, consume, lean_loop, write_completions
from transformers import PreTrainedModel, TrainerCallback

from seqgan_hf import SeqGANConfig, SeqGANTrainer, pretrain_generator
from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat
from seqgan_hf.discriminator import Discriminator
from seqgan_hf.generation import generate_completions, sampling_config
from seqgan_hf.models import TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.oracle import as_dataset, make_oracle
from seqgan_hf.rollout import rollout

torch.set_num_threads(1)

PAPER = SETTINGS["paper"]
_NUM_TEXTS = 10_000
_DISCRIMINATOR_BATCH = 64
# On the machine of the peers' figures: the lean loop, and large products.
_REFERENCE_LEAN_SECONDS, _REFERENCE_GFLOP_PER_SECOND = 32.0, 90.0

# CPU seconds to stay below on the reference machine.
BARS = {"generator_update": 11.0, "discriminator_epoch": 29.0, "likelihood_epoch": 6.0, "samples": 2.5}
_ORIGINAL, _ORIGINAL_OLD = "original, TensorFlow 2.21", "original, TensorFlow 1.15"
_TEXTGAN, _SURAGNAIR = "TextGAN-PyTorch", "suragnair/seqGAN (GRU)"
# CPU seconds of one thread on the reference machine; of a range its lower end. suragnair/seqGAN makes no rollouts.
PEERS: dict[str, dict[str, float]] = {
    "generator_update": {_ORIGINAL: 15.3, _ORIGINAL_OLD: 21.6, _TEXTGAN: 43.3},
    "rollouts": {_ORIGINAL: 6.3, _ORIGINAL_OLD: 11.3, _TEXTGAN: 28.0},
    "scoring": {_ORIGINAL: 9.0, _ORIGINAL_OLD: 10.0, _TEXTGAN: 15.0},
    "discriminator_epoch": {_ORIGINAL: 40.5, _ORIGINAL_OLD: 52.7, _TEXTGAN: 38.2, _SURAGNAIR: 9.5},
    "likelihood_epoch": {_ORIGINAL: 12.0, _ORIGINAL_OLD: 27.4, _TEXTGAN: 8.3, _SURAGNAIR: 5.8},
    "samples": {_ORIGINAL: 5.9, _ORIGINAL_OLD: 11.3, _TEXTGAN: 25.6, _SURAGNAIR: 27.6},
}


@dataclass(frozen=True)
class Sizes:
    """
    How much of the paper's setting is measured.

    Args:
        num_texts (`int`): Texts of the data set, and as many samples.
        num_rollouts (`int`): Of each prefix.
    """

    num_texts: int
    num_rollouts: int

    @classmethod
    def scaled(cls, scale: float) -> "Sizes":
        """Return the paper's, times `scale`."""
        return cls(max(round(_NUM_TEXTS * scale), 1), max(round(PAPER.num_rollouts * scale), 1))


# ---- What is measured ----------------------------------------------------------------------------------------------


class UpdateClock(TrainerCallback):
    """
    CPU seconds of each update of the generator, from the beginning of its step to the end of its optimizer's.

    The parts: `rollouts` writes the completions, rolls them out and makes advantages of the scores; `scoring` is
    inside `Discriminator.score`; `gradient_step` begins with the loss.
    """

    def __init__(self) -> None:
        self.updates: list[dict[str, float]] = []
        self._begin = self._loss = self._scoring = 0.0
        self._texts = 0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._scoring, self._texts = 0.0, 0
        self._begin = time.process_time()

    def loss_begins(self) -> None:
        """Take note that everything before the loss is done."""
        self._loss = time.process_time()

    def watch(self, score: Callable[[Completions], torch.Tensor]) -> Callable[[Completions], torch.Tensor]:
        """Return `score` with its time taken."""

        def timed(texts: Completions) -> torch.Tensor:
            begin = time.process_time()
            scores = score(texts)
            self._scoring += time.process_time() - begin
            self._texts += len(texts)
            return scores

        return timed

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        end = time.process_time()
        self.updates.append(
            {
                "total": end - self._begin,
                "rollouts": self._loss - self._begin - self._scoring,
                "scoring": self._scoring,
                "gradient_step": end - self._loss,
                "texts_scored": self._texts,
            }
        )


class TimedTrainer(SeqGANTrainer):
    """A [`SeqGANTrainer`] that tells a clock when its loss begins."""

    update_clock: UpdateClock

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in [`SeqGANTrainer`]."""
        self.update_clock.loss_begins()
        return super().compute_loss(*args, **kwargs)


def make_trainer(texts: Completions, sizes: Sizes, rollout_batch_size: int, output_dir: str) -> TimedTrainer:
    """
    Set up the game without training of D, one update long; each call of `train` makes that update.

    Args:
        texts (`Completions`): The real ones.
        sizes (`Sizes`): Gives the rollouts of each prefix.
        rollout_batch_size (`int`): The most rollouts alive.
        output_dir (`str`): A folder for what a Trainer leaves behind.
    """
    args = SeqGANConfig(
        output_dir=output_dir, use_cpu=True, max_steps=1, per_device_train_batch_size=PAPER.batch_size,
        learning_rate=1e-2, max_completion_length=PAPER.length, num_rollouts=sizes.num_rollouts,
        rollout_batch_size=rollout_batch_size, discriminator_warmup_steps=0, discriminator_steps=0,
        discriminator_samples=_DISCRIMINATOR_BATCH, logging_steps=1, log_completions=False, save_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    clock = UpdateClock()
    trainer = TimedTrainer(
        build_model("lstm", PAPER.vocab_size, PAPER.length), make_cnn(), args, as_dataset(texts), callbacks=[clock]
    )
    trainer.update_clock = clock
    trainer.discriminator.score = clock.watch(trainer.discriminator.score)  # type: ignore[method-assign]
    return trainer


def update_generator(trainer: TimedTrainer) -> dict[str, Any]:
    """Make one update, and return its CPU seconds by part, and the trainer's own log of wall seconds by phase."""
    trainer.train()
    log = next(entry for entry in reversed(trainer.state.log_history) if "loss" in entry)
    wall = {name.split("/")[1]: value for name, value in log.items() if name.startswith("seconds/")}
    return {**trainer.update_clock.updates[-1], "wall_seconds": wall}


def make_cnn() -> TextCNNForSequenceClassification:
    """Draw the paper's discriminator."""
    torch.manual_seed(0)
    return TextCNNForSequenceClassification(TextCNNConfig(vocab_size=PAPER.vocab_size, pad_token_id=0))


def make_discriminator(score_batch_size: int, autocast: bool = False) -> Discriminator:
    """Set up the paper's discriminator with its optimizer; with `autocast` it computes in bfloat16."""
    discriminator = Discriminator(
        make_cnn(),
        generator_processing_class=None,
        processing_class=None,
        reads_prompt=False,
        pad_token_id=0,
        generator_vocab_size=PAPER.vocab_size,
        pad_is_a_token=True,
        batch_size=_DISCRIMINATOR_BATCH,
        score_batch_size=score_batch_size,
    )
    if autocast:
        discriminator.autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    return discriminator


def pretrain(texts: Completions, epochs: int) -> None:
    """Train a fresh generator for some epochs, with nothing beside: no evaluation, no log, no checkpoint."""
    with tempfile.TemporaryDirectory() as output_dir:
        pretrain_generator(
            build_model("lstm", PAPER.vocab_size, PAPER.length), as_dataset(texts), as_dataset(texts.select(slice(64))),
            output_dir=output_dir, max_completion_length=PAPER.length, epochs=epochs, patience=0,
            eval_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip


def sample(model: PreTrainedModel, count: int, batch_size: int) -> Completions:
    """Sample texts behind a start token."""
    prompt_ids = torch.zeros(count, 1, dtype=torch.long)
    generation_config = sampling_config(TextFormat.from_model(model, None, PAPER.length))
    return generate_completions(
        model, prompt_ids, torch.ones_like(prompt_ids), generation_config, batch_size=batch_size
    )


# ---- The least it could take ---------------------------------------------------------------------------------------


def count_work(sizes: Sizes) -> dict[str, tuple[float, float]]:
    """
    Count operations and bytes of each part, from its sizes alone.

    - `rollouts`: logits (2 x 32 x 5000) and LSTM of N B T (T - 1) / 2 tokens, 194,560 of them.
    - `scoring`: a forward pass of the CNN over N B T texts, 20,480 (the last token counted like the others, as the
      authors score it; one score does for it, so that 19,520 are needed).
    - `generator_update`: both. Its gradient step, over 1,280 tokens, is not counted.
    - `discriminator_epoch`: 3 x a forward pass over real and generated texts, and AdamW over D's weights each step.
    - `likelihood_epoch`: 3 x logits and LSTM of 200,000 tokens, and AdamW over G's weights each step.
    - `samples`: logits and LSTM of 200,000 tokens.

    Args:
        sizes (`Sizes`): Texts and rollouts.

    Returns:
        `dict`: by part, floating-point operations and bytes.
    """
    generator, discriminator = build_model("lstm", PAPER.vocab_size, PAPER.length), make_cnn()
    rollouts = rollout_operations(generator, PAPER.batch_size, PAPER.length, sizes.num_rollouts)
    text = cnn_operations(discriminator.config, PAPER.length)
    scoring = sizes.num_rollouts * PAPER.batch_size * PAPER.length * text
    written = sizes.num_texts * sequence_operations(generator, PAPER.length)
    discriminator_steps = _steps(2 * sizes.num_texts, _DISCRIMINATOR_BATCH)
    likelihood_steps = _steps(sizes.num_texts, 64)
    return {
        "generator_update": (rollouts + scoring, 0),
        "rollouts": (rollouts, 0),
        "scoring": (scoring, 0),
        "discriminator_epoch": (
            TRAINING * 2 * sizes.num_texts * text,
            discriminator_steps * optimizer_bytes(discriminator),
        ),
        "likelihood_epoch": (TRAINING * written, likelihood_steps * optimizer_bytes(generator)),
        "samples": (written, 0),
    }


def _steps(count: int, batch_size: int) -> int:
    return -(-count // batch_size)


# ---- The script ----------------------------------------------------------------------------------------------------


def measure(args: Namespace, output_dir: str) -> dict[str, Any]:
    """
    Measure all parts, in turns.

    Args:
        args (`Namespace`): `scale`, `rollout_batch_size`, `bf16` and `repeats`.
        output_dir (`str`): A folder for what a Trainer leaves behind.

    Returns:
        `dict`: `machine_factor`, `product_factor`, `figures`, `hardware`, and what was counted on the way.
    """
    sizes, at_once = Sizes.scaled(args.scale), args.rollout_batch_size
    progress(f"sampling {sizes.num_texts} texts of the oracle")
    generator = build_model("lstm", PAPER.vocab_size, PAPER.length)
    torch.manual_seed(0)
    real = sample(make_oracle(seed=0), sizes.num_texts, at_once)
    generated = sample(generator, sizes.num_texts, at_once)
    completions, generation_config = write_completions(generator, PAPER.batch_size, PAPER.length)
    trainer = make_trainer(real, sizes, at_once, output_dir)
    discriminator = make_discriminator(at_once)

    tasks: dict[str, Callable[[], Any]] = {
        "generator_update": lambda: update_generator(trainer),
        "discriminator_epoch": lambda: discriminator.update(real, generated, epochs=1, seed=0),
        "likelihood_1_epoch": lambda: pretrain(real, epochs=1),
        "likelihood_2_epochs": lambda: pretrain(real, epochs=2),
        "samples": lambda: sample(generator, sizes.num_texts, at_once),
        "lean_loop": lambda: consume(lean_loop, generator, completions, generation_config, sizes.num_rollouts),
    }
    if args.bf16:
        fast = make_discriminator(at_once, autocast=True)
        # What an update scores: equal texts, of which one is read, are as frequent as there.
        parts = [
            part.completions
            for part in rollout(generator, completions, generation_config, sizes.num_rollouts, 1, at_once)
        ]
        texts = Completions(*map(torch.cat, zip(*(part.tensors() for part in [completions, *parts]), strict=True)))
        tasks["scoring_alone"] = lambda: discriminator.score(texts)
        tasks["scoring_alone_bf16"] = lambda: fast.score(texts)
        tasks["discriminator_epoch_bf16"] = lambda: fast.update(real, generated, epochs=1, seed=0)
    features = sum(make_cnn().config.num_filters)
    blocks = {
        "logits": (64, 32, PAPER.vocab_size),
        "highway, scoring": (at_once, features, features),
        "highway, training": (_DISCRIMINATOR_BATCH, features, features),
    }
    tasks |= hardware_tasks(blocks)
    measured = interleave(tasks, args.repeats)

    tokens = sampled_tokens(PAPER.batch_size, PAPER.length, sizes.num_rollouts)
    paper_tokens = sampled_tokens(PAPER.batch_size, PAPER.length, PAPER.num_rollouts)
    lean_seconds = summary(measured["lean_loop"].seconds)
    machine_factor = lean_seconds["median"] / (_REFERENCE_LEAN_SECONDS * tokens / paper_tokens)
    updates = measured["generator_update"].values
    rates = hardware_rates(measured)
    product_factor = _REFERENCE_GFLOP_PER_SECOND / rates["multiply large"]["median"]
    factors = {"by_lean_loop": machine_factor, "by_products": product_factor}
    return {
        "machine_factor": machine_factor,
        "product_factor": product_factor,
        "lean_loop_seconds": lean_seconds,
        "figures": figures(_series(measured), count_work(sizes), rates, factors, whole=args.scale == 1),
        "texts_scored": updates[-1]["texts_scored"],
        "tokens_rolled_out": tokens,
        "discriminator_updates": _steps(2 * sizes.num_texts, _DISCRIMINATOR_BATCH),
        "update_wall_seconds": {
            phase: summary([update["wall_seconds"][phase] for update in updates])
            for phase in updates[-1]["wall_seconds"]
        },
        "hardware": rates,
    }


def _series(measured: dict[str, Measured]) -> dict[str, list[float]]:
    """CPU seconds of each figure, one a repeat."""
    updates = measured["generator_update"].values
    one, two = measured["likelihood_1_epoch"].seconds, measured["likelihood_2_epochs"].seconds
    series = {
        "generator_update": [update["total"] for update in updates],
        **{part: [update[part] for update in updates] for part in ("rollouts", "scoring", "gradient_step")},
        "discriminator_epoch": measured["discriminator_epoch"].seconds,
        # What a second epoch adds: the rest is preparing the data and setting a Trainer up.
        "likelihood_epoch": [longer - shorter for longer, shorter in zip(two, one, strict=True)],
        "samples": measured["samples"].seconds,
    }
    extra = ("scoring_alone", "scoring_alone_bf16", "discriminator_epoch_bf16")
    return series | {name: measured[name].seconds for name in extra if name in measured}


def figures(
    series: dict[str, list[float]],
    work: dict[str, tuple[float, float]],
    rates: dict[str, dict[str, float]],
    factors: dict[str, float],
    whole: bool,
) -> dict[str, dict[str, Any]]:
    """
    Set what was measured beside what it could be.

    Args:
        series (`dict`): CPU seconds of each figure, one a repeat.
        work (`dict`): From [`count_work`].
        rates (`dict`): From `hardware_rates`.
        factors (`dict`): How many times slower this machine is than the reference, by yardstick.
        whole (`bool`): Whether it is the paper's size, so that bars and peers can be compared with.

    Returns:
        `dict`: for each figure `seconds`, `on_reference_machine` (the median divided by each factor), and where there is
        one the `floor` with `times_floor`, the `bar` with `below_bar` (here, and by each yardstick) and the `peers`.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, values in series.items():
        seconds = summary(values)
        adjusted = {yardstick: seconds["median"] / factor for yardstick, factor in factors.items()}
        figure: dict[str, Any] = {"seconds": seconds, "on_reference_machine": adjusted}
        if name in work:
            floor = floor_of(*work[name], rates)
            figure |= {"floor": floor, "times_floor": seconds["median"] / floor["seconds"]}
        if whole and name in BARS:
            compared = {"here": seconds["median"], **adjusted}
            below = {where: value < BARS[name] for where, value in compared.items()}
            figure |= {"bar": BARS[name], "below_bar": below}
        if whole and name in PEERS:
            figure["peers"] = PEERS[name]
        result[name] = figure
    return result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the paper's texts and rollouts.")
    parser.add_argument(
        "--rollout_batch_size", type=int, default=1024, help="The most texts written or scored at once."
    )
    parser.add_argument("--bf16", action="store_true", help="Also measure scoring and D's epoch in bfloat16.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as output_dir:
        results = measure(args, output_dir)
    names = ("scale", "rollout_batch_size", "bf16")
    settings = {**vars(PAPER), **vars(Sizes.scaled(args.scale)), **{name: getattr(args, name) for name in names}}
    finish("round", args, settings, results)


if __name__ == "__main__":
    main()
