"""The synthetic experiment: a game on texts of an oracle, measured on the plane of quality and diversity."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import is_matplotlib_available

from .arguments import SyntheticRecipeArguments
from .checkpoints import write_whole
from .completions import Completions
from .config import SeqGANConfig
from .data import TextFormat, prepare_dataset
from .evaluation import mean_nll, oracle_curve, stages_table
from .models import (
    LSTMConfig,
    LSTMForCausalLM,
)
from .oracle import as_dataset, oracle_digest
from .plots import plot_quality_and_diversity
from .processes import is_first
from .recipe import (
    announce_game,
    begin,
    finish,
    kept_curve,
    likelihood_seconds,
    likelihood_stage,
    scratch_discriminator,
    settings_of,
    which_checkpoint,
)
from .samples import sample_texts
from .stages import MLE, MLE_AT, SEQGAN
from .trainer import SeqGANTrainer

MEASURING_SEED = 1_000_000


class OracleBench:
    """
    Texts of an oracle, and where the generators that learn from them are measured, all alike.

    Args:
        args (`SyntheticRecipeArguments`): How many texts and samples, at what temperatures.
        config (`SeqGANConfig`): Seed and length of the texts.
        oracle (`PreTrainedModel`): The true distribution, a causal language model without EOS.
    """

    def __init__(self, args: SyntheticRecipeArguments, config: SeqGANConfig, oracle: PreTrainedModel) -> None:
        self.args, self.oracle = args, oracle
        self.text_format = TextFormat.from_model(oracle, None, config.max_completion_length)
        bounds = list(itertools.accumulate([0, args.num_texts, args.num_texts, args.num_validation_texts]))
        self.real = sample_texts(oracle, self.text_format, bounds[-1], config.seed)
        self.train, self.test, self.validation = (
            prepare_dataset(as_dataset(self.real.select(slice(*part))), None, self.text_format)
            for part in itertools.pairwise(bounds)
        )
        # Real texts were drawn from `config.seed`: the same random numbers would lead a good generator to texts it has
        # read.
        self.seed = config.seed + MEASURING_SEED
        self.digest = oracle_digest(oracle)
        texts = json.dumps([list(self.train), list(self.test)])
        self.rows_digest = hashlib.sha256(texts.encode()).hexdigest()[:16]

    def new_generator(self) -> LSTMForCausalLM:
        """Return an untrained generator of the size that `args` say, with the oracle's vocabulary."""
        args, oracle = self.args, self.oracle
        shape = LSTMConfig(
            vocab_size=oracle.config.vocab_size,
            bos_token_id=oracle.config.bos_token_id,
            embedding_size=args.embedding_size,
            hidden_size=args.hidden_size,
            dropout=args.generator_dropout,
        )
        return LSTMForCausalLM(shape)

    def what(self) -> dict[str, Any]:
        """Say what a curve is measured on: figures compare where this is the same."""
        return {
            "oracle": self.digest,
            "rows": self.rows_digest,
            "max_completion_length": self.text_format.max_completion_length,
            "num_samples": self.args.num_test_samples,
            "temperatures": list(self.args.temperatures),
            "seed": self.seed,
        }

    def curve(self, generator: PreTrainedModel) -> list[dict[str, float]]:
        """Measure a generator at each temperature: see [`oracle_curve`]."""
        args = self.args
        return oracle_curve(
            generator,
            self.oracle,
            list(self.test),
            self.text_format,
            args.temperatures,
            args.num_test_samples,
            self.seed,
        )

    def verdict(self, trainer: SeqGANTrainer) -> dict[str, float]:
        """Return what a trainer's discriminator knows: its accuracies and AUC on test texts and as many samples."""
        held_out = Completions.collate(list(self.test)[: self.args.num_test_samples], self.text_format.pad_token_id)
        generated = sample_texts(trainer.model, self.text_format, len(held_out), self.seed)
        return trainer.discriminator.evaluate(held_out, generated)


def before_the_game(
    args: SyntheticRecipeArguments, config: SeqGANConfig, bench: OracleBench
) -> tuple[PreTrainedModel, PreTrainedModel | None, dict[str, Any]]:
    """
    Train a generator by maximum likelihood on texts of an oracle, measure it, and make the discriminator of its game.

    Args:
        args (`SyntheticRecipeArguments`): Settings of maximum likelihood and of the networks.
        config (`SeqGANConfig`): Settings of the game. A resumed run takes what is finished from `output_dir`.
        bench (`OracleBench`): Texts, and where the generator is measured.

    Returns:
        `tuple`: the generator, its discriminator (`None` where `args.game` is off), and the report so far.
    """
    generator, first_stage = likelihood_stage(args, config, bench.new_generator(), bench.train, bench.validation)
    kept = Path(config.output_dir) / "mle" / "curve.json"
    curves = {MLE: kept_curve(kept, bench.what(), lambda: bench.curve(generator))}
    discriminator: PreTrainedModel | None = None
    language_models: list[dict[str, float]] = []
    if args.game:
        discriminator, language_models = scratch_discriminator(
            args, config, generator, bench.text_format, bench.train, bench.validation
        )
    report = {
        "stages": _stages_of(curves, args.rival_temperature),
        "curves": curves,
        "first_stage": first_stage,
        "language_models": language_models,
        "cpu_seconds": likelihood_seconds(first_stage, language_models),
        "samples": [],
        "oracle": bench.digest,
        "rows": bench.rows_digest,
        "settings": settings_of(args, config),
    }
    return generator, discriminator, report


def play_on_oracle(args: SyntheticRecipeArguments, config: SeqGANConfig, oracle: PreTrainedModel) -> dict[str, Any]:
    """
    Run both stages, maximum likelihood and SeqGAN, on texts of an oracle, and measure each over the temperature.

    Args:
        args (`SyntheticRecipeArguments`): Settings of the first stage, of the networks and of the report.
        config (`SeqGANConfig`): Settings of the game. Of a finished run that is resumed nothing is done again.
        oracle (`PreTrainedModel`): The true distribution, a causal language model without EOS.

    Returns:
        `dict`: what `output_dir/metrics.json` holds.
    """
    if before := begin(args, config):
        print(f"{config.output_dir} is finished.")
        return before
    folder = Path(config.output_dir)
    bench = OracleBench(args, config, oracle)
    generator, discriminator, report = before_the_game(args, config, bench)
    caption = f"Nats per token (lower is better). The oracle's own texts have {mean_nll(oracle, bench.real):.4f}."
    if discriminator is None:
        write_whole(folder / "metrics.json", json.dumps(report, indent=1))
        print(f"\n{caption}\n{stages_table(report['stages'])}")
        return report
    trainer = SeqGANTrainer(generator, discriminator, config, train_dataset=bench.train, eval_dataset=bench.validation)
    trainer.card["dataset"] = "texts of a randomly drawn LSTM, the synthetic oracle of SeqGAN"
    announce_game(config)
    checkpoint = which_checkpoint(config)
    trainer.train(resume_from_checkpoint=checkpoint)
    curves = report["curves"]
    curves[SEQGAN] = bench.curve(generator)
    report["stages"] = _stages_of(curves, args.rival_temperature)
    report["discriminator"] = bench.verdict(trainer)
    report["cpu_seconds"]["game"] = trainer.cpu_seconds
    if is_first() and is_matplotlib_available():
        plot_quality_and_diversity(curves, folder / "quality_diversity.png")
    finish(trainer, report, caption)
    return report


def _stages_of(curves: dict[str, list[dict[str, float]]], rival: float) -> dict[str, dict[str, float]]:
    """Return the rows of the printed table: both stages at temperature 1, and the first at the rival's."""
    rows = {MLE: (MLE, 1.0), f"{MLE_AT}{rival}": (MLE, rival), SEQGAN: (SEQGAN, 1.0)}
    return {
        row: {name: point[name] for name in ("NLL_oracle", "NLL_test")}
        for row, (stage, temperature) in rows.items()
        for point in curves.get(stage, [])
        if point["temperature"] == temperature
    }
