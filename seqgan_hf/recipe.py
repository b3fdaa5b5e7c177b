"""What recipes share: texts in three splits, networks by name or from scratch, both stages, the report."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import is_matplotlib_available

from .arguments import SyntheticRecipeArguments, TextRecipeArguments
from .completions import Completions
from .config import SeqGANConfig, parse_config
from .data import AnyDataset, prepare_dataset
from .evaluation import bleu_of_samples, stages_table
from .generation import sample_texts
from .loading import load_discriminator, load_generator, load_texts, load_tokenizer, train_tokenizer
from .models import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification
from .plots import plot_learning_curves
from .pretraining import pretrain_generator
from .streams import generator_and_discriminator_folds
from .trainer import SeqGANTrainer

_TEST_SHARE = 0.1
_MOST_TEST_TEXTS = 1000


def start(
    recipe: str, arguments: type, argv: Sequence[str] | None, description: str | None, default_preset: str
) -> tuple[Any, SeqGANConfig]:
    """
    Read a recipe's settings and seed everything.

    Args:
        recipe (`str`): The recipe's file; its presets are in `configs/<its name>` beside it.
        arguments (`type`): Its dataclass, beside [`SeqGANConfig`].
        argv (`Sequence[str]`, *optional*): The command line; `sys.argv[1:]` by default.
        description (`str`, *optional*): Shown by `--help`.
        default_preset (`str`): Where neither a preset nor a YAML file is named.

    Returns:
        `tuple`: the recipe's arguments, and those of the game.
    """
    presets = Path(recipe).parent / "configs" / Path(recipe).stem
    args, config = parse_config((arguments, SeqGANConfig), argv, description, presets, default_preset)
    set_seed(config.seed)
    return args, config


def load_splits(args: TextRecipeArguments, seed: int) -> DatasetDict:
    """
    Load a recipe's texts as `train`, `validation` and `test`, with the one column `text`.

    Splits that the dataset lacks are cut from the end of its shuffled training texts: a tenth each, at most 1,000.

    Args:
        args (`TextRecipeArguments`): Names the dataset, its column and the rows to keep.
        seed (`int`): Decides the shuffle.

    Returns:
        `DatasetDict`

    Raises:
        OSError: If the dataset cannot be had.
        ValueError: If the column or the row filter do not fit it, or too few texts are left.
    """
    loaded = load_texts(args.dataset_name, args.dataset_config, revision=args.dataset_revision)
    columns = loaded["train"].column_names if "train" in loaded else []
    if args.text_column not in columns:
        raise ValueError(
            f"`{args.dataset_name}` needs a split `train` with the column `{args.text_column}`; got splits "
            f"{sorted(loaded)} and columns {columns}. Pass `--text_column`."
        )
    splits = {name: _only_texts(split, args) for name, split in loaded.items()}
    train = splits["train"].shuffle(seed=seed)
    count = min(max(round(_TEST_SHARE * len(train)), 1), _MOST_TEST_TEXTS)
    for name in ("validation", "test"):
        if name not in splits:
            if len(train) <= count:
                raise ValueError(f"`{args.dataset_name}` has too few texts to hold out a split: {len(train)}.")
            splits[name] = train.select(range(len(train) - count, len(train)))
            train = train.select(range(len(train) - count))
    if args.max_samples is not None:
        train = train.select(range(min(args.max_samples, len(train))))
    return DatasetDict(train=train, validation=splits["validation"], test=splits["test"])


def _only_texts(dataset: Dataset, args: TextRecipeArguments) -> Dataset:
    if args.keep_rows is not None:
        column, separator, value = args.keep_rows.partition("=")
        if not separator or column not in dataset.column_names:
            raise ValueError(
                f"`--keep_rows` must be COLUMN=VALUE with one of the columns {dataset.column_names}; got "
                f"{args.keep_rows!r}."
            )
        dataset = dataset.filter(_HasValue(column, value))
    dataset = dataset.select_columns([args.text_column])
    if args.text_column != "text":
        dataset = dataset.rename_column(args.text_column, "text")
    if args.split_paragraphs:
        dataset = dataset.map(_paragraphs, batched=True)
    return dataset.filter(_is_not_blank)


def _paragraphs(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"text": [line.strip() for text in batch["text"] for line in (text or "").splitlines()]}


@dataclass(frozen=True)
class _HasValue:
    column: str
    value: str

    def __call__(self, row: dict[str, Any]) -> bool:
        return str(row[self.column]) == self.value


def _is_not_blank(row: dict[str, Any]) -> bool:
    return bool(row["text"] and row["text"].strip())


@dataclass
class Networks:
    """
    The two players of a recipe and their tokenizers.

    Args:
        generator (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        discriminator (`PreTrainedModel`): A sequence classifier with two labels.
        discriminator_tokenizer (`PreTrainedTokenizerBase`, *optional*): `None`: it reads the generator's ids.
    """

    generator: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    discriminator: PreTrainedModel
    discriminator_tokenizer: PreTrainedTokenizerBase | None


def load_networks(args: TextRecipeArguments, config: SeqGANConfig, texts: Dataset) -> Networks:
    """
    Load both networks by name, or make the paper's from scratch with a tokenizer trained on the texts.

    Args:
        args (`TextRecipeArguments`): Names, or sizes.
        config (`SeqGANConfig`): Arguments of loading.
        texts (`Dataset`): The training texts, column `text`.

    Returns:
        `Networks`

    Raises:
        OSError: If a model can be had neither locally nor from the Hub.
    """
    if not args.from_scratch:
        return Networks(
            load_generator(args.model_name_or_path, **config.init_kwargs("model")),
            load_tokenizer(args.model_name_or_path),
            load_discriminator(args.discriminator_name_or_path, **config.init_kwargs("discriminator")),
            load_tokenizer(args.discriminator_name_or_path),
        )
    tokenizer = train_tokenizer(texts["text"], args.vocab_size)
    special = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    generator = LSTMForCausalLM(
        LSTMConfig(
            **special,
            embedding_size=args.embedding_size,
            hidden_size=args.hidden_size,
            dropout=args.generator_dropout,
        )
    )
    return Networks(generator, tokenizer, TextCNNForSequenceClassification(TextCNNConfig(**special)), None)


def play(args: TextRecipeArguments, config: SeqGANConfig, splits: DatasetDict, networks: Networks) -> dict[str, Any]:
    """
    Run both stages, maximum likelihood and SeqGAN, and report each on the test split.

    Args:
        args (`TextRecipeArguments`): Settings of the first stage and of the report.
        config (`SeqGANConfig`): Settings of the game.
        splits (`DatasetDict`): From [`load_splits`].
        networks (`Networks`): From [`load_networks`].

    Returns:
        `dict`: what `output_dir/metrics.json` holds.
    """
    generator, first_stage = likelihood_stage(
        args, config, networks.generator, splits["train"], splits["validation"], networks.tokenizer
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
    before, _ = measure(trainer, splits["test"], args.num_test_samples, "after maximum likelihood")
    print(f"\nStage 2 of 2: SeqGAN, {config.max_steps} updates of the generator.", flush=True)
    trainer.train(resume_from_checkpoint=which_checkpoint(config))
    after, samples = measure(trainer, splits["test"], args.num_test_samples, "after SeqGAN")
    report = {
        "stages": {"MLE": before, "SeqGAN": after},
        "first_stage": first_stage,
        "samples": samples[:5],
        "settings": {**dataclasses.asdict(args), **game_settings(config)},
    }
    finish(trainer, report, "Held-out texts: NLL in nats per token (lower is better), BLEU of samples against them.")
    return report


def likelihood_stage(
    args: TextRecipeArguments | SyntheticRecipeArguments,
    config: SeqGANConfig,
    generator: PreTrainedModel,
    train: AnyDataset,
    validation: AnyDataset,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, dict[str, float]]:
    """
    Train a recipe's generator by maximum likelihood and keep it in `output_dir/mle`; a resumed run takes it from there.

    Args:
        args (`TextRecipeArguments` or `SyntheticRecipeArguments`): Settings of this stage.
        config (`SeqGANConfig`): Settings of the game, which say what texts this stage may see.
        generator (`PreTrainedModel`): Trained in place.
        train, validation (`Dataset`): Real texts.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Kept beside it.

    Returns:
        `tuple`: the generator, and the metrics of [`pretrain_generator`].
    """
    folder = Path(config.output_dir) / "mle"
    if config.resume_from_checkpoint and (folder / "metrics.json").is_file():
        return load_generator(str(folder)), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    (texts, *_), _ = generator_and_discriminator_folds(train, config.discriminator_data, config.seed)
    print(f"\nStage 1 of 2: maximum likelihood on {len(texts):,} texts.", flush=True)
    checkpoints = Path(config.output_dir) / "mle_checkpoints"
    metrics = pretrain_generator(
        generator,
        texts,
        validation,
        tokenizer,
        checkpoints,
        config.max_completion_length,
        config.long_texts,
        epochs=args.mle_epochs,
        learning_rate=args.mle_learning_rate,
        batch_size=args.mle_batch_size,
        patience=args.mle_patience,
        seed=config.seed,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)  # the best state is in the model
    generator.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    # Read back, as a resumed run does: weights of a file lie otherwise in memory, and sums may round otherwise.
    return load_generator(str(folder)), metrics


def which_checkpoint(config: SeqGANConfig) -> str | bool | None:
    """Return what `--resume_from_checkpoint` asks for: a path, or the last checkpoint for `true`."""
    asked = config.resume_from_checkpoint
    return True if str(asked).lower() == "true" else asked


def measure(trainer: SeqGANTrainer, texts: Dataset, num_samples: int, when: str) -> tuple[dict[str, float], list[str]]:
    """
    Measure a trainer's generator on texts that no stage has seen: likelihood, and BLEU of fresh samples.

    Args:
        trainer (`SeqGANTrainer`): Holds the generator.
        texts (`Dataset`): The test texts; both they and the samples end at `max_completion_length`.
        num_samples (`int`): Texts to sample, from a fixed seed.
        when (`str`): Beside the progress bar.

    Returns:
        `tuple`: the metrics, and the samples as strings.
    """
    held_out = trainer.evaluate(texts)
    sampled = sample_texts(
        trainer.model, trainer.text_format, num_samples, seed=trainer.args.seed, description=f"Sampling {when}"
    )
    samples = trainer.discriminator.decode(sampled)
    rows = list(prepare_dataset(texts, trainer.processing_class, trainer.text_format))
    references = trainer.discriminator.decode(Completions.collate(rows, trainer.text_format.pad_token_id))
    metrics = {"nll": held_out["eval_nll"], "perplexity": held_out["eval_perplexity"]}
    return metrics | bleu_of_samples(samples, references), samples


def finish(trainer: SeqGANTrainer, report: dict[str, Any], caption: str) -> None:
    """
    Save a run's pair and its report in `output_dir`, print the table and samples, and push if asked.

    Args:
        trainer (`SeqGANTrainer`): After training.
        report (`dict`): `stages` for the table, `samples` to show, and what else to keep in `metrics.json`.
        caption (`str`): Says what the table's figures are.
    """
    output_dir = Path(trainer.args.output_dir)
    (output_dir / "metrics.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    drawn = "(pip install 'seqgan_hf[plots]' to have the learning curves drawn)"
    if is_matplotlib_available():
        drawn = str(plot_learning_curves(trainer.state.log_history, output_dir / "curves.png"))
    trainer.save_model()  # and pushes, if asked
    tqdm.write(f"\n{caption}")
    tqdm.write(stages_table(report["stages"]))
    if report["samples"]:
        tqdm.write("\nSamples:")
    for sample in report["samples"]:
        tqdm.write(f"  - {' '.join(sample.split())}")
    tqdm.write(
        f"\nSaved: generator in {output_dir}, its discriminator in {output_dir / 'discriminator'}, metrics.json."
    )
    tqdm.write(f"Learning curves: {drawn}")


def game_settings(config: SeqGANConfig) -> dict[str, Any]:
    """Return the settings of the game itself, without those of `TrainingArguments` that are not set to play it."""
    own = set(SeqGANConfig.__annotations__) | {"max_steps", "per_device_train_batch_size", "seed", "max_grad_norm"}
    return {name: value for name, value in config.to_dict().items() if name in own}
