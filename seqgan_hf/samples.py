"""Use a generator: texts without or with a prompt, the verdict of the discriminator that was saved with it, files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapters import embedding_rows
from .completions import Completions, one_line
from .data import TextFormat, prepare_dataset
from .discriminator import Discriminator, context_length
from .fitting import label_settings
from .generation import generate_completions, sampling_config
from .loading import find_tokenizer, is_saved, load_discriminator
from .losses import reader_of
from .processes import is_first
from .randomness import SAMPLES, derived_keys, named_key

ARGUMENTS_FILE = "training_args.json"
USUAL_LENGTH = 64
_NETWORK_CONFIGS = ("config.json", "adapter_config.json")


def length_of_run(name_or_path: str, revision: str | None = None) -> int | None:
    """
    Find the most tokens that a generator was told to write in its game.

    Args:
        name_or_path (`str`): Hub id or local path of the generator, or of one in the folder of its run, such as `mle/`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `int`, EOS included; `None` if no game is known.

    Raises:
        OSError: If the Hub has to be asked and does not answer.
    """
    local = Path(name_or_path)
    if local.is_dir():
        found = [folder / ARGUMENTS_FILE for folder in (local, local.absolute().parent)]
    elif is_saved(name_or_path, ARGUMENTS_FILE, revision=revision):
        found = [Path(hf_hub_download(name_or_path, ARGUMENTS_FILE, revision=revision))]
    else:
        found = []
    for path in found:
        if path.is_file():
            length = json.loads(path.read_text(encoding="utf-8")).get("max_completion_length")
            return None if length is None else int(length)
    return None


def complete_prompts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    text_format: TextFormat,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 64,
) -> Completions:
    """
    Sample a completion of each prompt from a causal language model's own distribution.

    Args:
        model (`PreTrainedModel`): Any causal language model; dropout is off.
        prompts (`Sequence[Sequence[int]]`): Token ids, at least one each.
        text_format (`TextFormat`): Its special tokens and the most tokens of a completion.
        seed (`int`): Decides the completions, without moving the global random state.
        temperature (`float`): Above 0.
        batch_size (`int`): Prompts at once. The completions do not depend on it. A bar is shown where there are more.

    Returns:
        `Completions`, one row a prompt, on the model's device.

    Raises:
        ValueError: If a prompt and a completion are more than the model reads at once.
    """
    longest, room, limit = max(map(len, prompts)), text_format.max_completion_length, context_length(model)
    if limit is not None and longest + room > limit:
        raise ValueError(
            f"A prompt of {longest} and up to {room} more tokens do not fit into the {limit} that the generator reads. "
            "Lower `max_completion_length` or shorten the prompt."
        )
    config = sampling_config(text_format, temperature)
    rows = [{"prompt_ids": prompt, "completion_ids": []} for prompt in prompts]
    texts = Completions.collate(rows, text_format.pad_token_id).to(model.device)
    keys = derived_keys(named_key(seed, SAMPLES), torch.arange(len(texts))).to(model.device)
    parts = []
    with tqdm(
        total=len(texts),
        desc=f"Sampling at temperature {temperature:g}",
        unit="text",
        leave=False,
        disable=not is_first() or len(texts) <= batch_size,
    ) as progress:
        for start in range(0, len(texts), batch_size):
            some = texts.select(slice(start, start + batch_size))
            row_keys = keys[start : start + batch_size]
            parts.append(generate_completions(model, some.prompt_ids, some.prompt_mask, config, row_keys=row_keys))
            progress.update(len(some))
    return Completions(*(torch.cat(tensors) for tensors in zip(*(part.tensors() for part in parts), strict=True)))


def sample_texts(
    model: PreTrainedModel,
    text_format: TextFormat,
    num_samples: int,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 512,
) -> Completions:
    """
    Sample texts without prompts from a causal language model, an oracle or a generator: see [`complete_prompts`].

    Args:
        model (`PreTrainedModel`): Any causal language model.
        text_format (`TextFormat`): Its start token, EOS and the most tokens of a text.
        num_samples (`int`): How many.
        seed (`int`): Decides them, without moving the global random state.
        temperature (`float`): Above 0.
        batch_size (`int`): At once.

    Returns:
        `Completions` of `num_samples` rows, on the model's device.
    """
    prompts = [[text_format.start_token_id]] * num_samples
    return complete_prompts(model, prompts, text_format, seed, temperature, batch_size)


def encode_prompt(
    prompt: str | None, processing_class: PreTrainedTokenizerBase | None, text_format: TextFormat
) -> list[int]:
    """
    Return the token ids of a prompt, as the trainer encodes a column `prompt`.

    Args:
        prompt (`str`, *optional*): `None`: a text has no prompt, and begins with the start token.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer.
        text_format (`TextFormat`): The generator's special tokens.

    Returns:
        `list[int]`, at least one.

    Raises:
        ValueError: If there is a prompt and no tokenizer.
    """
    if prompt is None:
        return [text_format.start_token_id]
    if processing_class is None:
        raise ValueError("A prompt is text, and the model was saved without a tokenizer to encode it. Leave it out.")
    # A stream is mapped without a progress bar and without a cache.
    row = Dataset.from_dict({"prompt": [prompt], "completion": ["."]}).to_iterable_dataset()
    return next(iter(prepare_dataset(row, processing_class, text_format, "prompt")))["prompt_ids"]


def load_saved_discriminator(
    name_or_path: str,
    folder: str,
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase | None,
    text_format: TextFormat,
    reads_prompt: bool = False,
    temperature: float = 1.0,
    **kwargs: Any,
) -> Discriminator | None:
    """
    Load the discriminator that was saved with a generator, ready to score the generator's texts.

    Args:
        name_or_path (`str`): Hub id or local path of the pair.
        folder (`str`): Where in it the discriminator is.
        model (`PreTrainedModel`): The generator.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer.
        text_format (`TextFormat`): The generator's special tokens.
        reads_prompt (`bool`): Whether it reads prompts before completions.
        temperature (`float`): At which the generator wrote in its game, for one that reads its likelihoods; above 0.
        **kwargs: For `from_pretrained`: `revision`, `trust_remote_code`.

    Returns:
        `Discriminator` on the generator's device, or `None` if none was saved.

    Raises:
        OSError: If it was saved and cannot be loaded.
        ValueError: If it does not fit the generator.
    """
    revision = {"revision": kwargs["revision"]} if "revision" in kwargs else {}
    if not any(is_saved(name_or_path, name, subfolder=folder, **revision) for name in _NETWORK_CONFIGS):
        return None
    # An adapter is saved without a configuration, and the model below it may have labels of its own.
    return Discriminator(
        load_discriminator(name_or_path, subfolder=folder, **label_settings(), **kwargs).to(model.device),
        processing_class,
        find_tokenizer(name_or_path, subfolder=folder, **kwargs),
        reads_prompt,
        text_format.pad_token_id,
        embedding_rows(model),
        text_format.pad_is_a_token,
        read_generator=reader_of(model, reads_prompt, temperature),
    )


def score_texts(discriminator: Discriminator, texts: Completions, batch_size: int = 64) -> list[float]:
    """
    Let a discriminator judge texts, with a progress bar.

    Args:
        discriminator (`Discriminator`): The judge.
        texts (`Completions`): Real or generated.
        batch_size (`int`): Texts at once.

    Returns:
        `list[float]`: P(real) of each text, in [0, 1].
    """
    starts = tqdm(range(0, len(texts), batch_size), "Scoring", unit="batch", leave=False, disable=not is_first())
    scores = [discriminator.score(texts.select(slice(start, start + batch_size))) for start in starts]
    return torch.cat(scores).sigmoid().tolist()


def samples_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """
    Lay out samples for a terminal, one line each, whole.

    Args:
        rows (`Sequence[Mapping]`): Each with `text`, or with `prompt` and `completion`; and maybe `score`, P(real).

    Returns:
        `str`: the texts, or a header and the texts behind their scores.
    """
    lines = [_one_line(row) for row in rows]
    if "score" not in rows[0]:
        return "\n".join(lines)
    scored = [f"{row['score']:7.3f}  {line}" for row, line in zip(rows, lines, strict=True)]
    return "\n".join(["P(real)  text", *scored])


def write_samples(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """
    Write samples to a file that `load_texts` reads.

    Args:
        rows (`Sequence[Mapping]`): As for [`samples_table`].
        path (`str` or `Path`): A `.jsonl` file gets the rows as they are, any other one text a line.

    Returns:
        `Path`: the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    as_rows = path.suffix == ".jsonl"
    lines = [json.dumps(row, ensure_ascii=False) if as_rows else _one_line(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _one_line(row: Mapping[str, Any]) -> str:
    return one_line(row["text"] if "text" in row else row["prompt"] + row["completion"])
