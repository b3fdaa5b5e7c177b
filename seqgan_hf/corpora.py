"""Which texts a run or an evaluation reads: the splits, columns and rows of a dataset, from disk or as a stream."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers.utils import logging

from .arguments import BlindArguments, DatasetArguments, EvaluateArguments, TextRecipeArguments
from .data import AnyDataset, column_names
from .loading import load_texts
from .processes import is_first

logger = logging.get_logger(__name__)

_SPLIT_SEED = 42
_TEST_SHARE = 0.1
_MOST_TEST_TEXTS = 1000
# With `max_samples`, a stream is read this far; up to here it gives the same texts as the whole dataset would.
_STREAM_HEAD = 10_000


def load_splits(args: TextRecipeArguments, seed: int) -> DatasetDict:
    """
    Load a recipe's texts as `train`, `validation` and `test`.

    Splits that the dataset lacks are cut from the end of its shuffled training texts: a tenth each, at most 1,000; the
    same for every seed, so that runs compare.

    Args:
        args (`TextRecipeArguments`): Names the dataset, its splits and column, the rows to keep and how many texts.
        seed (`int`): Decides which training texts `max_samples` keeps.

    Returns:
        `DatasetDict` with the column `text`, or `prompt` and `completion`, or `messages`.

    Raises:
        OSError: If the dataset cannot be had.
        ValueError: If the splits, the column or the row filter do not fit it, or too few texts are left.
    """
    loaded = load_texts(
        args.dataset_name, args.dataset_config, revision=args.dataset_revision, streaming=args.dataset_streaming
    )
    sources = {"train": args.dataset_train_split, "validation": "validation", "test": args.dataset_test_split}
    if sources["train"] not in loaded:
        raise ValueError(
            f"`{args.dataset_name}` has no split `{sources['train']}` to train on; it has {', '.join(loaded)}. Pass "
            "`--dataset_train_split`."
        )
    splits = {
        name: _read(_usable(loaded[source], args, source), args)
        for name, source in sources.items()
        if source in loaded
    }
    train = splits["train"].shuffle(seed=_SPLIT_SEED)
    count = min(max(round(_TEST_SHARE * len(train)), 1), _MOST_TEST_TEXTS)
    for name in ("validation", "test"):
        if name not in splits:
            if len(train) <= count:
                raise ValueError(f"`{args.dataset_name}` has too few texts to hold out a split: {len(train)}.")
            splits[name] = train.select(range(len(train) - count, len(train)))
            train = train.select(range(len(train) - count))
    if args.max_samples is not None:
        train = train.shuffle(seed=seed).select(range(min(args.max_samples, len(train))))
    return DatasetDict(train=train, validation=splits["validation"], test=splits["test"])


def load_held_out(args: EvaluateArguments | BlindArguments) -> tuple[Dataset, str]:
    """
    Load the texts that a model is evaluated on.

    Args:
        args (`EvaluateArguments` or `BlindArguments`): Names the dataset, its split and column, the rows to keep and how
            many texts.

    Returns:
        `tuple`: the texts, as a column `text` or with their prompts or ids as they are, and the name of their split: the
        one asked for, or else `test`, or else `validation`, or else the only one.

    Raises:
        OSError: If the dataset cannot be had.
        ValueError: If the split, the column or the row filter do not fit it.
    """
    dataset = load_texts(
        args.dataset_name, args.dataset_config, args.split, args.dataset_revision, args.dataset_streaming
    )
    split = args.split
    if split is None:
        names = list(dataset)
        split = next((name for name in ("test", "validation", *names[: len(names) == 1]) if name in dataset), None)
        if split is None:
            raise ValueError(
                f"`{args.dataset_name}` has the splits {', '.join(names)}, and neither `test` nor `validation`. Pass one "
                "that the model was not trained on by `--split`."
            )
        if len(names) == 1 and split not in ("test", "validation"):
            logger.warning(
                f"`{args.dataset_name}` has one split, `{split}`, which is taken. The figures mean something only if the "
                f"model was not trained on it. Pass `--split {split}` to silence this."
            )
        dataset = dataset[split]
    texts = _read(_usable(dataset, args, split), args)
    if args.max_samples is not None:
        texts = texts.shuffle(seed=args.seed).select(range(min(args.max_samples, len(texts))))
    return texts, split


def all_strings(dataset: Dataset) -> Iterator[str]:
    """
    Yield whatever is written in a dataset, for a tokenizer to be trained on.

    Args:
        dataset (`Dataset`): From [`load_splits`].

    Returns:
        `Iterator[str]`: texts, prompts and completions, and the contents of messages.
    """
    for row in dataset:
        for value in row.values():
            yield from [value] if isinstance(value, str) else (message["content"] for message in value)


def _usable(dataset: AnyDataset, args: DatasetArguments, split: str) -> AnyDataset:
    """Keep the rows asked for, and of the columns those that a text is made of."""
    columns = column_names(dataset)
    if args.keep_rows is not None:
        column, separator, value = args.keep_rows.partition("=")
        if not separator or column not in columns:
            raise ValueError(
                f"`--keep_rows` must be COLUMN=VALUE with one of the columns {sorted(columns)}; got {args.keep_rows!r}."
            )
        dataset = dataset.filter(_HasValue(column, value))
    for kept in (["messages"], ["prompt", "completion"]):
        # A column that was asked for by name comes before what needs no name.
        if set(kept) <= columns and args.text_column == "text":
            if args.split_paragraphs:
                raise ValueError(
                    f"`--split_paragraphs` splits plain texts, and `{args.dataset_name}` has {' and '.join(kept)}. Leave "
                    "it out, or name the column of texts by `--text_column`."
                )
            return dataset.select_columns(kept)
    if args.text_column == "text" and "text" not in columns and "input_ids" in columns:
        return dataset.select_columns(sorted({"input_ids", "attention_mask"} & columns))
    if args.text_column not in columns:
        raise ValueError(
            f"The split `{split}` of `{args.dataset_name}` has no column `{args.text_column}`; it has {sorted(columns)}. "
            "Pass `--text_column`."
        )
    dataset = dataset.select_columns([args.text_column])
    if args.text_column != "text":
        dataset = dataset.rename_column(args.text_column, "text")
    if args.split_paragraphs:
        dataset = dataset.map(_paragraphs, batched=True)
    return dataset.filter(_is_not_blank)


def _read(dataset: AnyDataset, args: DatasetArguments) -> Dataset:
    """Return a dataset as it is, and of a stream the texts that a run takes."""
    if isinstance(dataset, Dataset):
        return dataset
    most = None
    if args.max_samples is not None:
        most = max(_STREAM_HEAD, args.max_samples + 2 * _MOST_TEST_TEXTS)
    some, name = itertools.islice(dataset, most), args.dataset_name
    rows = tqdm(some, desc=f"Reading {name}", unit="text", total=most, disable=not is_first())
    texts = Dataset.from_list(list(rows), split=dataset.split)  # of all at once, or their columns might not agree
    if len(texts) == 0:
        raise ValueError(f"The stream of `{args.dataset_name}` has no texts. Check its split and `--keep_rows`.")
    return texts


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
