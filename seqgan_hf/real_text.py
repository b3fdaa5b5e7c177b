"""A game on real text: both stages and the controls, each measured on texts that none has seen, over the temperature."""

import copy
import dataclasses
import gc
import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import set_seed
from transformers.utils import is_matplotlib_available

from .arguments import TextRecipeArguments
from .bench import NUM_SHOWN, Bench, keep_nearest, point_at
from .config import SeqGANConfig
from .corpora import load_splits
from .data import TextFormat
from .loading import load_generator
from .networks import Networks, load_networks
from .processes import is_first
from .published import base_model_of, game_settings
from .recipe import (
    announce_game,
    begin,
    finish,
    in_a_row,
    is_resumed,
    kept_curve,
    likelihood_seconds,
    likelihood_stage,
    scratch_discriminator,
    seeds_table,
    settings_of,
    start,
    which_checkpoint,
)
from .stages import CONTROL, MLE, SEQGAN
from .text_measures import Task
from .trainer import SeqGANTrainer

_FEWEST = {"train": 2, "validation": 2, "test": 2}  # self-BLEU compares texts with each other
_BUNDLED = {
    "sample_speech.txt": "420 sentences that come with seqgan_hf",
    **{f"sample_{name}.txt": f"400 {name} that come with seqgan_hf" for name in ("captions", "melodies", "quatrains")},
}


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
    if before := begin(args, config):
        print(f"{config.output_dir} is finished.")
        return before
    splits = usable_texts(load(args, config.seed), args, config, task)
    networks = load_networks(args, config, splits["train"], task.alphabet)
    networks.generator, first_stage = likelihood_stage(
        args, config, networks.generator, splits["train"], splits["validation"], networks.tokenizer, networks.loading
    )
    text_format = TextFormat.from_model(networks.generator, networks.tokenizer, config.max_completion_length)
    trained: list[dict[str, float]] = []
    if networks.discriminator is None:
        networks.discriminator, trained = scratch_discriminator(
            args, config, networks.generator, text_format, splits["train"], splits["validation"], networks.tokenizer
        )
    # Controls begin with what the game begins with.
    untrained = copy.deepcopy(networks.discriminator) if args.controls else None
    trainer = new_trainer(config, splits, networks)
    trainer.card |= what_the_card_says(args, config, splits)
    bench = Bench(args, task, trainer, splits)
    folder = Path(config.output_dir)
    curves = {MLE: kept_curve(folder / "mle" / "curve.json", bench.what(), lambda: bench.curve(trainer))}
    for control in args.controls:
        others = dataclasses.replace(networks, discriminator=untrained)
        curves[f"{CONTROL}{control}"] = curve_of_control(control, config, splits, others, bench)
    cpu_seconds = likelihood_seconds(first_stage, trained) | {"game": play_game(trainer)}
    curves[SEQGAN] = bench.curve(trainer)
    rival = rival_of_equal_quality(trainer, networks, bench, curves)
    shown = {name: point_at(curves[name], args.sample_temperature)["samples"] for name in (MLE, SEQGAN)}
    report = {
        "stages": bench.stages(curves, rival),
        "curves": curves,
        "first_stage": first_stage,
        "language_models": trained,
        "discriminator": bench.verdict(trainer),
        "cpu_seconds": cpu_seconds,
        "samples": shown[SEQGAN],
        "texts": bench.measures.digest,
        "settings": settings_of(args, config),
    }
    if is_first() and is_matplotlib_available():
        bench.draw(curves, folder / "quality_diversity.png")
    if task.write and is_first():
        task.write(folder, {"real": bench.real[:NUM_SHOWN]} | shown)
    nearest = keep_nearest(bench, shown[SEQGAN], folder / "nearest.json")
    finish(trainer, report, task.caption(), nearest, args.sample_temperature)
    return report


def curve_of_control(
    control: str, config: SeqGANConfig, splits: DatasetDict, networks: Networks, bench: Bench
) -> list[dict[str, Any]]:
    """
    Play the game again with a control instead of the reward, and measure where it ends; a resumed run has that already.

    Args:
        control (`str`): `constant`, `shuffled` or `random`.
        config (`SeqGANConfig`): Settings of the game.
        splits (`DatasetDict`): Its texts.
        networks (`Networks`): Its untrained discriminator; the generator is that of `output_dir/mle`.
        bench (`Bench`): Measures it.

    Returns:
        `list[dict]`: as [`Bench.curve`].
    """
    own_config = config_of_control(config, control)

    def play_and_measure() -> list[dict[str, Any]]:
        print(f"\nControl: SeqGAN with the reward {control}.", flush=True)
        generator = load_generator(str(Path(config.output_dir) / "mle"), **networks.loading)
        discriminator = copy.deepcopy(networks.discriminator)
        trainer = new_trainer(
            own_config, splits, dataclasses.replace(networks, generator=generator, discriminator=discriminator)
        )
        play_game(trainer)
        return bench.curve(trainer)

    game = json.loads(json.dumps(game_settings(own_config)))
    curve = kept_curve(Path(own_config.output_dir) / "curve.json", bench.what() | {"game": game}, play_and_measure)
    gc.collect()  # a trainer refers to itself, and its networks would stay where the next ones go
    return curve


def rival_of_equal_quality(
    trainer: SeqGANTrainer, networks: Networks, bench: Bench, curves: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any] | None:
    """
    Measure the generator before the game at the temperature at which it writes as well as after it.

    Args:
        trainer (`SeqGANTrainer`): After the game, with the generator before it in `output_dir/mle`.
        networks (`Networks`): Say how that is loaded.
        bench (`Bench`): Measures it.
        curves (`Mapping`): For `MLE` and `SeqGAN` what [`Bench.curve`] returned.

    Returns:
        `dict`, *optional*: a point as of [`Bench.curve`]; `None` if there is no such temperature.
    """
    temperature = bench.matched_temperature(curves)
    if temperature is None:
        return None
    generator = load_generator(str(Path(trainer.args.output_dir) / "mle"), **networks.loading)
    (point,) = bench.curve(trainer, generator.to(trainer.model.device), [temperature])
    return point


def usable_texts(splits: DatasetDict, args: TextRecipeArguments, config: SeqGANConfig, task: Task) -> DatasetDict:
    """
    Bring plain texts into the form of a task, and leave out what does not fit it or stands in an earlier split, too.

    Args:
        splits (`DatasetDict`): From `load_splits`; those with prompts or messages stay as they are.
        args (`TextRecipeArguments`): Says whether all texts have one length.
        config (`SeqGANConfig`): Says which.
        task (`Task`): Says what a text looks like.

    Returns:
        `DatasetDict`: the same splits.

    Raises:
        ValueError: If too little is left of a split.
    """
    if splits["train"].column_names != ["text"]:
        return splits
    length = config.max_completion_length if args.fixed_length else None
    usable: dict[str, Dataset] = {}
    known: set[str] = set()
    for name in ("train", "validation", "test"):
        texts = splits[name]["text"]
        cleaned = [(task.clean or str)(text) for text in texts]
        fitting = [text for text in cleaned if text and length in (None, len(task.tokens(text)))]
        kept = [text for text in fitting if text not in known]
        if len(kept) < len(cleaned):
            print(
                f"{name}: {len(kept):,} of {len(cleaned):,} texts are taken; {len(cleaned) - len(fitting):,} have "
                f"another form, {len(fitting) - len(kept):,} stand in an earlier split.",
                flush=True,
            )
        if len(kept) < _FEWEST[name]:
            what = f"of exactly {length} tokens" if length else "that can be used"
            raise ValueError(
                f"The split `{name}` of `{args.dataset_name}` has {len(kept)} texts {what}, and at least {_FEWEST[name]} "
                f"are needed; the first is {cleaned[0][:60]!r}. Check the dataset, `tokenizer` and "
                "`max_completion_length`."
            )
        usable[name] = Dataset.from_dict({"text": kept}, split=splits[name].split)
        known.update(kept)
    return DatasetDict(usable)


def new_trainer(config: SeqGANConfig, splits: DatasetDict, networks: Networks) -> SeqGANTrainer:
    """Return the trainer of a game between two networks on a recipe's texts."""
    assert networks.discriminator is not None
    return SeqGANTrainer(
        model=networks.generator,
        discriminator=networks.discriminator,
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
    if is_resumed(config):
        other.resume_from_checkpoint = "true"  # its own, not that of the game
    return other


def play_game(trainer: SeqGANTrainer) -> float | None:
    """Play a game, from its last checkpoint if asked; return its CPU seconds, `None` where a part is not known."""
    announce_game(trainer.args)
    set_seed(trainer.args.seed)
    checkpoint = which_checkpoint(trainer.args)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer.cpu_seconds


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
    if Path(args.dataset_name).name in _BUNDLED:
        said["dataset"] = _BUNDLED[Path(args.dataset_name).name]
    elif "://" in args.dataset_name:
        where = urllib.parse.urlparse(args.dataset_name)
        said["dataset"] = f"the file {Path(where.path).name} from {where.hostname}"
    elif not Path(args.dataset_name).exists():
        names = {"dataset": args.dataset_name, "dataset_config": args.dataset_config}
        said |= names | {"dataset_revision": args.dataset_revision}
    if not args.from_scratch:
        said["finetuned_from"] = base_model_of(args.model_name_or_path)
    return said
