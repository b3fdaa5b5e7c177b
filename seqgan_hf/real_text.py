"""A game on real text: both stages, each measured on texts that neither has seen."""

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from .arguments import TextRecipeArguments
from .completions import Completions, decode_ids
from .config import SeqGANConfig, publishable
from .data import prepare_dataset
from .evaluation import bleu_of_samples, nll_at_temperatures
from .networks import Networks
from .pair import base_model_of, game_settings
from .recipe import announce_game, finish, likelihood_stage, which_checkpoint
from .samples import complete_prompts
from .trainer import SeqGANTrainer


def play(args: TextRecipeArguments, config: SeqGANConfig, splits: DatasetDict, networks: Networks) -> dict[str, Any]:
    """
    Run both stages, maximum likelihood and SeqGAN, and report each on the test split.

    Args:
        args (`TextRecipeArguments`): Settings of the first stage and of the report.
        config (`SeqGANConfig`): Settings of the game.
        splits (`DatasetDict`): From `load_splits`.
        networks (`Networks`): From [`load_networks`].

    Returns:
        `dict`: what `output_dir/metrics.json` holds.
    """
    generator, first_stage = likelihood_stage(
        args, config, networks.generator, splits["train"], splits["validation"], networks.tokenizer, networks.loading
    )
    trainer = SeqGANTrainer(
        model=generator,
        discriminator=networks.discriminator,
        args=config,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=networks.tokenizer,
        discriminator_processing_class=networks.discriminator_tokenizer,
    )
    trainer.card |= what_the_card_says(args, config, splits)
    test = list(prepare_dataset(splits["test"], trainer.processing_class, trainer.text_format, "test_dataset"))
    stages = {"MLE": measure(trainer, test, args.num_test_samples)[0]}
    rival = f"MLE, temperature {args.rival_temperature}"
    stages[rival] = measure(trainer, test, args.num_test_samples, args.rival_temperature)[0]
    announce_game(config)
    trainer.train(resume_from_checkpoint=which_checkpoint(config))
    stages["SeqGAN"], samples = measure(trainer, test, args.num_test_samples)
    report = {
        "stages": stages,
        "first_stage": first_stage,
        "samples": samples[:5],
        "settings": publishable(dataclasses.asdict(args)) | game_settings(config),
    }
    finish(trainer, report, "Held-out texts: NLL in nats per token (lower is better), BLEU of samples against them.")
    return report


def what_the_card_says(args: TextRecipeArguments, config: SeqGANConfig, splits: DatasetDict) -> dict[str, Any]:
    """
    Return what a recipe knows for the card of its pair, and may be public: no path of this machine.

    Args:
        args (`TextRecipeArguments`): Names the dataset and the generator.
        config (`SeqGANConfig`): Settings of the game.
        splits (`DatasetDict`): From `load_splits`.

    Returns:
        `dict`: by the names of [`CardFacts`].
    """
    first_stage = {option.name: option for option in dataclasses.fields(args) if option.name.startswith("mle_")}
    said: dict[str, Any] = {
        # Texts that were held out from the training split are of no split of their own.
        "dataset_split": args.dataset_test_split if splits["test"].split == args.dataset_test_split else None,
        "settings": game_settings(config) | {name: getattr(args, name) for name in first_stage},
        "defaults": {name: option.default for name, option in first_stage.items()},
    }
    if Path(args.dataset_name).name == "sample_speech.txt":
        said["dataset"] = "420 sentences that come with seqgan_hf"
    elif "://" in args.dataset_name:
        where = urllib.parse.urlparse(args.dataset_name)
        said["dataset"] = f"the file {Path(where.path).name} from {where.hostname}"
    elif not Path(args.dataset_name).exists():
        names = {"dataset": args.dataset_name, "dataset_config": args.dataset_config}
        said |= names | {"dataset_revision": args.dataset_revision}
    if not args.from_scratch:
        said["finetuned_from"] = base_model_of(args.model_name_or_path)
    return said


def measure(
    trainer: SeqGANTrainer, rows: Sequence[Mapping[str, Any]], num_samples: int, temperature: float = 1.0
) -> tuple[dict[str, float], list[str]]:
    """
    Measure a trainer's generator on texts that no stage has seen: likelihood, and BLEU of fresh samples.

    Args:
        trainer (`SeqGANTrainer`): Holds the generator.
        rows (`Sequence[Mapping]`): The test texts from `prepare_dataset`; both they and the samples end at
            `max_completion_length`. Where they have prompts, the samples complete these.
        num_samples (`int`): Texts to sample, from a fixed seed.
        temperature (`float`): Of the softmax; above 0.

    Returns:
        `tuple`: the metrics, and the samples as strings.
    """
    model, text_format = trainer.model, trainer.text_format
    batch_size = trainer.args.per_device_eval_batch_size
    (nll,) = nll_at_temperatures(model, rows, text_format.pad_token_id, [temperature], batch_size)
    prompts = [rows[index * len(rows) // num_samples]["prompt_ids"] for index in range(num_samples)]
    sampled = complete_prompts(
        model, prompts, text_format, trainer.args.seed, temperature, trainer.rows_at_once(max(map(len, prompts)))
    )
    samples, references = (
        decode_ids(texts.completion_ids, texts.completion_mask, trainer.processing_class)
        for texts in (sampled, Completions.collate(rows, text_format.pad_token_id))
    )
    return {"nll": nll, "perplexity": math.exp(nll)} | bleu_of_samples(samples, references), samples
