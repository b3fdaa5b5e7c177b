"""The synthetic experiment: a game on texts of an oracle, measured on the plane of quality and diversity."""

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
    likelihood_stage,
    scratch_discriminator,
    settings_of,
    which_checkpoint,
)
from .samples import sample_texts
from .trainer import SeqGANTrainer

MEASURING_SEED = 1_000_000


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
    finished = Path(config.output_dir) / "metrics.json"
    text_format = TextFormat.from_model(oracle, None, config.max_completion_length)
    bounds = list(itertools.accumulate([0, args.num_texts, args.num_texts, args.num_validation_texts]))
    real = sample_texts(oracle, text_format, bounds[-1], config.seed)
    train, test, validation = (
        prepare_dataset(as_dataset(real.select(slice(*part))), None, text_format)
        for part in itertools.pairwise(bounds)
    )
    sizes = {"vocab_size": oracle.config.vocab_size, "bos_token_id": oracle.config.bos_token_id}
    shape = LSTMConfig(
        **sizes,
        embedding_size=args.embedding_size,
        hidden_size=args.hidden_size,
        dropout=args.generator_dropout,
    )
    generator, first_stage = likelihood_stage(args, config, LSTMForCausalLM(shape), train, validation)

    # Real texts were drawn from `config.seed`: the same random numbers would lead a good generator to texts it has read.
    measuring_seed = config.seed + MEASURING_SEED

    def curve() -> list[dict[str, float]]:
        return oracle_curve(
            generator, oracle, list(test), text_format, args.temperatures, args.num_test_samples, measuring_seed
        )

    caption = f"Nats per token (lower is better). The oracle's own texts have {mean_nll(oracle, real):.4f}."
    digest = oracle_digest(oracle)
    measured = {
        "oracle": digest,
        "texts": bounds,
        "max_completion_length": config.max_completion_length,
        "num_samples": args.num_test_samples,
        "temperatures": list(args.temperatures),
        "seed": measuring_seed,
    }
    curves = {"MLE": kept_curve(Path(config.output_dir) / "mle" / "curve.json", measured, curve)}
    report: dict[str, Any] = {
        "stages": _stages_of(curves, args.rival_temperature),
        "curves": curves,
        "first_stage": first_stage,
        "cpu_seconds": {"mle": first_stage.get("cpu_seconds")},
        "samples": [],
        "oracle": digest,
        "settings": settings_of(args, config),
    }
    if not args.game:
        write_whole(finished, json.dumps(report, indent=1))
        print(f"\n{caption}\n{stages_table(report['stages'])}")
        return report
    discriminator, report["language_models"] = scratch_discriminator(
        args, config, generator, text_format, train, validation
    )
    report["cpu_seconds"]["language_models"] = sum(one.get("cpu_seconds", 0.0) for one in report["language_models"])
    trainer = SeqGANTrainer(generator, discriminator, config, train_dataset=train, eval_dataset=validation)
    trainer.card["dataset"] = "texts of a randomly drawn LSTM, the synthetic oracle of SeqGAN"

    def verdict() -> dict[str, float]:
        held_out = Completions.collate(list(test)[: args.num_test_samples], text_format.pad_token_id)
        generated = sample_texts(generator, text_format, len(held_out), measuring_seed)
        return trainer.discriminator.evaluate(held_out, generated)

    announce_game(config)
    checkpoint = which_checkpoint(config)
    trainer.train(resume_from_checkpoint=checkpoint)
    curves["SeqGAN"] = curve()
    report["stages"] = _stages_of(curves, args.rival_temperature)
    report["discriminator"] = verdict()
    report["cpu_seconds"]["game"] = trainer.cpu_seconds
    if is_first() and is_matplotlib_available():
        plot_quality_and_diversity(curves, Path(config.output_dir) / "quality_diversity.png")
    finish(trainer, report, caption)
    return report


def _stages_of(curves: dict[str, list[dict[str, float]]], rival: float) -> dict[str, dict[str, float]]:
    """Return the rows of the printed table: both stages at temperature 1, and the first at the rival's."""
    rows = {"MLE": ("MLE", 1.0), f"MLE, temperature {rival}": ("MLE", rival), "SeqGAN": ("SeqGAN", 1.0)}
    return {
        row: {name: point[name] for name in ("NLL_oracle", "NLL_test")}
        for row, (stage, temperature) in rows.items()
        for point in curves.get(stage, [])
        if point["temperature"] == temperature
    }
