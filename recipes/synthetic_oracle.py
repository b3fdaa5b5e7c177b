"""
SeqGAN's synthetic experiment (Section 5): a random LSTM, the oracle, is the true distribution.

    accelerate launch recipes/synthetic_oracle.py --preset smoke                   # under 3 minutes on 2 cores
    accelerate launch recipes/synthetic_oracle.py --preset smoke --oracle target_params.npz

NLL_oracle is the likelihood of generated texts under the oracle: it rewards precision alone, and a lower temperature
lowers it, too. So NLL_test, that of the oracle's texts under the generator, stands beside it, and a colder
maximum-likelihood generator stands in the table as the rival. All flags: --help.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.utils import is_matplotlib_available

from seqgan_hf import (
    LikelihoodRatioForSequenceClassification,
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from seqgan_hf.arguments import SyntheticRecipeArguments
from seqgan_hf.completions import Completions
from seqgan_hf.config import SeqGANConfig, publishable
from seqgan_hf.data import AnyDataset, TextFormat, prepare_dataset
from seqgan_hf.evaluation import mean_nll, oracle_curve, stages_table
from seqgan_hf.oracle import as_dataset, load_oracle, make_oracle
from seqgan_hf.pair import game_settings
from seqgan_hf.plots import plot_quality_and_diversity
from seqgan_hf.recipe import (
    announce_game,
    finish,
    in_a_row,
    likelihood_stage,
    seeds_table,
    start,
    which_checkpoint,
    write_config,
)
from seqgan_hf.samples import sample_texts


def main(argv: list[str] | None = None) -> None:
    args, config = start(__file__, SyntheticRecipeArguments, argv, __doc__, default_preset="smoke")
    oracle = (load_oracle(args.oracle) if args.oracle else make_oracle(args.oracle_seed)).to(config.device)
    reports = [run(args, one, oracle) for one in in_a_row(config, args.seeds)]
    if args.seeds > 1:
        print(f"\n{args.seeds} seeds, mean and standard deviation:\n{seeds_table(reports)}")


def run(args: SyntheticRecipeArguments, config: SeqGANConfig, oracle: LSTMForCausalLM) -> dict[str, Any]:
    """Play one game and return what its metrics.json holds; of a finished one that is resumed, read it from there."""
    finished = Path(config.output_dir) / "metrics.json"
    if config.resume_from_checkpoint and finished.is_file():
        print(f"{config.output_dir} is finished.")
        return json.loads(finished.read_text(encoding="utf-8"))
    write_config(args, config)
    began = time.process_time()
    text_format = TextFormat.from_model(oracle, None, config.max_completion_length)
    bounds = list(itertools.accumulate([0, args.num_texts, args.num_texts, args.num_validation_texts]))
    real = sample_texts(oracle, text_format, bounds[-1], config.seed)
    train, test, validation = (
        prepare_dataset(as_dataset(real.select(slice(*part))), None, text_format)
        for part in itertools.pairwise(bounds)
    )
    sizes = {"vocab_size": oracle.config.vocab_size, "bos_token_id": oracle.config.bos_token_id}
    generator = LSTMForCausalLM(LSTMConfig(**sizes, embedding_size=args.embedding_size, hidden_size=args.hidden_size))
    generator, first_stage = likelihood_stage(args, config, generator, train, validation)

    def curve() -> list[dict[str, float]]:
        return oracle_curve(
            generator, oracle, list(test), text_format, args.temperatures, args.num_test_samples, config.seed
        )

    caption = f"Nats per token (lower is better). The oracle's own texts have {mean_nll(oracle, real):.4f}."
    curves = {"MLE": curve()}
    report: dict[str, Any] = {
        "stages": stages_of(curves, args.rival_temperature),
        "curves": curves,
        "first_stage": first_stage,
        "cpu_seconds": {"mle": first_stage.get("cpu_seconds")},
        "samples": [],
        "settings": publishable(dataclasses.asdict(args)) | game_settings(config),
    }
    if not args.game:
        finished.write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(f"\n{caption}\n{stages_table(report['stages'])}")
        return report
    discriminator, report["cpu_seconds"]["language_models"] = make_discriminator(
        args, config, generator, text_format, train, validation
    )
    trainer = SeqGANTrainer(generator, discriminator, config, train_dataset=train, eval_dataset=validation)
    trainer.card["dataset"] = "texts of a randomly drawn LSTM, the synthetic oracle of SeqGAN"

    def verdict() -> dict[str, float]:
        held_out = Completions.collate(list(test)[: args.num_test_samples], text_format.pad_token_id)
        generated = sample_texts(generator, text_format, len(held_out), config.seed)
        return trainer.discriminator.evaluate(held_out, generated)

    announce_game(config)
    checkpoint = which_checkpoint(config)
    game_began = time.process_time()
    trainer.train(resume_from_checkpoint=checkpoint)
    game_seconds = time.process_time() - game_began
    curves["SeqGAN"] = curve()
    report["stages"] = stages_of(curves, args.rival_temperature)
    report["discriminator"] = verdict()
    # Of a resumed game, the earlier part is not known.
    report["cpu_seconds"]["game"] = None if checkpoint else game_seconds
    report["cpu_seconds"]["all"] = None if checkpoint else time.process_time() - began
    if is_matplotlib_available():
        plot_quality_and_diversity(curves, Path(config.output_dir) / "quality_diversity.png")
    finish(trainer, report, caption)
    return report


def make_discriminator(
    args: SyntheticRecipeArguments,
    config: SeqGANConfig,
    generator: PreTrainedModel,
    text_format: TextFormat,
    train: AnyDataset,
    validation: AnyDataset,
) -> tuple[PreTrainedModel, float]:
    """Return the paper's CNN, or a likelihood ratio with the language models for it, and how long these were trained."""
    vocab_size = generator.get_input_embeddings().num_embeddings
    if args.discriminator == "cnn":
        return TextCNNForSequenceClassification(
            TextCNNConfig(vocab_size=vocab_size, pad_token_id=text_format.pad_token_id)
        ), 0.0
    size = args.language_model_size
    shape = LSTMConfig(
        vocab_size=vocab_size,
        bos_token_id=text_format.start_token_id,
        embedding_size=size,
        hidden_size=size,
        dropout=args.language_model_dropout,
    )
    readers, seconds = [generator], 0.0
    for number in range(1, args.language_models + 1):
        print(f"\nLanguage model {number} of {args.language_models}, for the discriminator to read with.", flush=True)
        set_seed(config.seed + 1000 * number)
        settings = dataclasses.replace(args, mle_weight_decay=args.language_model_weight_decay)
        model, metrics = likelihood_stage(
            settings, config, LSTMForCausalLM(shape), train, validation, name=f"mle_{number}"
        )
        readers.append(model)
        seconds += metrics["cpu_seconds"]
    classifier = LikelihoodRatioForSequenceClassification.from_language_models(
        readers,
        start_token_id=text_format.start_token_id,
        pad_token_id=text_format.pad_token_id,
        hidden_size=args.ratio_hidden_size,
        generator_hidden_size=args.hidden_size if args.ratio_hidden_size else 0,
        dropout=args.language_model_dropout,
    )
    return classifier, seconds


def stages_of(curves: dict[str, list[dict[str, float]]], rival: float) -> dict[str, dict[str, float]]:
    """Return the rows of the printed table: both stages at temperature 1, and the first at the rival's."""
    rows = {"MLE": ("MLE", 1.0), f"MLE, temperature {rival}": ("MLE", rival), "SeqGAN": ("SeqGAN", 1.0)}
    return {
        row: {name: point[name] for name in ("NLL_oracle", "NLL_test")}
        for row, (stage, temperature) in rows.items()
        for point in curves.get(stage, [])
        if point["temperature"] == temperature
    }


if __name__ == "__main__":
    main()
