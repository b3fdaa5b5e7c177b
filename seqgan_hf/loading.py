"""What a name stands for: ids, paths and files become models, tokenizers and texts, or one clear error."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import is_peft_available

from . import models as own_models  # noqa: F401  (registers our model types with the Auto classes)

_FILE_LOADERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say what could not be had, and what else can be done, when the Hub or a path fails."""
    try:
        yield
    except OSError as error:  # transformers, datasets and huggingface_hub derive all their loading errors from it
        raise OSError(
            f"Could not load {what}: it is neither a local path nor could it be had from the Hugging Face Hub "
            f"({type(error).__name__}: {_first_line(error)}). Check the name and the connection, give a local path, or "
            "run a recipe with `--sample`, which needs no network."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def load_generator(model: str | PreTrainedModel, peft_config: Any | None = None, **kwargs: Any) -> Any:
    """
    Load a causal language model.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, local path, or a model, which is returned as it is.
        peft_config (`PeftConfig`, *optional*): Wrap the model in a new adapter, which alone is trained.
        **kwargs: For `AutoModelForCausalLM.from_pretrained`; `dtype` is float32 unless given, because a policy gradient
            in pure bfloat16 loses its small updates.

    Returns:
        `PreTrainedModel`, or `PeftModel`

    Raises:
        OSError: If it can be had neither locally nor from the Hub.
        ImportError: If `peft_config` is given and peft is not installed.
    """
    if isinstance(model, str):
        with _explained(f"the generator `{model}`"):
            model = AutoModelForCausalLM.from_pretrained(model, **{"dtype": torch.float32, **kwargs})
    if peft_config is None:
        return model
    if not is_peft_available():
        raise ImportError("`peft_config` needs the package peft: pip install 'seqgan_hf[peft]'.")
    from peft import get_peft_model

    return get_peft_model(model, peft_config)


def switch_off_dropout(model: nn.Module) -> None:
    """
    Set every dropout of a model to 0, in place; its configuration stays.

    A policy gradient needs the log-probabilities of the distribution that was sampled, and sampling has no dropout.

    Args:
        model (`nn.Module`): The generator.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0


def load_discriminator(model: str | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """
    Load a sequence classifier with two labels; a head that the checkpoint lacks is made new.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, local path, or a model, which is returned as it is.
        **kwargs: For `AutoModelForSequenceClassification.from_pretrained`; `num_labels` is 2 unless given.

    Returns:
        `PreTrainedModel`

    Raises:
        OSError: If it can be had neither locally nor from the Hub.
    """
    if not isinstance(model, str):
        return model
    with _explained(f"the discriminator `{model}`"):
        kwargs = {"dtype": torch.float32, "num_labels": 2, **kwargs}
        return AutoModelForSequenceClassification.from_pretrained(model, **kwargs)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer.

    Args:
        name_or_path (`str`): Hub id or local path.

    Returns:
        `PreTrainedTokenizerBase`

    Raises:
        OSError: If it can be had neither locally nor from the Hub.
    """
    with _explained(f"the tokenizer of `{name_or_path}`"):
        return AutoTokenizer.from_pretrained(name_or_path)


def load_texts(
    name_or_path: str,
    config_name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict | Dataset | IterableDataset:
    """
    Load texts from the Hub, a web address, a local file or a local folder.

    Args:
        name_or_path (`str`): Hub id; URL or path of a txt, json, jsonl, csv or parquet file; or a folder of such files,
            named by split (`train.txt`, `validation.txt`, ...). A line of a txt file is a text.
        config_name (`str`, *optional*): Configuration of a Hub dataset.
        split (`str`, *optional*): One split, in the syntax of `datasets`; all by default.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        streaming (`bool`): Read while training instead of downloading first.

    Returns:
        `DatasetDict`, or one `Dataset` if `split` is given; their iterable kinds if `streaming`.

    Raises:
        OSError: If it can be had neither locally nor from the network.
    """
    loader = _FILE_LOADERS.get(Path(name_or_path.split("?")[0]).suffix.lower())
    with _explained(f"the dataset `{name_or_path}`"):
        if loader is not None:
            return load_dataset(loader, data_files=name_or_path, split=split, streaming=streaming)
        return load_dataset(name_or_path, config_name, split=split, revision=revision, streaming=streaming)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer on the texts of a run from scratch. Any text can be written and read back exactly.

    Args:
        texts (`Iterable[str]`): The training texts.
        vocab_size (`int`): The most tokens, at least 259 (every byte and three special tokens).

    Returns:
        `PreTrainedTokenizerFast` with `<s>`, `</s>` and `<pad>`.

    Raises:
        ValueError: If `vocab_size` is too small.
    """
    special_tokens = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"`vocab_size` must be at least {least}, for every byte and {len(special_tokens)} special tokens; "
            f"got {vocab_size}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
