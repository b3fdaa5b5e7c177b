"""What a generator is worth: held-out likelihood, BLEU and variety of samples, both over the softmax temperature."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from .completions import Completions, decode_ids
from .data import TextFormat, prepare_dataset
from .discriminator import context_length
from .losses import completion_predictions, token_logps
from .masking import masked_mean
from .metrics import Bleu
from .processes import is_first
from .samples import complete_prompts, sample_texts
from .states import dropout_off

# Chinese and Japanese have no spaces between words: each character is one. A combining mark is part of its letter.
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}"
_LETTERS = rf"[\w&&[^{_ALONE}]]+"
_WORDS = Split(Regex(rf"[{_ALONE}]|{_LETTERS}(?:['\u2019-]{_LETTERS})*|[^\w\s]"), "removed", invert=True)


def held_out_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    Held-out negative log-likelihood per token and perplexity, each token counting the same.

    Args:
        prediction (`EvalPrediction`): `predictions` of shape `(num_texts,)`, the sum of -log p of each text in nats;
            `label_ids` of shape `(num_texts,)`, its number of tokens.

    Returns:
        `dict`: `nll`, nats per token, and `perplexity`, its exponential; infinity above 709 nats.
    """
    nll = float(np.sum(prediction.predictions, dtype=np.float64) / np.sum(prediction.label_ids))
    return {"nll": nll, "perplexity": _perplexity(nll)}


def _perplexity(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:  # no float is as large
        return math.inf


def completion_metrics(completions: Completions, rewards: torch.Tensor, eos_token_id: int | None) -> dict[str, float]:
    """
    Sum up a batch of completions and what the discriminator thought of them.

    Args:
        completions (`Completions`): The batch.
        rewards (`torch.Tensor` of shape `(batch_size, completion_length)`): One per token.
        eos_token_id (`int`, *optional*): Ends a completion.

    Returns:
        `dict`: `reward/mean`, `reward/std` (over tokens), `completions/mean_length` (tokens) and, where there is an EOS,
        `completions/ended_ratio` in [0, 1].
    """
    counted = rewards[completions.completion_mask.bool()]
    metrics = {"reward/mean": counted.mean().item(), "reward/std": counted.std(correction=0).item()}
    lengths = length_metrics(completions, eos_token_id)
    return metrics | {f"completions/{name}": value for name, value in lengths.items()}


def length_metrics(texts: Completions, eos_token_id: int | None) -> dict[str, float]:
    """
    Tell how long texts are, and how many end.

    Args:
        texts (`Completions`): Real or generated.
        eos_token_id (`int`, *optional*): Ends a text.

    Returns:
        `dict`: `mean_length` (tokens, EOS included) and, where there is an EOS, `ended_ratio` in [0, 1].
    """
    metrics = {"mean_length": texts.lengths.float().mean().item()}
    if eos_token_id is not None:
        ended = (texts.completion_ids == eos_token_id) & texts.completion_mask.bool()
        metrics["ended_ratio"] = ended.any(dim=1).float().mean().item()
    return metrics


def variety_metrics(samples: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """
    Tell how many of some samples are texts of their own; white space around a text does not count.

    Args:
        samples (`Sequence[str]`): Generated texts; at least one.
        references (`Sequence[str]`): Held-out real texts.

    Returns:
        `dict`: `distinct_ratio`, distinct samples per sample, in (0, 1], and `duplicate_ratio`, the share of samples that
        are a reference word for word, in [0, 1].
    """
    stripped = [text.strip() for text in samples]
    known = {text.strip() for text in references}
    return {
        "distinct_ratio": len(set(stripped)) / len(stripped),
        "duplicate_ratio": sum(text in known for text in stripped) / len(stripped),
    }


@torch.no_grad()
def token_nll(
    model: PreTrainedModel, texts: Completions, temperature: float = 1.0, batch_size: int = 64
) -> torch.Tensor:
    """
    -log p of each token of some texts under a model.

    Args:
        model (`PreTrainedModel`): Any causal language model; dropout is off.
        texts (`Completions`): The texts.
        temperature (`float`): Divides the logits; above 0.
        batch_size (`int`): At once.

    Returns:
        `torch.Tensor` of shape `(num_texts, length)`: nats; 0 behind each text.
    """
    parts = []
    with dropout_off(model):
        for start in range(0, len(texts), batch_size):
            batch = texts.select(slice(start, start + batch_size)).to(model.device)
            predictions = completion_predictions(model, *batch.tensors())
            parts.append(-token_logps(predictions, batch.completion_ids, batch.completion_mask, [temperature])[0])
    return torch.cat(parts)


def mean_nll(model: PreTrainedModel, texts: Completions, temperature: float = 1.0) -> float:
    """
    Mean -log p per token: NLL_oracle if the model is the oracle and the texts a generator's, NLL_test the other way
    round (SeqGAN, Eq. 13, per token instead of per text).

    Args:
        model (`PreTrainedModel`): Any causal language model.
        texts (`Completions`): The texts.
        temperature (`float`): Divides the logits; above 0.

    Returns:
        `float`: nats per token.
    """
    return masked_mean(token_nll(model, texts, temperature).double(), texts.completion_mask.to(model.device)).item()


def oracle_curve(
    model: PreTrainedModel,
    oracle: PreTrainedModel,
    rows: Sequence[Mapping[str, Any]],
    text_format: TextFormat,
    temperatures: Sequence[float],
    num_samples: int = 10_000,
    seed: int = 42,
) -> list[dict[str, float]]:
    """
    Place a generator on the plane of quality and diversity, at several softmax temperatures (Caccia et al.,
    https://huggingface.co/papers/1811.02549).

    Args:
        model (`PreTrainedModel`): The generator.
        oracle (`PreTrainedModel`): The true distribution.
        rows (`Sequence[Mapping]`): Held-out texts of the oracle, each with `prompt_ids` and `completion_ids`.
        text_format (`TextFormat`): The model's special tokens and the most tokens of a text.
        temperatures (`Sequence[float]`): Above 0.
        num_samples (`int`): Texts sampled at each, from the same seed.
        seed (`int`): Decides them.

    Returns:
        `list[dict]`: for each temperature `temperature`, `NLL_oracle` (of samples under the oracle: quality, lower is
        better) and `NLL_test` (of held-out texts under the generator: diversity, lower is better), nats per token.
    """
    held_out = nll_at_temperatures(model, rows, text_format.pad_token_id, temperatures)
    curve = []
    for temperature, nll in zip(temperatures, held_out, strict=True):
        samples = sample_texts(model, text_format, num_samples, seed, temperature)
        curve.append({"temperature": temperature, "NLL_oracle": mean_nll(oracle, samples), "NLL_test": nll})
    return curve


def bleu_of_samples(samples: Sequence[str], references: Sequence[str], max_order: int = 4) -> dict[str, float]:
    """
    BLEU of generated texts against a whole corpus, as the paper measures speeches and poems.

    Words and punctuation marks are the tokens. A text shorter than the order counts as the metric has it (0 without
    smoothing).

    Args:
        samples (`Sequence[str]`): Generated texts; empty ones count as 0.
        references (`Sequence[str]`): Held-out real texts: each is a reference of every sample.
        max_order (`int`): The longest n-gram, at least 2.

    Returns:
        `dict`: `bleu2` to `bleu<max_order>`, in [0, 1].
    """
    tokenized = [words(text) for text in samples]
    scores = Bleu().compute(
        predictions=tokenized, reference_corpus=[words(text) for text in references], max_order=max_order
    )
    assert scores is not None  # `evaluate` returns None on other processes than the first; this one computes alone
    return {f"bleu{order}": scores[f"bleu{order}"] for order in range(2, max_order + 1)}


def words(text: str) -> list[str]:
    """
    Split a text into words (apostrophes and hyphens inside them stay) and punctuation marks, case kept; Chinese and
    Japanese into characters.
    """
    return [word for word, _ in _WORDS.pre_tokenize_str(text)]


def stages_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    """
    Lay out the metrics of a run's stages for a terminal.

    Args:
        stages (`Mapping`): For each stage, such as `MLE` and `SeqGAN`, its metrics; the first names the columns. What a
            later one lacks is a dash.

    Returns:
        `str`: a header and one line a stage.
    """
    columns = list(next(iter(stages.values())))
    first = max(len(name) for name in stages)
    widths = {column: max(len(column), 8) for column in columns}
    lines = [" " * first + "".join(f"  {column:>{width}}" for column, width in widths.items())]
    for name, metrics in stages.items():
        cells = {column: f"{metrics[column]:.4f}" if column in metrics else "-" for column in columns}
        lines.append(f"{name:<{first}}" + "".join(f"  {cells[column]:>{width}}" for column, width in widths.items()))
    return "\n".join(lines)


def evaluate_generator(
    model: PreTrainedModel,
    texts: Dataset,
    processing_class: PreTrainedTokenizerBase | None = None,
    max_completion_length: int = 64,
    temperatures: Sequence[float] = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    num_samples: int = 500,
    batch_size: int = 32,
    seed: int = 42,
) -> dict[str, Any]:
    """
    Measure a generator on texts that it has not seen: their likelihood, and BLEU and variety of its samples.

    Args:
        model (`PreTrainedModel`): Any causal language model; dropout is off.
        texts (`Dataset`): Held-out texts, in every form that `SeqGANTrainer` takes. Where they bring prompts, their
            completions are measured, and the samples complete these prompts.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The model's tokenizer. Rows of ids need none.
        max_completion_length (`int`): The most tokens of a text, EOS included; longer real texts are cut.
        temperatures (`Sequence[float]`): Of the sweep, above 0; 1, the model itself, is added.
        num_samples (`int`): Texts sampled at each temperature.
        batch_size (`int`): Texts at once.
        seed (`int`): Decides the samples.

    Returns:
        `dict`: `held_out`, with `nll` (nats per token), `perplexity`, `texts`, `tokens` (EOS included), `cut_ratio` (the
        share of the texts that were longer), `mean_length`, `ended_ratio` and, where there is a tokenizer, `bytes` (of
        the texts as cut, in UTF-8) and `nll_per_byte` (nats; it compares models whose tokens differ, if few texts are
        cut); and `sweep`, as [`temperature_sweep`] returns it.

    Raises:
        ValueError: If the texts do not fit the model, or there are none.
    """
    text_format = TextFormat.from_model(model, processing_class, max_completion_length)
    rows, cut_ratio = _held_out_rows(model, texts, processing_class, text_format)
    temperatures = sorted({*temperatures, 1.0})
    sweep = temperature_sweep(model, rows, text_format, processing_class, temperatures, num_samples, batch_size, seed)
    nll = sweep[temperatures.index(1.0)]["nll"]
    held_out = Completions.collate(rows, text_format.pad_token_id)
    num_tokens = int(held_out.lengths.sum())
    metrics = {"nll": nll, "perplexity": _perplexity(nll)}
    if processing_class is not None:
        num_bytes = sum(len(text.encode()) for text in _strings(held_out, processing_class))
        metrics |= {"nll_per_byte": nll * num_tokens / max(num_bytes, 1), "bytes": num_bytes}
    metrics |= {"texts": len(rows), "tokens": num_tokens, "cut_ratio": cut_ratio}
    return {"held_out": metrics | length_metrics(held_out, text_format.eos_token_id), "sweep": sweep}


def temperature_sweep(
    model: PreTrainedModel,
    rows: Sequence[Mapping[str, Sequence[int]]],
    text_format: TextFormat,
    processing_class: PreTrainedTokenizerBase | None,
    temperatures: Sequence[float],
    num_samples: int = 500,
    batch_size: int = 32,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """
    Measure a generator at several softmax temperatures: the rival of whatever sharpens it.

    A lower temperature raises BLEU and costs held-out likelihood. What another training gains is worth something if it
    lies beyond this curve (Caccia et al., https://huggingface.co/papers/1811.02549).

    Args:
        model (`PreTrainedModel`): Any causal language model.
        rows (`Sequence[Mapping]`): Held-out texts, each with `prompt_ids` and `completion_ids`.
        text_format (`TextFormat`): The model's special tokens and the most tokens of a completion.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The model's tokenizer. `None`: BLEU counts ids.
        temperatures (`Sequence[float]`): Above 0.
        num_samples (`int`): Texts sampled at each, from the same seed. They complete the prompts of the rows, all alike
            often.
        batch_size (`int`): Texts at once.
        seed (`int`): Decides the samples.

    Returns:
        `list[dict]`: for each temperature `temperature`; `nll` of the held-out texts, nats per token; and of the samples
        the metrics of [`bleu_of_samples`], [`length_metrics`] and [`variety_metrics`], and `samples`, the first five.
    """
    nll = nll_at_temperatures(model, rows, text_format.pad_token_id, temperatures, batch_size)
    references = _strings(Completions.collate(rows, text_format.pad_token_id), processing_class)
    prompts = [rows[index * len(rows) // num_samples]["prompt_ids"] for index in range(num_samples)]
    sweep = []
    for temperature, held_out_nll in zip(tqdm(temperatures, "Temperatures"), nll, strict=True):
        samples = complete_prompts(model, prompts, text_format, seed, temperature, batch_size)
        strings = _strings(samples, processing_class)
        point: dict[str, Any] = {"temperature": temperature, "nll": held_out_nll}
        point |= bleu_of_samples(strings, references)
        point |= length_metrics(samples, text_format.eos_token_id) | variety_metrics(strings, references)
        sweep.append(point | {"samples": strings[:5]})
    return sweep


@torch.no_grad()
def nll_at_temperatures(
    model: PreTrainedModel,
    rows: Sequence[Mapping[str, Sequence[int]]],
    pad_token_id: int,
    temperatures: Sequence[float],
    batch_size: int = 32,
) -> list[float]:
    """
    Mean -log p per token of texts under a model, each token counting the same: one forward pass for all temperatures.

    Args:
        model (`PreTrainedModel`): Any causal language model; dropout is off.
        rows (`Sequence[Mapping]`): Texts, each with `prompt_ids` and `completion_ids`; completions are measured.
        pad_token_id (`int`): Fills the rows.
        temperatures (`Sequence[float]`): Each divides the logits; above 0.
        batch_size (`int`): Texts at once. No more logits are ever held.

    Returns:
        `list[float]`: nats per token, one for each temperature.
    """
    sums = torch.zeros(len(temperatures), dtype=torch.float64)
    starts = range(0, len(rows), batch_size)
    with dropout_off(model):
        for start in tqdm(starts, "Likelihood of held-out texts", unit="batch", leave=False, disable=not is_first()):
            batch = Completions.collate(rows[start : start + batch_size], pad_token_id).to(model.device)
            predictions = completion_predictions(model, *batch.tensors())
            logps = token_logps(predictions, batch.completion_ids, batch.completion_mask, temperatures)
            sums -= logps.cpu().double().sum(dim=(1, 2))
    num_tokens = sum(len(row["completion_ids"]) for row in rows)
    return (sums / num_tokens).tolist()


def _held_out_rows(
    model: PreTrainedModel,
    texts: Dataset,
    processing_class: PreTrainedTokenizerBase | None,
    text_format: TextFormat,
) -> tuple[list[dict[str, list[int]]], float]:
    """Return texts as rows of ids, and the share of them that had to be cut."""
    limit = context_length(model, processing_class)
    # Prepared with room for one token more, a text that is cut shows.
    longer = dataclasses.replace(text_format, max_completion_length=text_format.max_completion_length + 1)
    prepared = prepare_dataset(texts, processing_class, longer, "the held-out texts")
    cut = sum(len(ids) == longer.max_completion_length for ids in prepared["completion_ids"])
    limits = {} if limit is None else {"generator": limit}
    rows = prepare_dataset(prepared, processing_class, text_format, "the held-out texts", context_lengths=limits)
    return list(rows), cut / len(prepared)


def _strings(texts: Completions, processing_class: PreTrainedTokenizerBase | None) -> list[str]:
    return decode_ids(texts.completion_ids, texts.completion_mask, processing_class)


def evaluation_table(report: Mapping[str, Any]) -> str:
    """
    Lay out what [`evaluate_generator`] found for a terminal.

    Args:
        report (`Mapping`): From [`evaluate_generator`].

    Returns:
        `str`: two lines on the held-out texts, and a table of the sweep: NLL of these texts; of the samples BLEU, mean
        length, and the shares that end, are distinct, and are copied from these texts. The real texts come last.
    """
    held_out, sweep = report["held_out"], report["sweep"]
    per_byte = f", {held_out['nll_per_byte']:.4f} nats per byte" if "nll_per_byte" in held_out else ""
    columns = {name: column for name, column in _COLUMNS.items() if name in sweep[0]}
    lines = [
        f"{held_out['texts']:,} texts, {held_out['tokens']:,} tokens; {held_out['cut_ratio']:.1%} of the texts were cut.",
        f"Held-out NLL {held_out['nll']:.4f} nats per token (perplexity {held_out['perplexity']:.2f}){per_byte}.",
        "",
        f"{'temperature':>11}" + "".join(f"{heading:>10}" for heading, _ in columns.values()),
    ]
    for point in sweep:
        cells = [format(point[name], layout) for name, (_, layout) in columns.items()]
        lines.append(f"{point['temperature']:11g}{''.join(cells)}")
    real = [format(held_out[name], columns[name][1]) for name in ("mean_length", "ended_ratio") if name in columns]
    lines.append(f"{'real texts':>11}{'':40}{''.join(real)}")
    return "\n".join(lines)


# Metric of a sweep -> heading and layout of its column.
_COLUMNS = {
    "nll": ("NLL", "10.4f"),
    "bleu2": ("BLEU-2", "10.4f"),
    "bleu3": ("BLEU-3", "10.4f"),
    "bleu4": ("BLEU-4", "10.4f"),
    "mean_length": ("tokens", "10.1f"),
    "ended_ratio": ("ended", "10.1%"),
    "distinct_ratio": ("distinct", "10.1%"),
    "duplicate_ratio": ("copied", "10.1%"),
}
