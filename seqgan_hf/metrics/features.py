"""What metrics share that see texts through an encoder: its features, and how texts and encoder are taken in."""

import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from seqgan_hf.metrics import texts
from seqgan_hf.states import dropout_off


def longest_input(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """
    The most tokens that an encoder reads at once, special ones included.

    Args:
        encoder (`PreTrainedModel`):
            With a `config`.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer, whose own limit holds, too.

    Returns:
        `int`; a very large one if nothing limits it.
    """
    limits = [tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None) or 10**9]
    for name, module in encoder.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            # RoBERTa and its kin number positions from behind that of padding: 512 tokens for 514 positions.
            limits.append(module.num_embeddings - padding - 1)
    return min(limits)


@torch.no_grad()
def text_features(
    strings: Sequence[str], encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64
) -> np.ndarray:
    """
    The mean of an encoder's last hidden states over the tokens of each text, special ones included.

    Args:
        strings (`Sequence[str]`):
            The texts; what exceeds the encoder's longest input is cut off.
        encoder (`PreTrainedModel`):
            A model whose output has `last_hidden_state`.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        batch_size (`int`):
            Texts at a time.

    Returns:
        `np.ndarray` of shape `(num_texts, hidden_size)`, float64.

    Raises:
        ValueError: If a text has no token.
    """
    encoded = tokenizer(list(strings), truncation=True, max_length=longest_input(encoder, tokenizer))["input_ids"]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    if not encoded[order[0]]:
        raise ValueError(f"The encoder's tokenizer makes no token of {reprlib.repr(strings[order[0]])}. Leave it out.")
    features = [np.empty(0)] * len(encoded)
    with dropout_off(encoder):
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = [torch.tensor(encoded[row]) for row in rows]
            ids = pad_sequence(batch, batch_first=True).to(encoder.device)
            mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(encoder.device)
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.double()
            means = (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            for row, mean in zip(rows, means.cpu().numpy(), strict=True):
                features[row] = mean
    return np.stack(features)


class FeatureMetric(texts.TextMetric):
    """
    A metric that compares an encoder's features of generated texts with those of real ones.

    A subclass hands the arguments of its `compute` to `measure_features`, and compares features in `compare`.
    """

    form = datasets.Value("string")
    compare: Callable[..., dict[str, float]]
    """Measures features of generated and of real texts, with the settings that `compute` gave to `measure_features`."""

    @staticmethod
    def take(texts: Iterable[Any], argument: str) -> list[str]:
        """Check strings."""
        taken = list(texts)
        wrong = [text for text in taken if not isinstance(text, str)]
        if isinstance(texts, str) or wrong:
            got = texts if isinstance(texts, str) else wrong[0]
            raise TypeError(
                f"`{argument}` must be a list of strings, which the encoder reads; got {reprlib.repr(got)}."
            )
        return taken

    def measure_features(
        self,
        predictions: Sequence[Any] | None,
        reference_corpus: Sequence[str],
        encoder: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        batch_size: int,
        **settings: Any,
    ) -> dict[str, float] | None:
        """
        Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first.

        Args:
            predictions (`Sequence`, *optional*): Strings.
            reference_corpus (`Sequence[str]`): Two or more real texts.
            encoder (`str` or `PreTrainedModel`): A model with hidden states, or its name or folder.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): By default from where the encoder came from.
            batch_size (`int`): Texts at a time.
            **settings: For `compare`.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If there are fewer than two texts of either kind, or `batch_size` is below 1.
        """
        texts.check_at_least_one("batch_size", batch_size)
        real = self.take(reference_corpus, "reference_corpus")
        if len(real) < 2:
            raise ValueError(f"`reference_corpus` must hold at least 2 texts, to be compared; got {len(real)}.")
        model = AutoModel.from_pretrained(encoder) if isinstance(encoder, str) else encoder
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        return self.measure(
            predictions, fewest=2, real=real, encoder=model, tokenizer=tokenizer, batch_size=batch_size, **settings
        )

    def score(
        self,
        predictions: list[str],
        *,
        real: list[str],
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        **settings: Any,
    ) -> dict[str, float]:
        features = [text_features(strings, encoder, tokenizer, batch_size) for strings in (predictions, real)]
        return self.compare(*features, **settings)
