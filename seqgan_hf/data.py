"""Any supported dataset becomes rows of `prompt_ids` and `completion_ids`, prompts for G, and endless real batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

import numpy as np
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .adapters import embedding_rows

logger = logging.get_logger(__name__)

AnyDataset: TypeAlias = Union[Dataset, IterableDataset]  # noqa: UP007  (mypy takes no `|` here)


@dataclass(frozen=True)
class TextFormat:
    """
    How a text is written in the generator's tokens.

    Args:
        start_token_id (`int`): The prompt of a text that has none.
        eos_token_id (`int`, *optional*): Ends a completion. `None`: completions run to their full length.
        pad_token_id (`int`): Fills rows; masks keep it from being read.
        max_completion_length (`int`): The most tokens of a completion, EOS included.
        pad_is_a_token (`bool`): Whether the padding token may stand in a text, too.
        vocab_size (`int`, *optional*): The tokens that the generator knows, from 0 on; `None`: ids are not checked.
    """

    start_token_id: int
    eos_token_id: int | None
    pad_token_id: int
    max_completion_length: int
    pad_is_a_token: bool = False
    vocab_size: int | None = None

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
            ValueError: If there is neither BOS nor EOS to start a text from, or the model does not know them.
        """
        vocab_size = embedding_rows(model)

        def find(name: str) -> int | None:
            value = getattr(processing_class, name, None)
            if value is None:
                value = getattr(model.config, name, None)
            return value[0] if isinstance(value, list) else value

        start, eos, pad = find("bos_token_id"), find("eos_token_id"), find("pad_token_id")
        if start is None:
            if eos is None:
                raise ValueError(
                    "The generator needs a BOS or an EOS token to start a text from, and neither its tokenizer nor "
                    "its configuration has one. Set `tokenizer.bos_token` or `model.config.bos_token_id`."
                )
            logger.info(f"The generator has no BOS token: texts start from its EOS token, {eos}.")
            start = eos
        if eos is None:
            logger.info(f"The generator has no EOS token: every completion has {max_completion_length} tokens.")
        if max(start, eos or 0) >= vocab_size:
            raise ValueError(
                f"BOS {start} or EOS {eos} is unknown to the generator, which has {vocab_size} tokens. Pass its "
                "tokenizer as `processing_class`. Call `model.resize_token_embeddings(len(tokenizer))` after adding "
                "tokens."
            )
        if pad is None or pad >= vocab_size:
            missing = "no padding token" if pad is None else f"no embedding of its padding token, {pad}"
            pad = eos if eos is not None else 0
            logger.info(f"The generator has {missing}: rows are filled with token {pad}, which masks hide.")
        # Without EOS nothing tells special tokens from words.
        is_a_token = eos is None or pad == eos
        return cls(start, eos, pad, max_completion_length, pad_is_a_token=is_a_token, vocab_size=vocab_size)


def check_kind(dataset: Any, name: str) -> None:
    """
    Raise `TypeError` unless it is one split of `datasets`.

    Args:
        dataset: What was passed.
        name (`str`): What to call it in the error.
    """
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset` or `IterableDataset`; got {type(dataset).__name__}. Pass one "
            "split, such as dataset['train'], or wrap your rows by `Dataset.from_list`."
        )


def column_names(dataset: AnyDataset) -> set[str]:
    """Return the names of the columns; of a stream that does not say them, those of its first row."""
    if dataset.column_names is not None:
        return set(dataset.column_names)
    return set(next(iter(dataset), {}))


def is_conditional(dataset: AnyDataset, text_format: TextFormat) -> bool:
    """Tell whether the rows bring prompts of their own, or all start from the same token."""
    columns = column_names(dataset)
    if {"prompt_ids", "completion_ids"} <= columns:
        start = [text_format.start_token_id]
        prompts = dataset["prompt_ids"] if isinstance(dataset, Dataset) else [next(iter(dataset))["prompt_ids"]]
        return any(list(prompt) != start for prompt in prompts)
    return any(set(source) <= columns for source in _CONDITIONAL_SOURCES)


def is_conversational(dataset: AnyDataset) -> bool:
    """Tell whether the rows are conversations, which go through a chat template."""
    row: Mapping[str, Any] = next(iter(dataset), {})
    return "messages" in row or isinstance(row.get("prompt"), list)


def prepare_dataset(
    dataset: AnyDataset,
    processing_class: PreTrainedTokenizerBase | None,
    text_format: TextFormat,
    name: str = "train_dataset",
    long_texts: str = "truncate",
    context_lengths: Mapping[str, int] | None = None,
    numbered: bool = False,
) -> AnyDataset:
    """
    Turn a supported dataset into rows of `prompt_ids` and `completion_ids`.

    Args:
        dataset (`Dataset` or `IterableDataset`): Columns `text`; or `prompt` and `completion`; or `messages`, whose last
            is the assistant's and becomes the completion; or `input_ids` (what an `attention_mask` hides is left out);
            or rows that this function made. Messages, also as `prompt` and `completion`, go through the chat template.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer; needed unless the rows
            are ids.
        text_format (`TextFormat`): The generator's special tokens and the most tokens of a completion.
        name (`str`): What to call the dataset in errors.
        long_texts (`str`): `truncate` or `error`, for texts longer than `max_completion_length`.
        context_lengths (`Mapping[str, int]`, *optional*): The most tokens that each reader, `generator` or
            `discriminator`, reads at once; a prompt must leave room for a whole completion.
        numbered (`bool`): Add a column `row_number`, the place of each row in `dataset`, where rows that are left out
            count, too.

    Returns:
        `Dataset` or `IterableDataset`: the same kind; rows without a single token are left out.

    Raises:
        TypeError: If it is not one split of `datasets`.
        ValueError: If it is empty, has no usable column, lacks a tokenizer or a chat template, or a text is too long.
    """
    check_kind(dataset, name)
    columns = column_names(dataset)
    if not columns or not _has_rows(dataset):
        raise ValueError(f"`{name}` is empty. Check its path, split and filters: at least one text is needed.")
    source = next((source for source in _SOURCES if set(source) <= columns), None)
    if source is None:
        raise ValueError(
            f"`{name}` needs a column `text`, or `prompt` and `completion`, or `messages`, or `input_ids`; got "
            f"{sorted(columns)}. "
            "Rename yours by `dataset.rename_column(...)`, or pass `--text_column` to a recipe."
        )
    if processing_class is None and source in _TEXT_SOURCES:
        raise ValueError(f"`{name}` holds text, so the generator's tokenizer must be passed as `processing_class`.")
    limits = dict(context_lengths or {})
    encoder = _RowEncoder(source, processing_class, text_format, name, long_texts, limits, numbered)
    # Rows formatted as tensors would not be lists of ids.
    plain = dataset.with_format(None)
    prepared = plain.map(encoder, batched=True, with_indices=True, remove_columns=sorted(columns))
    if not _has_rows(prepared):
        raise ValueError(f"`{name}` has rows, but each of them is blank. At least one text is needed.")
    return prepared


ROW_NUMBER = "row_number"
_PREPARED = ("prompt_ids", "completion_ids")
_CONDITIONAL_SOURCES = (("messages",), ("prompt", "completion"))
_TEXT_SOURCES = (*_CONDITIONAL_SOURCES, ("text",))
_SOURCES = (_PREPARED, *_TEXT_SOURCES, ("input_ids",))


@dataclass
class _RowEncoder:
    """Encodes a batch of rows; a class and not a closure, so that `datasets` can fingerprint and cache it."""

    source: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase | None
    text_format: TextFormat
    name: str
    long_texts: str
    context_lengths: dict[str, int]
    numbered: bool = False

    def __call__(self, batch: Mapping[str, list], indices: list[int]) -> dict[str, list]:
        start = self.text_format.start_token_id
        prompts = [[start]] * len(indices)
        if self.source == _PREPARED:
            prompts, completions = (self._checked(batch[name], indices, name) for name in _PREPARED)
        elif self.source in _CONDITIONAL_SOURCES:
            prompts, completions = self._encode_pairs(batch, indices)
        elif self.source == ("text",):
            completions = self._encode(batch["text"], indices, "text")
        else:
            masks = batch.get("attention_mask") or [None] * len(indices)
            ids_of_rows = self._checked(batch["input_ids"], indices, "input_ids")
            completions = [self._strip(*row) for row in zip(ids_of_rows, masks, indices, strict=True)]
        prompts = [ids or [start] for ids in prompts]
        rows = []
        for prompt, completion, index in zip(prompts, completions, indices, strict=True):
            finished = self._finish(list(completion), index)
            if finished and finished[0] != self.text_format.eos_token_id:
                self._check_room(prompt, index)
                self._check_known([*prompt, *finished], index)
                rows.append((list(prompt), finished, index))
        encoded: dict[str, list] = {"prompt_ids": [row[0] for row in rows], "completion_ids": [row[1] for row in rows]}
        if self.numbered:
            encoded[ROW_NUMBER] = [row[2] for row in rows]
        return encoded

    def _encode_pairs(self, batch: Mapping[str, list], indices: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Encode prompts and completions, which are texts or conversations."""
        if self.source == ("messages",):
            for messages, index in zip(batch["messages"], indices, strict=True):
                self._check_conversation(messages, index)
            prompts = [messages[:-1] for messages in batch["messages"]]
            completions = [messages[-1:] for messages in batch["messages"]]
        else:
            prompts, completions = batch["prompt"], batch["completion"]
        chats = [
            isinstance(prompt, list) and isinstance(last, list)
            for prompt, last in zip(prompts, completions, strict=True)
        ]
        if not all(chats):
            encoded = self._encode(prompts, indices, "prompt", add_special_tokens=True)
            return [self._without_eos(ids) for ids in encoded], self._encode(completions, indices, "completion")
        pairs = [self._render(*pair) for pair in zip(prompts, completions, indices, strict=True)]
        prompt_texts, completion_texts = ([pair[part] for pair in pairs] for part in (0, 1))
        # Templates write the special tokens themselves.
        return self._encode(prompt_texts, indices, "prompt"), self._encode(completion_texts, indices, "completion")

    def _check_conversation(self, messages: Any, index: int) -> None:
        if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
            raise ValueError(
                f"Row {index} of `{self.name}` must have a list of messages of `role` and `content`; got "
                f"{str(messages)[:60]!r}. Rename a column of plain texts to `text`."
            )

    def _render(self, prompt: list[Any], completion: list[Any], index: int) -> tuple[str, str]:
        """Write a conversation as the chat template has it, cut where the assistant's last turn begins."""
        assert self.tokenizer is not None
        where = f"Row {index} of `{self.name}`"
        self._check_conversation([*prompt, *completion], index)
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{where} is a conversation, but the tokenizer has no chat template. Pass a chat model's tokenizer, "
                "set `tokenizer.chat_template`, or make columns `prompt` and `completion` of plain text."
            )
        keys = {key for message in [*prompt, *completion] for key in message}
        if not {"role", "content"} <= keys:
            raise ValueError(
                f"{where} must have messages of `role` and `content`; got messages of {sorted(keys)}. Rename the keys "
                "by `dataset.map`."
            )
        roles = [message["role"] for message in completion]
        if not prompt or roles != ["assistant"]:
            raise ValueError(
                f"{where} must be a prompt of at least one message and one answer of the `assistant`; got the roles "
                f"{[message['role'] for message in prompt] + roles}. Cut or filter such conversations."
            )
        asked = str(self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        answered = str(self.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))
        if not answered.startswith(asked):
            raise ValueError(
                f"{where}: the chat template writes the answered conversation otherwise than the prompt alone, so the "
                "completion cannot be told from the prompt. Use a template that only appends turns."
            )
        return asked, answered[len(asked) :]

    def _encode(
        self, texts: Sequence[Any], indices: list[int], column: str, add_special_tokens: bool = False
    ) -> list[list[int]]:
        for text, index in zip(texts, indices, strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"Row {index} of `{self.name}` has a {type(text).__name__} in column `{column}` where text is "
                    "expected. Filter such rows out, or convert them to strings."
                )
            if not _is_unicode(text):
                raise ValueError(
                    f"Row {index} of `{self.name}` has a lone surrogate in column `{column}`, half a character, which "
                    "no tokenizer reads. Repair it by `text.encode('utf-8', 'replace').decode()`."
                )
        assert self.tokenizer is not None
        # `verbose=False`: the texts are cut below, so a warning that they exceed the model would be false.
        encoded = self.tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)
        return encoded["input_ids"]

    def _checked(self, column: list[Any], indices: list[int], name: str) -> list[list[int]]:
        """Return rows of ids, if each is a list of whole numbers that stand for tokens."""
        rows = []
        for value, index in zip(column, indices, strict=True):
            ids = _as_list(value)
            if ids is None or not all(type(token) is int or isinstance(token, np.integer) for token in ids):
                raise ValueError(
                    f"Row {index} of `{self.name}` must have a list of token ids, whole numbers, in column `{name}`; "
                    f"got {str(value)[:60]}. Encode the texts by the generator's tokenizer, or pass them as a column "
                    "`text`."
                )
            rows.append(ids)
        return rows

    def _check_known(self, ids: Sequence[int], index: int) -> None:
        if self.text_format.vocab_size is None or not ids:
            return
        if not 0 <= min(ids) <= max(ids) < self.text_format.vocab_size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise ValueError(
                f"Row {index} of `{self.name}` has token {wrong}, and the generator knows tokens from 0 to "
                f"{self.text_format.vocab_size - 1}. Encode the texts by its own tokenizer, or call "
                "`model.resize_token_embeddings(len(tokenizer))`."
            )

    def _strip(self, ids: list[int], mask: Any, index: int) -> list[int]:
        """
        Leave out padding and a start token.

        Without EOS nothing sets the start token apart from a word (in the synthetic oracle it is one), so it stays.
        """
        counting = [1] * len(ids) if mask is None else _as_list(mask)
        if counting is None or len(counting) != len(ids):
            raise ValueError(
                f"Row {index} of `{self.name}` has {len(ids)} `input_ids`, and as `attention_mask` {str(mask)[:60]}. "
                "Give each id one number, 1 where it counts, or drop the column."
            )
        kept = [token for token, counts in zip(ids, counting, strict=True) if counts]
        starts = kept[:1] == [self.text_format.start_token_id] and self.text_format.eos_token_id is not None
        return kept[1:] if starts else kept

    def _without_eos(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.text_format.eos_token_id else ids

    def _finish(self, ids: list[int], index: int) -> list[int]:
        """End a completion at its first EOS, or cut it: exactly what the generator could have written."""
        eos, most = self.text_format.eos_token_id, self.text_format.max_completion_length
        if eos is not None and eos in ids:
            ids = ids[: ids.index(eos) + 1]
        elif eos is not None and self.source != _PREPARED:
            # A prepared row without EOS was cut: it does not end here.
            ids = [*ids, eos]
        if len(ids) > most and self.long_texts == "error":
            raise ValueError(
                f"Row {index} of `{self.name}` has {len(ids)} tokens, EOS included, more than `max_completion_length` "
                f"({most}). Raise it, shorten the text, or set `long_texts` to `truncate`."
            )
        return ids[:most]

    def _check_room(self, prompt: list[int], index: int) -> None:
        most = self.text_format.max_completion_length
        for reader, context_length in self.context_lengths.items():
            if len(prompt) + most > context_length:
                raise ValueError(
                    f"Row {index} of `{self.name}` needs {len(prompt)} prompt tokens and up to {most} of completion, "
                    f"but the {reader} reads {context_length} tokens at most. Lower `max_completion_length` or "
                    "shorten the prompt."
                )


def _as_list(value: Any) -> list[Any] | None:
    """Return rows of a stream, which may be arrays, as those of a table are."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, (list, tuple)) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _has_rows(dataset: AnyDataset) -> bool:
    if isinstance(dataset, Dataset):
        return len(dataset) > 0
    return next(iter(dataset), None) is not None
