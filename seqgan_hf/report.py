"""What a finished or running game says of itself: read from its folder, and found out by its networks."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .arguments import SyntheticRecipeArguments, TextRecipeArguments
from .callbacks import COMPLETIONS_FOLDER
from .checkpoints import DISCRIMINATOR_FOLDER, checkpoints_in
from .completions import Completions, decode_ids, one_line
from .config import SeqGANConfig
from .data import TextFormat
from .generation import sampling_config
from .loading import find_tokenizer, load_generator
from .plots import read_log_history
from .randomness import SAMPLES, derived_keys, named_key
from .redaction import is_secret, publishable
from .rewards import rewards_of_scores
from .rollout import score_rollouts
from .samples import complete_prompts, encode_prompt, load_saved_discriminator

_ROLLOUTS_OF_A_TOKEN = 16
_ROWS_AT_ONCE = 256


logger = logging.get_logger(__name__)


@dataclass
class Run:
    """
    A run, as its `output_dir` tells of it.

    Args:
        name (`str`): The folder's.
        folder (`Path`): The `output_dir`.
        settings (`dict`): Of the game, and of the recipe where one was run.
        history (`list[dict]`): What was logged.
        stages (`dict`): The rows of the recipe's table; empty where there was none, or it is not finished.
        curves (`dict`): What they were over the temperature.
        nearest (`list[dict]`): Samples, each with the training text that is most like it.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    history: list[dict[str, Any]]
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    nearest: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Token:
    """A token of a sample as it is spelt, and its reward, P(real) of what it was finished to, in [0, 1]."""

    text: str
    reward: float


@dataclass
class Verdict:
    """A fresh sample, P(real) of the whole, and its tokens."""

    score: float
    tokens: list[Token]


@dataclass
class Findings:
    """
    What the networks of a run were asked.

    Args:
        over_training (`dict`): By the name of a stage, from maximum likelihood to the end, texts from the same random
            numbers.
        convincing, unconvincing (`list[Verdict]`): Of fresh samples those that D takes most, and least, for real.
    """

    over_training: dict[str, list[str]] = field(default_factory=dict)
    convincing: list[Verdict] = field(default_factory=list)
    unconvincing: list[Verdict] = field(default_factory=list)


def read_run(folder: str | Path) -> Run:
    """
    Read a run, which need not be finished.

    Args:
        folder (`str` or `Path`): Its `output_dir`.

    Returns:
        `Run`

    Raises:
        ValueError: If it is none, or has logged nothing yet.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Pass the `output_dir` of a run.")
    history = read_log_history(folder)
    report = _read_json(folder / "metrics.json", {})
    settings = report.get("settings")
    if settings is None:
        # A control is played with the settings of its game, but for its own.
        game = _game_of(folder)
        settings = _read_json(game / "metrics.json", {}).get("settings", {}) if game else {}
        own = _settings_of_the_game(folder)
        settings |= {name: own[name] for name in (settings or own) if name in own}
    return Run(
        folder.absolute().name,
        folder,
        settings,
        history,
        report.get("stages", {}),
        report.get("curves", {}),
        _read_json(folder / "nearest.json", []),
    )


def _game_of(control: Path) -> Path | None:
    """Return the folder of the game that a run is a control of, as recipes lay them; `None` if it is none."""
    return control.absolute().parent if control.absolute().name.startswith("control_") else None


def _settings_of_the_game(folder: Path) -> dict[str, Any]:
    last = checkpoints_in(folder)
    arguments = folder if (folder / "training_args.json").is_file() else last[-1] if last else folder
    known = {option.name for option in dataclasses.fields(SeqGANConfig)} - {"output_dir"}
    saved = _read_json(arguments / "training_args.json", {})
    return publishable({name: value for name, value in saved.items() if name in known and not is_secret(name)})


def _read_json(path: Path, otherwise: Any) -> Any:
    if not path.is_file():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Remove it, or run the recipe to its end.") from error


def settings_that_matter(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """
    Return by its name each setting that differs between runs, or of a single run from its default.

    Args:
        runs (`Sequence[Run]`): At least one.

    Returns:
        `dict`: for each name a value a run; `None` where a run has no such setting.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    if len(runs) > 1:
        return {name: row for name, row in values.items() if any(value != row[0] for value in row)}
    defaults = _defaults_of(runs[0])
    return {name: row for name, row in values.items() if name not in defaults or row[0] != defaults[name]}


def _defaults_of(run: Run) -> dict[str, Any]:
    """Return the defaults of the game and of the recipe that was run, as a file of JSON has them."""
    recipe = SyntheticRecipeArguments if "num_texts" in run.settings else TextRecipeArguments
    options = [*dataclasses.fields(recipe), *dataclasses.fields(SeqGANConfig)]
    return {
        option.name: option.default_factory() if callable(option.default_factory) else option.default
        for option in options
    }


def ask_networks(run: Run, num_samples: int, seed: int, trust_remote_code: bool = False) -> Findings:
    """
    Let a run's saved networks write and judge.

    Args:
        run (`Run`): With a generator in its folder, or in checkpoints.
        num_samples (`int`): Texts of each stage, and verdicts of each kind; at least 1.
        seed (`int`): Decides them: each stage writes from the same random numbers.
        trust_remote_code (`bool`): Run code that the models bring.

    Returns:
        `Findings`: without verdicts where no discriminator was saved.

    Raises:
        OSError: If a network cannot be loaded.
    """
    findings = Findings()
    hub = {"trust_remote_code": trust_remote_code}
    stages = list(_saved_generators(run))
    for number, (stage, folder) in enumerate(tqdm(stages, "Stages of training", unit="stage", leave=False), start=1):
        model, tokenizer = load_generator(str(folder), **hub).eval(), find_tokenizer(str(folder), **hub)
        tokenizer = tokenizer or find_tokenizer(str(run.folder), **hub)
        if getattr(tokenizer, "chat_template", None) and _prompts_of(run, 1) != [None]:
            logger.warning(
                f"{run.folder}: the kept prompts of conversations lack the markers of their template, so its networks "
                "are not asked."
            )
            return Findings()
        text_format = TextFormat.from_model(model, tokenizer, run.settings.get("max_completion_length", 64))
        prompts = [encode_prompt(prompt, tokenizer, text_format) for prompt in _prompts_of(run, num_samples)]
        temperature = run.settings.get("temperature", 1.0)
        texts = complete_prompts(model, prompts, text_format, seed, temperature)
        findings.over_training[stage] = _strings(texts, tokenizer)
        if number == len(stages):
            verdicts = _verdicts(run, folder, model, tokenizer, text_format, num_samples, seed, hub)
            findings.convincing, findings.unconvincing = verdicts[:num_samples], verdicts[::-1][:num_samples]
    return findings


def _saved_generators(run: Run) -> Iterator[tuple[str, Path]]:
    """Yield the stages of a run, the earliest first, and where each is saved."""
    for game in (run.folder, _game_of(run.folder)):
        if game and any((game / "mle").glob("*.safetensors")):
            yield "maximum likelihood", game / "mle"
            break
    last, is_saved = max(entry["step"] for entry in run.history), any(run.folder.glob("*.safetensors"))
    for checkpoint in checkpoints_in(run.folder):
        step = checkpoint.name.rpartition("-")[2]
        if any(checkpoint.glob("*.safetensors")) and not (is_saved and step == str(last)):
            yield f"update {step}", checkpoint
    if is_saved:
        yield f"the end (update {last})", run.folder


def _prompts_of(run: Run, count: int) -> list[str | None]:
    """Return prompts that the run has completed; `None` stands for no prompt."""
    kept = sorted((run.folder / COMPLETIONS_FOLDER).glob("*.parquet"))
    prompts = pyarrow.parquet.read_table(kept[-1])["prompt"].to_pylist() if kept else []
    some = [prompt or None for prompt in prompts] or [None]
    return [some[index % len(some)] for index in range(count)]


def _strings(texts: Completions, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    return [one_line(text) for text in decode_ids(texts.completion_ids, texts.completion_mask, tokenizer)]


def _verdicts(
    run: Run,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    text_format: TextFormat,
    num_samples: int,
    seed: int,
    hub: Mapping[str, Any],
) -> list[Verdict]:
    """Judge fresh samples and each of their tokens, by rollouts; the most convincing come first."""
    prompts = _prompts_of(run, max(8 * num_samples, 32))
    temperature = run.settings.get("temperature", 1.0)
    judge = load_saved_discriminator(
        str(folder), DISCRIMINATOR_FOLDER, model, tokenizer, text_format, prompts[0] is not None, temperature, **hub
    )
    if judge is None:
        return []
    ids = [encode_prompt(prompt, tokenizer, text_format) for prompt in prompts]
    texts = complete_prompts(model, ids, text_format, seed + 1, temperature)
    scores = judge.score(texts)
    order = scores.argsort(descending=True)
    shown = torch.cat([order[:num_samples], order[-num_samples:]])
    texts, scores = texts.select(shown), scores[shown]
    config = sampling_config(text_format, temperature)
    keys = derived_keys(named_key(seed + 2, SAMPLES), torch.arange(len(texts)))
    of_tokens = score_rollouts(
        model, texts, judge.score, config, _ROLLOUTS_OF_A_TOKEN, 1, _ROWS_AT_ONCE, row_keys=keys
    )
    rewards = rewards_of_scores(*of_tokens, texts.completion_mask, "probability")[:, 1:]
    return [
        Verdict(
            scores[row].sigmoid().item(),
            [
                Token(text, reward)
                for text, reward in zip(
                    _spelt(texts.completion_ids[row, :length], tokenizer, text_format.eos_token_id),
                    rewards[row, :length].tolist(),
                    strict=True,
                )
            ],
        )
        for row, length in enumerate(texts.lengths.tolist())
    ]


def _spelt(ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase | None, eos_token_id: int | None) -> list[str]:
    """Return each token as it lengthens the text: one that spells a part of a letter shows nothing."""
    if tokenizer is None:
        return [f"{token} " for token in ids.tolist()]
    prefixes = decode_ids(ids.expand(len(ids), -1), torch.ones(len(ids), len(ids)).tril(), tokenizer)
    pieces, before = [], ""
    for prefix in prefixes:
        text = prefix.removesuffix("\N{REPLACEMENT CHARACTER}")
        is_longer = text.startswith(before)
        pieces.append(" ".join(text[len(before) :].splitlines()) if is_longer else "")
        before = text if is_longer else before
    if len(ids) and int(ids[-1]) == eos_token_id:
        pieces[-1] = " [end]"
    return pieces
