"""`Completions`: the dataclass that crosses every later boundary, for generated and for real texts alike."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from .masking import left_align

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass
class Completions:
    """
    A batch of texts as prompts and their completions.

    Real texts take the same form as generated ones, so that whatever reads them cannot tell one from the other by their
    padding, their start token or their EOS.

    Args:
        prompt_ids (`torch.Tensor` of shape `(batch_size, prompt_length)`): Left-padded; a start token at least.
        prompt_mask (`torch.Tensor` of shape `(batch_size, prompt_length)`): 1 where a token counts.
        completion_ids (`torch.Tensor` of shape `(batch_size, completion_length)`): Right-padded.
        completion_mask (`torch.Tensor` of shape `(batch_size, completion_length)`): 1 up to and including EOS.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor

    @classmethod
    def collate(cls, rows: Sequence[Mapping[str, Sequence[int]]], pad_token_id: int) -> "Completions":
        """
        Pad rows of token ids into one batch.

        Args:
            rows (`Sequence[Mapping]`): Each with lists `prompt_ids` and `completion_ids`.
            pad_token_id (`int`): Written where a row is shorter than the longest.

        Returns:
            `Completions`: prompts left-padded, completions right-padded.
        """
        prompts = [torch.tensor(row["prompt_ids"], dtype=torch.long) for row in rows]
        completions = [torch.tensor(row["completion_ids"], dtype=torch.long) for row in rows]

        def pad(sequences: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=side)

        return cls(
            prompt_ids=pad(prompts, pad_token_id, "left"),
            prompt_mask=pad([torch.ones_like(ids) for ids in prompts], 0, "left"),
            completion_ids=pad(completions, pad_token_id, "right"),
            completion_mask=pad([torch.ones_like(ids) for ids in completions], 0, "right"),
        )

    @classmethod
    def concatenate(cls, batches: Sequence["Completions"], pad_token_id: int) -> "Completions":
        """
        Put batches below each other.

        Args:
            batches (`Sequence[Completions]`): At least one, on one device.
            pad_token_id (`int`): Written where the texts of a batch are shorter than the longest.

        Returns:
            `Completions`
        """
        widths = [
            max(tensor.shape[1] for tensor in field) for field in zip(*(b.tensors() for b in batches), strict=True)
        ]
        padded = []
        for batch in batches:
            prompt, completion = (
                width - have.shape[1] for width, have in zip(widths[::2], batch.tensors()[::2], strict=True)
            )
            values = (pad_token_id, 0, pad_token_id, 0)
            sides = ((prompt, 0), (prompt, 0), (0, completion), (0, completion))
            padded.append(
                [
                    torch.nn.functional.pad(t, s, value=v)
                    for t, s, v in zip(batch.tensors(), sides, values, strict=True)
                ]
            )
        return cls(*(torch.cat(field) for field in zip(*padded, strict=True)))

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each completion, EOS included: a `torch.Tensor` of shape `(batch_size,)`."""
        return self.completion_mask.sum(dim=1)

    def select(self, index: torch.Tensor | slice) -> "Completions":
        """Return the rows of `index`, in its order."""
        return Completions(*(tensor[index] for tensor in self.tensors()))

    def halves(self) -> tuple["Completions", "Completions"]:
        """Return the first and the second half of the rows."""
        middle = len(self) // 2
        return self.select(slice(None, middle)), self.select(slice(middle, None))

    def to(self, device: torch.device | str) -> "Completions":
        """Return the batch on `device`."""
        return Completions(*(tensor.to(device) for tensor in self.tensors()))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the four tensors, in the order of the fields."""
        return self.prompt_ids, self.prompt_mask, self.completion_ids, self.completion_mask

    def distinct(self, include_prompt: bool, pad_token_id: int) -> tuple["Completions", torch.Tensor]:
        """
        Return each different text once.

        Args:
            include_prompt (`bool`): Whether texts with different prompts differ.
            pad_token_id (`int`): Written behind a text.

        Returns:
            `tuple`: the different texts, and for each text its place among them, a `torch.Tensor` of shape
            `(batch_size,)`.
        """
        ids, mask = self.sequences(include_prompt, pad_token_id)
        rows, place = ids.masked_fill(mask == 0, -1).unique(dim=0, return_inverse=True)
        one_of_each = torch.empty(len(rows), dtype=torch.long, device=ids.device)
        one_of_each[place] = torch.arange(len(ids), device=ids.device)
        return self.select(one_of_each), place

    def sequences(self, include_prompt: bool, pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return each text as one right-padded row.

        Args:
            include_prompt (`bool`): Whether the prompt stands before the completion.
            pad_token_id (`int`): Written behind each text.

        Returns:
            `tuple` of two `torch.Tensor` of shape `(batch_size, longest)`: ids and mask.
        """
        if not include_prompt:
            return left_align(self.completion_ids, self.completion_mask, pad_token_id)
        ids = torch.cat([self.prompt_ids, self.completion_ids], dim=1)
        mask = torch.cat([self.prompt_mask, self.completion_mask], dim=1)
        return left_align(ids, mask, pad_token_id)


def one_line(text: str) -> str:
    """Return a text as a line that a terminal shows and does not obey: a byte-level model may write escape sequences."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def decode_ids(ids: torch.Tensor, mask: torch.Tensor, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """
    Return texts as strings, without special tokens and exactly as their tokens spell them.

    Args:
        ids (`torch.Tensor` of shape `(batch_size, length)`): Token ids with padding anywhere.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a token counts.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): `None`: the ids are written as numbers.

    Returns:
        `list[str]`
    """
    rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    if tokenizer is None:
        return [" ".join(map(str, row)) for row in rows]
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
