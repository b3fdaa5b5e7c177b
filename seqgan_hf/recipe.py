"""What recipes share: their settings, the stage of maximum likelihood, runs in a row, what is printed and kept."""

import copy
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import is_matplotlib_available

from .adapters import embedding_rows
from .arguments import SyntheticRecipeArguments, TextRecipeArguments
from .checkpoints import checkpoints_in, last_checkpoint, write_whole
from .completions import one_line
from .config import SeqGANConfig
from .data import AnyDataset, TextFormat
from .evaluation import stages_table
from .flags import parse_config
from .hub import create_repository
from .launch import check_launch
from .loading import load_generator
from .models import (
    LikelihoodRatioForSequenceClassification,
    LSTMConfig,
    LSTMForCausalLM,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from .pretraining import pretrain_generator
from .processes import from_first, is_first, meet
from .published import game_settings
from .redaction import is_secret, publishable
from .stages import SEQGAN
from .streams import generator_and_discriminator_folds
from .trainer import SeqGANTrainer

# What may change between calls of one run: it is measured again, or plays a game more.
_MEASURED = {"controls", "temperatures", "sample_temperature", "rival_temperature", "num_test_samples", "game"}


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
    if config.push_to_hub and getattr(args, "seeds", 1) > 1:
        raise ValueError("`push_to_hub` takes one run to one repository; leave it out, or set `seeds` to 1.")
    if not is_first():
        sys.stdout = open(os.devnull, "w")
    if config.push_to_hub and is_first():  # before hours of training, not after
        create_repository(
            config.hub_model_id,
            str(config.output_dir),
            config.hub_token,
            config.hub_private_repo,
            config.hub_revision,
        )
    check_launch(config)
    set_seed(config.seed)
    return args, config


def likelihood_stage(
    args: TextRecipeArguments | SyntheticRecipeArguments,
    config: SeqGANConfig,
    generator: PreTrainedModel,
    train: AnyDataset,
    validation: AnyDataset,
    tokenizer: PreTrainedTokenizerBase | None = None,
    loading: dict[str, Any] | None = None,
    name: str = "mle",
) -> tuple[PreTrainedModel, dict[str, float]]:
    """
    Train a recipe's generator by maximum likelihood and keep it in `output_dir/<name>`; a resumed run takes
    it from there.

    Args:
        args (`TextRecipeArguments` or `SyntheticRecipeArguments`): Settings of this stage.
        config (`SeqGANConfig`): Settings of the game, which say what texts this stage may see, in what precision and
            on what device it runs.
        generator (`PreTrainedModel`): Trained in place.
        train, validation (`Dataset`): Real texts.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Kept beside it.
        loading (`dict`, *optional*): Arguments with which the generator is loaded again.
        name (`str`): Of the folder.

    Returns:
        `tuple`: the generator, and the metrics of [`pretrain_generator`] with the `cpu_seconds` that it took.
    """
    folder = Path(config.output_dir) / name
    if from_first(lambda: is_resumed(config) and (folder / "metrics.json").is_file()):
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return load_generator(str(folder), **loading or {}), metrics
    (texts, *_), _ = generator_and_discriminator_folds(
        train, config.discriminator_data, config.seed, config.discriminator_share
    )
    stage = "Stage 1 of 2: maximum" if name == "mle" else "Maximum"
    print(f"\n{stage} likelihood on {len(texts):,} texts.", flush=True)
    began = time.process_time()
    progress = Path(config.output_dir) / f"{name}_checkpoints"
    metrics = pretrain_generator(
        generator,
        texts,
        validation,
        tokenizer,
        progress,
        config.max_completion_length,
        config.long_texts,
        epochs=args.mle_epochs,
        learning_rate=args.mle_learning_rate,
        batch_size=args.mle_batch_size,
        patience=args.mle_patience,
        seed=config.seed,
        weight_decay=args.mle_weight_decay,
        disable_tqdm=config.disable_tqdm,
        # accelerate keeps one precision and one device for all of a process.
        **{setting: getattr(config, setting) for setting in ("bf16", "fp16", "tf32", "use_cpu")},
    )
    metrics["cpu_seconds"] = time.process_time() - began
    meet()  # all have read what they need
    if is_first():
        shutil.rmtree(progress, ignore_errors=True)  # the best state is in the model
        shutil.rmtree(folder, ignore_errors=True)  # a whole model and an adapter would not go together
        generator.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        write_whole(folder / "metrics.json", json.dumps(metrics))  # the last: it says that all of it is there
    meet()
    # Read back, as a resumed run does: weights of a file lie otherwise in memory, and sums may round otherwise.
    return load_generator(str(folder), **loading or {}), metrics


def scratch_discriminator(
    args: TextRecipeArguments | SyntheticRecipeArguments,
    config: SeqGANConfig,
    generator: PreTrainedModel,
    text_format: TextFormat,
    train: AnyDataset,
    validation: AnyDataset,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """
    Make the discriminator of a run, and train the language models that it may read with.

    Args:
        args (`TextRecipeArguments` or `SyntheticRecipeArguments`): Which one, and its sizes.
        config (`SeqGANConfig`): Settings of the game.
        generator (`PreTrainedModel`): After its first stage; a likelihood ratio reads with a copy of it.
        text_format (`TextFormat`): The generator's special tokens.
        train, validation (`Dataset`): Real texts.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The generator's, where these are strings.

    Returns:
        `tuple`: the paper's CNN or a likelihood ratio, and for each of its language models what [`likelihood_stage`]
        says of it.
    """
    vocab_size = embedding_rows(generator)
    set_seed(config.seed)  # a resumed run takes the generator from disk, and draws the same
    if args.discriminator == "cnn":
        return TextCNNForSequenceClassification(
            TextCNNConfig(vocab_size=vocab_size, pad_token_id=text_format.pad_token_id)
        ), []
    size = args.language_model_size
    shape = LSTMConfig(
        vocab_size=vocab_size,
        bos_token_id=text_format.start_token_id,
        embedding_size=size,
        hidden_size=size,
        dropout=args.language_model_dropout,
    )
    readers, trained = [generator], []
    for number in range(1, args.language_models + 1):
        print(f"\nLanguage model {number} of {args.language_models}, for the discriminator to read with.", flush=True)
        set_seed(config.seed + 1000 * number)
        settings = dataclasses.replace(args, mle_weight_decay=args.language_model_weight_decay)
        model, metrics = likelihood_stage(
            settings, config, LSTMForCausalLM(shape), train, validation, tokenizer, name=f"mle_{number}"
        )
        readers.append(model)
        trained.append(metrics)
    classifier = LikelihoodRatioForSequenceClassification.from_language_models(
        readers,
        start_token_id=text_format.start_token_id,
        pad_token_id=text_format.pad_token_id,
        hidden_size=args.ratio_hidden_size,
        generator_hidden_size=args.hidden_size if args.ratio_hidden_size else 0,
        dropout=args.language_model_dropout,
    )
    return classifier, trained


def likelihood_seconds(
    first_stage: Mapping[str, float], language_models: Sequence[Mapping[str, float]]
) -> dict[str, float | None]:
    """
    Return the CPU seconds that the stages before the game took.

    Args:
        first_stage (`Mapping`): What [`likelihood_stage`] says of the generator.
        language_models (`Sequence[Mapping]`): What it says of those that the discriminator reads with.

    Returns:
        `dict`: `mle`, which is `None` where it is not known, and `language_models`, the sum over them, 0 without any.
    """
    return {
        "mle": first_stage.get("cpu_seconds"),
        "language_models": sum(one.get("cpu_seconds", 0.0) for one in language_models),
    }


def kept_curve(
    path: Path, measured: dict[str, Any], measure: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """
    Measure a model's curve, unless the file beside its weights has it already. All processes measure at once.

    Args:
        path (`Path`): Of that file, which goes when the weights are replaced.
        measured (`dict`): On what oracle, how much, from what seed; a curve of anything else is measured anew.
        measure (`Callable`): Takes the curve.

    Returns:
        `list[dict]` as `measure` returned it.
    """
    kept = from_first(lambda: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None)
    if kept is not None and kept["measured"] == measured:
        curve: list[dict[str, Any]] = kept["curve"]
        return curve
    curve = measure()
    write_whole(path, json.dumps({"measured": measured, "curve": curve}, indent=1))
    return curve


def is_resumed(config: SeqGANConfig) -> bool:
    """Tell whether a run goes on with what its `output_dir` holds."""
    return str(config.resume_from_checkpoint).lower() not in ("none", "false")


def settings_of(args: Any, config: SeqGANConfig) -> dict[str, Any]:
    """Return the settings of a run that may be public, as `metrics.json` holds them."""
    settings: dict[str, Any] = json.loads(json.dumps(publishable(dataclasses.asdict(args)) | game_settings(config)))
    return settings


def begin(args: Any, config: SeqGANConfig) -> dict[str, Any] | None:
    """
    Look at what `output_dir` holds, and keep the settings of this run there.

    What an earlier run left is never taken for this one's: a new run does away with its report, its first stage and its
    controls, and refuses checkpoints that it might resume later.

    Args:
        args (`Any`): The recipe's dataclass.
        config (`SeqGANConfig`): The game's.

    Returns:
        `dict`, *optional*: the report of a finished run that is resumed, and has nothing to be done again.

    Raises:
        ValueError: If the folder holds checkpoints and is not resumed, or is of a finished run with other settings.
    """
    folder = Path(config.output_dir)
    path = folder / "metrics.json"
    report = None
    if is_resumed(config):
        report = _finished_report(path, settings_of(args, config))
        if config.push_to_hub:  # what is finished may not be there yet
            report = None
    else:
        if earlier := checkpoints_in(folder):
            raise ValueError(
                f"`output_dir` {folder} holds {earlier[-1].name} of an earlier run. Pass `--resume_from_checkpoint true` "
                "to go on with that run, or another `--output_dir`, or remove it."
            )
        meet()  # each has looked
        if is_first():
            path.unlink(missing_ok=True)
            for old in (*folder.glob("mle*/metrics.json"), *folder.glob("control_*")):
                shutil.rmtree(old.parent if old.is_file() else old)
        meet()
    if report is None:
        write_config(args, config)
    return report


def _finished_report(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a finished run, unless there is more to do or measure now."""
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    before = report["settings"]
    changed = {name for name, value in settings.items() if name in before and before[name] != value} - {"seeds"}
    if wrong := sorted(changed - _MEASURED):
        changes = ", ".join(f"{name} {before[name]!r}, now {settings[name]!r}" for name in wrong)
        raise ValueError(
            f"{path.parent} is finished, with other settings: {changes}. Give another `--output_dir`, or leave out "
            "`--resume_from_checkpoint` to begin anew."
        )
    saved = SEQGAN not in report["stages"] or (path.parent / "discriminator").is_dir()
    return report if saved and not changed else None


def in_a_row(config: SeqGANConfig, seeds: int) -> Iterator[SeqGANConfig]:
    """
    Yield the settings of runs that differ in nothing but their seed, and seed everything for each.

    Args:
        config (`SeqGANConfig`): Of the first.
        seeds (`int`): How many runs.

    Yields:
        `SeqGANConfig`: of a single run as it is; of several each with a folder `seed_<number>` of its own.

    Raises:
        ValueError: If several would resume one checkpoint.
    """
    if seeds > 1 and str(config.resume_from_checkpoint).lower() not in ("none", "true"):
        raise ValueError(
            f"`resume_from_checkpoint` must be `true` where there are several seeds, each with checkpoints of its own; "
            f"got {config.resume_from_checkpoint}."
        )
    for seed in range(config.seed, config.seed + seeds):
        one = copy.copy(config)
        one.seed = seed
        if seeds > 1:
            one.output_dir = str(Path(config.output_dir) / f"seed_{seed}")
            print(f"\nSeed {seed}, {seed - config.seed + 1} of {seeds}.", flush=True)
        set_seed(seed)
        yield one


def write_config(args: Any, config: SeqGANConfig) -> None:
    """
    Keep the settings of a run as `output_dir/config.yaml`, which a recipe reads back to the same run.

    Args:
        args (`Any`): The recipe's dataclass.
        config (`SeqGANConfig`): The game's.
    """
    # Another start of this run is not a resumption of it, and it is one of its seeds.
    left_out = ("resume_from_checkpoint", "seeds")
    settings: dict[str, Any] = {}
    for part in (args, config):
        for option in dataclasses.fields(part):
            default = option.default_factory() if callable(option.default_factory) else option.default
            value = getattr(part, option.name, None)
            if not option.init or value == default or is_secret(option.name) or option.name in left_out:
                continue
            if (written := _as_yaml(value)) not in (None, [], {}):
                settings[option.name] = written
    write_whole(Path(config.output_dir) / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def _as_yaml(value: Any) -> Any:
    """Return a setting as a YAML file holds it; what it cannot hold is `None`."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str(Path(value).resolve())  # there such a path is one beside the file
    if isinstance(value, str) and "://" in value:
        return publishable({"url": value})["url"]  # without credentials
    if isinstance(value, list):
        return [_as_yaml(part) for part in value]
    if isinstance(value, dict):
        return {name: _as_yaml(part) for name, part in value.items() if not is_secret(str(name))}
    return value if isinstance(value, (str, int, float, bool)) else None


def seeds_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """
    Lay out the stages of runs that differ in their seed for a terminal.

    Args:
        reports (`Sequence[Mapping]`): What their metrics.json hold; at least two.

    Returns:
        `str`: a header, and for each stage that all runs have a line with mean and standard deviation of each metric
        that all have there.
    """
    stages = {
        stage: {
            heading: summary([report["stages"][stage][name] for report in reports])
            for name in metrics
            if all(name in report["stages"][stage] for report in reports)
            for heading, summary in ((name, statistics.fmean), (f"+- {name.removeprefix('NLL_')}", statistics.stdev))
        }
        for stage, metrics in reports[0]["stages"].items()
        if all(stage in report["stages"] for report in reports)
    }
    return stages_table(stages)


def announce_game(config: SeqGANConfig) -> None:
    """Say that the second stage begins, and how long it is."""
    length = f"{config.max_steps} updates of the generator"
    if config.max_steps <= 0:
        length = f"{config.num_train_epochs:g} epochs"
    print(f"\nStage 2 of 2: SeqGAN, {length}.", flush=True)


def which_checkpoint(config: SeqGANConfig) -> str | None:
    """
    Return what `--resume_from_checkpoint` asks for: a path, or for `true` the last complete checkpoint in `output_dir`.

    Where there is none yet, a run was interrupted before its first, and the game starts from its beginning.
    """
    asked = config.resume_from_checkpoint
    if str(asked).lower() != "true":
        return asked if is_resumed(config) else None
    last = from_first(lambda: last_checkpoint(config.output_dir))
    if last is None:
        print(f"{config.output_dir} holds no complete checkpoint: the game starts from its beginning.", flush=True)
    return None if last is None else str(last)


def finish(
    trainer: SeqGANTrainer,
    report: dict[str, Any],
    caption: str,
    nearest: Sequence[str | None] | None = None,
    temperature: float = 1.0,
) -> None:
    """
    Print the table and samples, save a run's pair with its card and report in `output_dir`, and push if asked.

    Args:
        trainer (`SeqGANTrainer`): After training.
        report (`dict`): `stages` for the table, `samples` to show, and what else to keep in `metrics.json`.
        caption (`str`): Says what the table's figures are.
        nearest (`Sequence[str]`, *optional*): For each sample the training text that is most like it.
        temperature (`float`): Of the samples.

    Raises:
        PushError: If the push failed and `hub_push_required` is set; all is saved and printed before.
    """
    output_dir = Path(trainer.args.output_dir)
    write_whole(output_dir / "metrics.json", json.dumps(report, indent=1, ensure_ascii=False))
    tqdm.write(f"\n{caption}")
    tqdm.write(stages_table(report["stages"]))
    if report["samples"]:
        tqdm.write("\nSamples:" if temperature == 1 else f"\nSamples, at a temperature of {temperature:g}:")
    for sample, real in itertools.zip_longest(report["samples"], nearest or []):
        tqdm.write(f"  - {one_line(sample)}")
        if real is not None:
            tqdm.write(f"      nearest in training: {one_line(real)}")
    trainer.card["stages"] = report["stages"]
    trainer.save_model()  # with its card and curves, and pushes, if asked
    drawn = "(pip install 'seqgan_hf[plots]' to have the learning curves drawn)"
    if is_matplotlib_available():
        drawn = str(output_dir / "curves.png")
    tqdm.write(
        f"\nSaved: generator in {output_dir}, its discriminator in {output_dir / 'discriminator'}, metrics.json."
    )
    tqdm.write(f"Learning curves: {drawn}")
    if trainer.last_push is not None:
        tqdm.write(f"Pushed: {constants.ENDPOINT}/{trainer.hub_model_id}")
    for failure in trainer.failed_pushes:
        tqdm.write(f"\n{failure}")
