"""Any supported dataset becomes rows of `prompt_ids` and `completion_ids`, prompts for G, and endless real batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .completions import Completions

logger = logging.get_logger(__name__)

AnyDataset: TypeAlias = Union[Dataset, IterableDataset]  # noqa: UP007  (mypy takes no `|` here)
_SHUFFLE_BUFFER = 1000
_MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class TextFormat:
    """
    How a text is written in the generator's tokens.

    Args:
        start_token_id (`int`): The prompt of a text that has none.
        eos_token_id (`int`, *optional*): Ends a completion. `None`: completions run to their full length.
        pad_token_id (`int`): Fills rows; masks keep it from being read.
        max_completion_length (`int`): The most tokens of a completion, EOS included.
    """

    start_token_id: int
    eos_token_id: int | None
    pad_token_id: int
    max_completion_length: int

    @classmethod
    def from_model(
        cls, model: nn.Module, processing_class: PreTrainedTokenizerBase | None, max_completion_length: int
    ) -> "TextFormat":
        """
        Find the special tokens, in the tokenizer first and in the model's configuration otherwise.

        What is missing is resolved, and said at level info: without BOS a text starts from EOS, without EOS completions
        have a fixed length, without a padding token EOS (or 0) fills the rows.

        Args:
            model (`nn.Module`): The generator, with a `config`.
            processing_class (`PreTrainedTokenizerBase`, *optional*): Its tokenizer.
            max_completion_length (`int`): See the class.

        Returns:
            `TextFormat`

        Raises:
            ValueError: If there is neither BOS nor EOS to start a text from.
        """

        def find(name: str) -> int | None:
            value = getattr(processing_class, name, None)
            if value is None:
                value = getattr(model.config, name, None)
            return value[0] if isinstance(value, list) else value

        start, eos, pad = find("bos_token_id"), find("eos_token_id"), find("pad_token_id")
        if start is None:
            if eos is None:
                raise ValueError(
                    "The generator needs a BOS or an EOS token to start a text from, and neither its tokenizer nor its "
                    "configuration has one. Set `tokenizer.bos_token` or `model.config.bos_token_id`."
                )
            logger.info(f"The generator has no BOS token: texts start from its EOS token, {eos}.")
            start = eos
        if eos is None:
            logger.info(f"The generator has no EOS token: every completion has {max_completion_length} tokens.")
        if pad is None:
            pad = eos if eos is not None else 0
            logger.info(f"The generator has no padding token: rows are filled with token {pad}, which masks hide.")
        return cls(start, eos, pad, max_completion_length)


def is_conditional(dataset: AnyDataset) -> bool:
    """Tell whether the rows bring prompts of their own (columns `prompt` and `completion`)."""
    return "prompt" in _column_names(dataset)


def prepare_dataset(
    dataset: AnyDataset,
    processing_class: PreTrainedTokenizerBase | None,
    text_format: TextFormat,
    name: str = "train_dataset",
    long_texts: str = "truncate",
) -> AnyDataset:
    """
    Turn a supported dataset into rows of `prompt_ids` and `completion_ids`.

    Args:
        dataset (`Dataset` or `IterableDataset`): Columns `text`; or `prompt` and `completion`; or `input_ids`.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer; needed unless the rows
            are `input_ids`.
        text_format (`TextFormat`): The generator's special tokens and the most tokens of a completion.
        name (`str`): What to call the dataset in errors.
        long_texts (`str`): `truncate` or `error`, for texts longer than `max_completion_length`.

    Returns:
        `Dataset` or `IterableDataset`: the same kind; rows without a single token are left out.

    Raises:
        TypeError: If it is not one split of `datasets`.
        ValueError: If it is empty, has no usable column, lacks a tokenizer, or a text is too long.
    """
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset` or `IterableDataset`; got {type(dataset).__name__}. Pass one split, "
            "such as dataset['train'], or wrap your rows by `Dataset.from_list`."
        )
    columns = _column_names(dataset)
    if not columns or not _has_rows(dataset):
        raise ValueError(f"`{name}` is empty. Check its path, split and filters: at least one text is needed.")
    if {"prompt_ids", "completion_ids"} <= columns:
        return dataset
    if not ("text" in columns or "input_ids" in columns or {"prompt", "completion"} <= columns):
        raise ValueError(
            f"`{name}` needs a column `text`, or `prompt` and `completion`, or `input_ids`; got {sorted(columns)}. "
            "Rename yours by `dataset.rename_column(...)`, or pass `--text_column` to a recipe."
        )
    if "prompt" not in columns and "text" not in columns:
        tokenizer = None
    elif processing_class is None:
        raise ValueError(f"`{name}` holds text, so the generator's tokenizer must be passed as `processing_class`.")
    else:
        tokenizer = processing_class
    rows = _RowEncoder(tokenizer, processing_class, text_format, name, long_texts)
    prepared = dataset.map(rows, batched=True, with_indices=True, remove_columns=sorted(columns))
    if not _has_rows(prepared):
        raise ValueError(f"`{name}` has rows, but each of them is blank. At least one text is needed.")
    return prepared


class _RowEncoder:
    """Encodes a batch of rows; a class and not a closure, so that `datasets` can fingerprint and cache it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        processing_class: PreTrainedTokenizerBase | None,
        text_format: TextFormat,
        name: str,
        long_texts: str,
    ) -> None:
        self.tokenizer = tokenizer
        # A row of `input_ids` may begin with BOS; without a tokenizer no id is known to be special (the synthetic
        # oracle's start token is a word like any other).
        self.bos_token_id = getattr(processing_class, "bos_token_id", None)
        self.text_format = text_format
        self.name = name
        self.long_texts = long_texts

    def __call__(self, batch: Mapping[str, list], indices: list[int]) -> dict[str, list[list[int]]]:
        start = self.text_format.start_token_id
        if "prompt" in batch:
            completions = self._encode(batch["completion"], indices, "completion")
            prompts = self._encode(batch["prompt"], indices, "prompt", add_special_tokens=True)
            prompts = [self._without_eos(ids) or [start] for ids in prompts]
        else:
            if self.tokenizer is not None:
                completions = self._encode(batch["text"], indices, "text")
            else:
                completions = [ids[1:] if ids and ids[0] == self.bos_token_id else ids for ids in batch["input_ids"]]
            prompts = [[start]] * len(completions)
        rows = [
            (prompt, self._finish(completion, index))
            for prompt, completion, index in zip(prompts, completions, indices, strict=True)
            if self._without_eos(completion)
        ]
        return {"prompt_ids": [prompt for prompt, _ in rows], "completion_ids": [ids for _, ids in rows]}

    def _encode(
        self, texts: Sequence[Any], indices: list[int], column: str, add_special_tokens: bool = False
    ) -> list[list[int]]:
        for text, index in zip(texts, indices, strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"Row {index} of `{self.name}` has a {type(text).__name__} in column `{column}` where text is "
                    "expected. Filter such rows out, or convert them to strings."
                )
        assert self.tokenizer is not None
        # `verbose=False`: the texts are cut below, so a warning that they exceed the model would be false.
        encoded = self.tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)
        return encoded["input_ids"]

    def _without_eos(self, ids: list[int]) -> list[int]:
        return list(ids[:-1]) if ids and ids[-1] == self.text_format.eos_token_id else list(ids)

    def _finish(self, ids: list[int], index: int) -> list[int]:
        """Close a completion with EOS, or cut it: exactly what the generator could have written."""
        ids = self._without_eos(ids)
        if self.text_format.eos_token_id is not None:
            ids.append(self.text_format.eos_token_id)
        most = self.text_format.max_completion_length
        if len(ids) > most and self.long_texts == "error":
            raise ValueError(
                f"Row {index} of `{self.name}` has {len(ids)} tokens, EOS included, more than `max_completion_length` "
                f"({most}). Raise it, shorten the text, or set `long_texts` to `truncate`."
            )
        return ids[:most]


def check_context(dataset: AnyDataset, text_format: TextFormat, context_length: int | None, reader: str) -> None:
    """
    Refuse prompts that leave no room for a whole completion in a network's context.

    Args:
        dataset (`Dataset` or `IterableDataset`): From [`prepare_dataset`]. A stream is not read: its first row is.
        text_format (`TextFormat`): Gives `max_completion_length`.
        context_length (`int`, *optional*): The most tokens the network reads; `None`: no limit.
        reader (`str`): Who reads, `generator` or `discriminator`, for the error.

    Raises:
        ValueError: Naming the first row that is too long, and both lengths.
    """
    if context_length is None:
        return
    prompts = dataset["prompt_ids"] if isinstance(dataset, Dataset) else [next(iter(dataset))["prompt_ids"]]
    most = text_format.max_completion_length
    for index, prompt in enumerate(prompts):
        if len(prompt) + most > context_length:
            raise ValueError(
                f"Row {index} needs {len(prompt)} prompt tokens and up to {most} of completion, but the {reader} reads "
                f"{context_length} tokens at most. Lower `max_completion_length` or shorten the prompt."
            )


def generator_and_discriminator_folds(
    dataset: AnyDataset, discriminator_data: str, seed: int
) -> tuple[list[AnyDataset], list[AnyDataset]]:
    """
    Decide which real texts each network learns from in which round.

    Round `r` takes the folds of index `r % len(folds)`. A maximum-likelihood stage before the game learns from the
    generator's first fold; called with the same arguments it gets the same texts.

    Args:
        dataset (`Dataset` or `IterableDataset`): The real texts, prepared or not.
        discriminator_data (`str`): `same`, `held_out` or `cross_fit`; see `SeqGANConfig`.
        seed (`int`): Decides who gets which half.

    Returns:
        `tuple` of two lists of datasets: the generator's folds and the discriminator's, equally many.
    """
    if discriminator_data == "same":
        return [dataset], [dataset]
    if isinstance(dataset, Dataset):
        if len(dataset) < 2:
            raise ValueError(f"`discriminator_data='{discriminator_data}'` halves the texts; got {len(dataset)} text.")
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
        halves = [dataset.select(sorted(order[0::2])), dataset.select(sorted(order[1::2]))]
    else:
        halves = [
            dataset.filter(_IndexParity(0), with_indices=True),
            dataset.filter(_IndexParity(1), with_indices=True),
        ]
    if discriminator_data == "held_out":
        return [halves[0]], [halves[1]]
    return halves, halves[::-1]


@dataclass(frozen=True)
class _IndexParity:
    remainder: int

    def __call__(self, row: Mapping[str, Any], index: int) -> bool:
        return index % 2 == self.remainder


def hold_out(dataset: AnyDataset, share: float, seed: int) -> tuple[AnyDataset, AnyDataset]:
    """
    Split off the texts on which the discriminator is tested and never trained.

    Args:
        dataset (`Dataset` or `IterableDataset`): The discriminator's real texts.
        share (`float`): In (0, 0.5]. At most 1,000 texts are held out; a stream gives its first `share * 1000`.
        seed (`int`): Decides which.

    Returns:
        `tuple`: the texts to train on, and those held out; neither is empty.

    Raises:
        ValueError: If nothing would be left to train on.
    """
    if isinstance(dataset, IterableDataset):
        count = max(int(share * _MOST_HELD_OUT), 1)
        if next(iter(dataset.skip(count)), None) is None:
            raise ValueError(
                f"The first {count} texts of a stream are held out from the discriminator, and this one has no more. "
                "Pass a map-style dataset, or lower `discriminator_holdout`."
            )
        return dataset.skip(count), dataset.take(count)
    if len(dataset) < 2:
        raise ValueError(
            f"The discriminator needs at least 2 real texts, one to learn from and one to be tested on; got "
            f"{len(dataset)}. Add texts to `train_dataset`."
        )
    count = min(max(round(share * len(dataset)), 1), _MOST_HELD_OUT)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    return dataset.select(sorted(order[count:])), dataset.select(sorted(order[:count]))


class RealTexts:
    """
    Endless shuffled batches of real texts, resumable at any point.

    Args:
        dataset (`Dataset` or `IterableDataset`): From [`prepare_dataset`].
        pad_token_id (`int`): Fills the rows of a batch.
        seed (`int`): Decides the order, on its own generator: no draw here moves the global random state.
    """

    def __init__(self, dataset: AnyDataset, pad_token_id: int, seed: int) -> None:
        self.dataset = dataset
        self.pad_token_id = pad_token_id
        self.seed = seed
        self.epoch = 0
        self.taken = 0
        self._rows: Iterator[Mapping[str, Any]] | None = None

    def next(self, count: int) -> Completions:
        """Return the next `count` texts, beginning a new epoch in a new order where one ends."""
        rows: list[Mapping[str, Any]] = []
        while len(rows) < count:
            if self._rows is None:
                self._rows = self._epoch_rows(skip=self.taken)
            row = next(self._rows, None)
            if row is None:
                if self.taken == 0:
                    raise ValueError("The stream of real texts is empty: nothing to learn from. Check the dataset.")
                self.epoch, self.taken, self._rows = self.epoch + 1, 0, None
                continue
            self.taken += 1
            rows.append(row)
        return Completions.collate(rows, self.pad_token_id)

    def _epoch_rows(self, skip: int) -> Iterator[Mapping[str, Any]]:
        if isinstance(self.dataset, Dataset):
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(self.dataset), generator=generator).tolist()
            return _read_in_blocks(self.dataset, order[skip:])
        stream = self.dataset.shuffle(seed=self.seed + self.epoch, buffer_size=_SHUFFLE_BUFFER)
        rows = iter(stream)
        for _ in range(skip):
            next(rows, None)
        return rows

    def state_dict(self) -> dict[str, int]:
        """Return where the reading stands."""
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`; a stream is read again up to there."""
        self.epoch, self.taken, self._rows = int(state["epoch"]), int(state["taken"]), None


def _read_in_blocks(dataset: Dataset, order: Sequence[int], block: int = 256) -> Iterator[Mapping[str, Any]]:
    """Yield rows in `order`; read singly, each would cost a decoding of its own."""
    for start in range(0, len(order), block):
        columns = dataset[list(order[start : start + block])]
        for prompt_ids, completion_ids in zip(columns["prompt_ids"], columns["completion_ids"], strict=True):
            yield {"prompt_ids": prompt_ids, "completion_ids": completion_ids}


def _column_names(dataset: AnyDataset) -> set[str]:
    if dataset.column_names is not None:
        return set(dataset.column_names)
    return set(next(iter(dataset), {}))


def _has_rows(dataset: AnyDataset) -> bool:
    if isinstance(dataset, Dataset):
        return len(dataset) > 0
    return next(iter(dataset), None) is not None
