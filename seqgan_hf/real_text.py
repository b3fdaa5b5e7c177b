"""A game on real text: both stages and the controls, each measured on texts that none has seen, over the temperature."""

import copy
import dataclasses
import functools
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed
from transformers.utils import is_matplotlib_available

from .arguments import TextRecipeArguments
from .completions import Completions, decode_ids
from .config import SeqGANConfig, publishable
from .corpora import load_splits
from .data import TextFormat, prepare_dataset
from .evaluation import nll_at_temperatures
from .loading import load_generator
from .networks import Networks, load_networks
from .pair import base_model_of, game_settings
from .plots import plot_quality_and_diversity
from .recipe import (
    announce_game,
    finish,
    finished_report,
    in_a_row,
    kept_curve,
    likelihood_stage,
    scratch_discriminator,
    seeds_table,
    start,
    which_checkpoint,
    write_config,
)
from .samples import complete_prompts
from .text_measures import Task, TextMeasures, best_temperature, nearest_text, point_between, temperature_where
from .trainer import SeqGANTrainer

NUM_SHOWN = 10


def run(
    recipe: str,
    argv: Sequence[str] | None,
    description: str | None,
    task: Task,
    default_preset: str,
    load: Callable[[TextRecipeArguments, int], DatasetDict] = load_splits,
) -> None:
    """
    Run a recipe on real text: for each seed the game and its controls.

    Args:
        recipe (`str`): The recipe's file.
        argv (`Sequence[str]`, *optional*): The command line; `sys.argv[1:]` by default.
        description (`str`, *optional*): Shown by `--help`.
        task (`Task`): What is measured.
        default_preset (`str`): Where none is named.
        load (`Callable`): From the recipe's settings and a seed to the texts, in the splits of `load_splits`.
    """
    args, config = start(recipe, TextRecipeArguments, argv, description, default_preset)
    reports = [play(args, one, task, load) for one in in_a_row(config, args.seeds)]
    if args.seeds > 1:
        print(f"\n{args.seeds} seeds, mean and standard deviation:\n{seeds_table(reports)}")


def play(
    args: TextRecipeArguments,
    config: SeqGANConfig,
    task: Task,
    load: Callable[[TextRecipeArguments, int], DatasetDict] = load_splits,
) -> dict[str, Any]:
    """
    Run both stages, maximum likelihood and SeqGAN, and the controls asked for, and report each on the test split.

    Args:
        args (`TextRecipeArguments`): Texts, networks, and settings of the first stage and of the report.
        config (`SeqGANConfig`): Settings of the game. Of a finished run that is resumed nothing is done again.
        task (`Task`): What is measured.
        load (`Callable`): From the recipe's settings and a seed to the texts, in the splits of `load_splits`.

    Returns:
        `dict`: what `output_dir/metrics.json` holds.
    """
    if before := finished_report(config):
        print(f"{config.output_dir} is finished.")
        return before
    write_config(args, config)
    splits = usable_texts(load(args, config.seed), args, config, task)
    networks = load_networks(args, config, splits["train"])
    generator, first_stage = likelihood_stage(
        args, config, networks.generator, splits["train"], splits["validation"], networks.tokenizer, networks.loading
    )
    text_format = TextFormat.from_model(generator, networks.tokenizer, config.max_completion_length)
    discriminator, seconds = networks.discriminator, 0.0
    if discriminator is None:
        discriminator, seconds = scratch_discriminator(
            args, config, generator, text_format, splits["train"], splits["validation"], networks.tokenizer
        )
    trainer = new_trainer(config, splits, networks, generator, copy.deepcopy(discriminator))
    trainer.card |= what_the_card_says(args, config, splits)
    bench = Bench(args, task, trainer, splits)
    folder = Path(config.output_dir)
    curves = {"MLE": kept_curve(folder / "mle" / "curve.json", bench.what(), lambda: bench.curve(trainer))}

    def play_control(control: str) -> list[dict[str, Any]]:
        print(f"\nControl: SeqGAN with the reward {control}.", flush=True)
        own_config = config_of_control(config, control)
        own_generator = load_generator(str(folder / "mle"), **networks.loading)
        other = new_trainer(own_config, splits, networks, own_generator, copy.deepcopy(discriminator))
        play_game(other)
        return bench.curve(other)

    for control in args.controls:
        path = Path(config_of_control(config, control).output_dir) / "curve.json"
        if not config.resume_from_checkpoint:
            path.unlink(missing_ok=True)
        curves[f"SeqGAN, reward {control}"] = kept_curve(path, bench.what(), functools.partial(play_control, control))
    cpu_seconds = {"mle": first_stage.get("cpu_seconds"), "language_models": seconds, "game": play_game(trainer)}
    curves["SeqGAN"] = bench.curve(trainer)
    samples = point_at_1(curves["SeqGAN"])["samples"]
    nearest = bench.nearest(samples)
    # Apart from what is pushed, as these are real texts.
    pairs = [{"sample": sample, "nearest": text} for sample, text in zip(samples, nearest, strict=True)]
    (folder / "nearest.json").write_text(json.dumps(pairs, indent=1, ensure_ascii=False), encoding="utf-8")
    report = {
        "stages": bench.stages(curves),
        "curves": curves,
        "first_stage": first_stage,
        "discriminator": bench.verdict(trainer),
        "cpu_seconds": cpu_seconds,
        "samples": samples,
        "texts": bench.measures.digest(),
        "settings": publishable(dataclasses.asdict(args)) | game_settings(config),
    }
    if is_matplotlib_available():
        bench.draw(curves, folder / "quality_diversity.png")
    finish(trainer, report, task.caption(), nearest)
    if task.write:
        real = bench.real[:NUM_SHOWN]
        task.write(folder, {"real": real} | {name: point_at_1(curves[name])["samples"] for name in ("MLE", "SeqGAN")})
    return report


def usable_texts(splits: DatasetDict, args: TextRecipeArguments, config: SeqGANConfig, task: Task) -> DatasetDict:
    """
    Bring texts into the form of a task, and leave out those that do not fit it.

    Args:
        splits (`DatasetDict`): From `load_splits`.
        args (`TextRecipeArguments`): Says whether all texts have one length.
        config (`SeqGANConfig`): Says which.
        task (`Task`): Says what a text looks like.

    Returns:
        `DatasetDict`: the same splits.

    Raises:
        ValueError: If nothing is left of a split, or the texts have prompts, which a task does not change.
    """
    if task.clean is None and not args.fixed_length:
        return splits
    length = config.max_completion_length if args.fixed_length else None
    usable = {}
    for name, texts in splits.items():
        if texts.column_names != ["text"]:
            raise ValueError(f"`{args.dataset_name}` must have plain texts for this recipe; got {texts.column_names}.")
        cleaned = [(task.clean or str)(text) for text in texts["text"]]
        kept = [text for text in cleaned if text and length in (None, len(task.tokens(text)))]
        if not kept:
            what = f"no text of exactly {length} tokens" if length else "no usable text"
            raise ValueError(
                f"The split `{name}` of `{args.dataset_name}` has {what}; the first is {cleaned[0][:60]!r}. Check the "
                "dataset, `tokenizer` and `max_completion_length`."
            )
        if len(kept) < len(texts):
            print(f"{name}: {len(kept):,} of {len(texts):,} texts are usable.", flush=True)
        usable[name] = Dataset.from_dict({"text": kept}, split=texts.split)
    return DatasetDict(usable)


def new_trainer(
    config: SeqGANConfig,
    splits: DatasetDict,
    networks: Networks,
    generator: PreTrainedModel,
    discriminator: PreTrainedModel,
) -> SeqGANTrainer:
    """Return the trainer of a game between two networks on a recipe's texts."""
    return SeqGANTrainer(
        model=generator,
        discriminator=discriminator,
        args=config,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=networks.tokenizer,
        discriminator_processing_class=networks.discriminator_tokenizer,
    )


def config_of_control(config: SeqGANConfig, control: str) -> SeqGANConfig:
    """Return the settings of the same game with a control instead of the reward, in a folder of its own."""
    other = copy.copy(config)
    other.reward_control = control
    other.output_dir = str(Path(config.output_dir) / f"control_{control}")
    other.push_to_hub = False
    return other


def play_game(trainer: SeqGANTrainer) -> float | None:
    """Play a game, from its last checkpoint if asked; return its CPU seconds, `None` where a part was played before."""
    announce_game(trainer.args)
    set_seed(trainer.args.seed)
    checkpoint = which_checkpoint(trainer.args)
    began = time.process_time()
    trainer.train(resume_from_checkpoint=checkpoint)
    return None if checkpoint else time.process_time() - began


def point_at_1(curve: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the point of the model itself."""
    (point,) = [point for point in curve if point["temperature"] == 1]
    return point


class Bench:
    """
    Where the generators of one run are measured, all alike.

    Args:
        args (`TextRecipeArguments`): Temperatures, and how many samples.
        task (`Task`): What is measured.
        trainer (`SeqGANTrainer`): Prepares texts as the game does.
        splits (`DatasetDict`): Texts to train on, to stop by and to test on.
    """

    def __init__(self, args: TextRecipeArguments, task: Task, trainer: SeqGANTrainer, splits: DatasetDict) -> None:
        self.args, self.task, self.tokenizer = args, task, trainer.processing_class
        prepared = {
            name: list(prepare_dataset(splits[name], self.tokenizer, trainer.text_format, f"{name}_dataset"))
            for name in ("train", "validation", "test")
        }
        self.pad_token_id = trainer.text_format.pad_token_id
        self.rows = prepared["test"]
        strings = {name: self._strings(rows) for name, rows in prepared.items()}
        self.real = strings["validation"]
        self.training_texts = strings["train"]
        compared = min(args.num_test_samples, len(self.real))
        self.measures = TextMeasures(task, strings["test"], self.training_texts, compared)
        self.of_real = self.measures.of(self.real)

    def _strings(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        texts = Completions.collate(rows, self.pad_token_id)
        return decode_ids(texts.completion_ids, texts.completion_mask, self.tokenizer)

    def what(self) -> dict[str, Any]:
        """Say what a curve is measured on: figures compare where this is the same."""
        return {
            "texts": self.measures.digest(),
            "num_samples": self.args.num_test_samples,
            "temperatures": self.args.temperatures,
        }

    def curve(self, trainer: SeqGANTrainer) -> list[dict[str, Any]]:
        """
        Measure a trainer's generator at each temperature.

        Args:
            trainer (`SeqGANTrainer`): Holds it. Where the test texts have prompts, samples complete these.

        Returns:
            `list[dict]`: `temperature`; `nll` of the test texts, nats per token; the metrics of [`TextMeasures`] of fresh
            samples, from the run's seed; and `samples`, the first ten.
        """
        model, text_format, num_samples = trainer.model, trainer.text_format, self.args.num_test_samples
        temperatures = self.args.temperatures
        batch_size = trainer.args.per_device_eval_batch_size
        nlls = nll_at_temperatures(model, self.rows, self.pad_token_id, temperatures, batch_size)
        prompts = [self.rows[index * len(self.rows) // num_samples]["prompt_ids"] for index in range(num_samples)]
        at_once = trainer.rows_at_once(max(map(len, prompts)))
        curve: list[dict[str, Any]] = []
        for temperature, nll in zip(temperatures, nlls, strict=True):
            sampled = complete_prompts(model, prompts, text_format, trainer.args.seed, temperature, at_once)
            samples = decode_ids(sampled.completion_ids, sampled.completion_mask, self.tokenizer)
            point = {"temperature": temperature, "nll": nll} | self.measures.of(samples)
            curve.append(point | {"samples": samples[:NUM_SHOWN]})
        return curve

    def stages(self, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
        """
        Return the rows of the printed table.

        Args:
            curves (`Mapping`): For `MLE`, `SeqGAN` and its controls what [`curve`] returned.

        Returns:
            `dict`: `MLE`; `MLE, best temperature`, at which it writes best without being more uniform than real texts;
            `MLE, matched temperature`, at which it writes as well as `SeqGAN`, if there is one; `SeqGAN`; the controls;
            `real texts`, the validation texts, measured as samples are.
        """
        task, mle = self.task, curves["MLE"]
        rows = {"MLE": point_at_1(mle)}
        limit = self.of_real[task.sameness]
        rows["MLE, best temperature"] = best_temperature(mle, task.quality, task.sameness, limit)
        after = point_at_1(curves["SeqGAN"])
        matched = temperature_where(mle, task.quality, after[task.quality])
        if matched is not None:
            rows["MLE, matched temperature"] = point_between(mle, matched)
        rows["SeqGAN"] = after
        rows |= {name: point_at_1(curve) for name, curve in curves.items() if name not in ("MLE", "SeqGAN")}
        rows["real texts"] = self.of_real
        return {
            name: {metric: value for metric, value in point.items() if metric != "samples"}
            for name, point in rows.items()
        }

    def verdict(self, trainer: SeqGANTrainer) -> dict[str, float]:
        """Return what a trainer's discriminator knows: its accuracies and AUC on test texts and fresh completions."""
        rows = self.rows[: self.args.num_test_samples]
        real = Completions.collate(rows, self.pad_token_id)
        prompts = [row["prompt_ids"] for row in rows]
        at_once = trainer.rows_at_once(max(map(len, prompts)))
        generated = complete_prompts(trainer.model, prompts, trainer.text_format, trainer.args.seed, 1.0, at_once)
        return trainer.discriminator.evaluate(real, generated)

    def nearest(self, samples: Sequence[str]) -> list[str]:
        """Return for each sample the training text that shares most with it."""
        training = [self.task.tokens(text) for text in self.training_texts]
        return [self.training_texts[nearest_text(self.task.tokens(text), training)] for text in samples]

    def draw(self, curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
        """Draw the curves on the plane of quality and sameness, with the real texts."""
        real = [{"temperature": 1.0, **self.of_real}]
        order = self.task.order
        plot_quality_and_diversity(
            {**curves, "real texts": real},
            path,
            "Up and to the left is better; each curve runs over the temperature",
            (self.task.sameness, f"self-BLEU-{order} (how much alike samples are)"),
            (self.task.quality, f"BLEU-{order} against held-out texts"),
        )


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
