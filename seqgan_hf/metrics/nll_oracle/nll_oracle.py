"""NLL_oracle: generated texts under the true distribution, a language model."""

import numbers
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel

from seqgan_hf.metrics import texts
from seqgan_hf.states import dropout_off

_DESCRIPTION = """\
Mean negative log-likelihood per token of generated texts under an oracle, the language model that is the true
distribution of an experiment. It asks how probable is what was written, and says nothing of what never is.
"""

_CITATION = """\
@inproceedings{yu-etal-2017-seqgan,
    title     = "{S}eq{GAN}: Sequence Generative Adversarial Nets with Policy Gradient",
    author    = "Yu, Lantao and Zhang, Weinan and Wang, Jun and Yu, Yong",
    booktitle = "Proceedings of the Thirty-First AAAI Conference on Artificial Intelligence",
    year      = "2017",
    pages     = "2852--2858",
    doi       = "10.1609/aaai.v31i1.10804",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list` of `list[int]`):
        The token ids of generated texts, each with at least one token, without the start token and without padding.
    model (`str` or `PreTrainedModel`):
        The oracle: any causal language model, or its name or folder.
    start_token_id (`int`, *optional*):
        Stands before each text; by default the `bos_token_id` of the oracle.
    batch_size (`int`, defaults to 64):
        Texts at a time.

Returns:
    `dict[str, float]`: `nll_oracle`, nats per token, every token counted the same.

Raises:
    ValueError: If there are no texts, one is empty, an id is not in the vocabulary, `batch_size` is below 1, or no start
        token is known.
    TypeError: If a text is not a list of ids.

Examples:
    >>> nll_oracle = evaluate.load("seqgan_hf/metrics/nll_oracle")
    >>> nll_oracle.compute(predictions=[[4, 8, 15], [16, 23, 42]], model="oracle-folder")
"""


class NLLOracle(texts.TextMetric):
    """NLL_oracle of SeqGAN (https://huggingface.co/papers/1609.05473, equation 13), per token instead of per text."""

    about = _DESCRIPTION
    inputs = _INPUTS_DESCRIPTION
    bibtex = _CITATION
    urls = ("https://huggingface.co/papers/1609.05473",)
    form = datasets.Sequence(datasets.Value("int64"))

    @staticmethod
    def take(texts: Iterable[Any], argument: str) -> list[list[int]]:
        """Check lists of token ids."""
        taken = [text.tolist() if hasattr(text, "tolist") else text for text in texts]
        for text in taken:
            if not isinstance(text, list | tuple) or not all(
                isinstance(token, numbers.Integral) and not isinstance(token, bool) for token in text
            ):
                raise TypeError(
                    f"`{argument}` must be a list of lists of token ids, one a text; got {reprlib.repr(text)} for a text."
                )
            if not text:
                raise ValueError(f"`{argument}` holds a text without a token. Leave it out; it has no likelihood.")
        return [list(map(int, text)) for text in taken]

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        model: str | PreTrainedModel,
        start_token_id: int | None = None,
        batch_size: int = 64,
    ) -> dict[str, float] | None:
        """Score `predictions` and those given to `add` and `add_batch` before; None on all processes but the first."""
        texts.check_at_least_one("batch_size", batch_size)
        oracle = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, str) else model
        start = oracle.config.bos_token_id if start_token_id is None else start_token_id
        if start is None:
            raise ValueError("The oracle has no `bos_token_id`. Say what stands before each text: `start_token_id`.")
        return self.measure(predictions, oracle=oracle, start_token_id=start, batch_size=batch_size)

    @torch.no_grad()
    def score(
        self, predictions: list[list[int]], *, oracle: PreTrainedModel, start_token_id: int, batch_size: int
    ) -> dict[str, float]:
        vocab_size: Any = oracle.get_input_embeddings().num_embeddings
        for text in [*predictions, [start_token_id]]:
            if not 0 <= min(text) <= max(text) < vocab_size:
                raise ValueError(
                    f"`predictions` and `start_token_id` must be ids of the oracle, from 0 to {vocab_size - 1}; "
                    f"got {reprlib.repr(text)}."
                )
        total = 0.0
        # Like lengths together; the padding stands behind, where a causal model does not look.
        by_length = sorted(predictions, key=len)
        with dropout_off(oracle):
            for first in range(0, len(by_length), batch_size):
                rows = [torch.tensor(text) for text in by_length[first : first + batch_size]]
                ids = pad_sequence(rows, batch_first=True, padding_value=-100).to(oracle.device)
                inputs = torch.cat([ids.new_full((len(rows), 1), start_token_id), ids[:, :-1].clamp(min=0)], dim=1)
                mask = torch.cat([torch.ones_like(ids[:, :1]), (ids[:, :-1] >= 0).long()], dim=1)
                logits = oracle(input_ids=inputs, attention_mask=mask).logits.float()
                total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum").item()
        return {"nll_oracle": total / sum(map(len, predictions))}
