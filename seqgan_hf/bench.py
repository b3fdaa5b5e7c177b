"""Where the generators of one run on real text are measured, all alike: over the temperature, beside real texts."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from .arguments import TextRecipeArguments
from .checkpoints import write_whole
from .completions import Completions, decode_ids
from .evaluation import nll_at_temperatures
from .plots import plot_quality_and_diversity
from .samples import complete_prompts
from .stages import BEST_TEMPERATURE, MATCHED_TEMPERATURE, MLE, REAL_TEXTS, SEQGAN, SEQGAN_AT
from .text_measures import Task, TextMeasures, best_temperature, nearest_texts, temperature_where
from .trainer import SeqGANTrainer

NUM_SHOWN = 10
_BLOCK = 1024
_DRAWING_SEED = 42
_SCALED = tuple(step / 20 for step in range(16, 29))


class Bench:
    """
    Where the generators of one run are measured, all alike.

    Args:
        args (`TextRecipeArguments`): Temperatures, and how many samples.
        task (`Task`): What is measured.
        trainer (`SeqGANTrainer`): Prepares texts as the game does.
        splits (`DatasetDict`): Texts to train on, to stop by and to test on.
    """

    def __init__(self, args: TextRecipeArguments, task: Task, trainer: SeqGANTrainer, splits: DatasetDict) -> None:
        self.args, self.task, self.tokenizer = args, task, trainer.processing_class
        prepared = {
            name: trainer.prepare_texts(splits[name], name=f"{name}_dataset")
            for name in ("train", "validation", "test")
        }
        self.pad_token_id = trainer.text_format.pad_token_id
        self.rows = list(prepared["test"])
        strings = {name: self._strings(texts) for name, texts in prepared.items()}
        self.real = strings["validation"]
        self.training_texts = strings["train"]
        compared = min(args.num_test_samples, len(self.training_texts))
        self.measures = TextMeasures(task, strings["test"], self.training_texts, compared)
        # How much alike real texts are is read off training texts, of which there are as many as samples: a small split
        # may be of few sources, pieces of a few tunes, which are more alike than texts that were written apart.
        drawn = random.Random(_DRAWING_SEED).sample(self.training_texts, compared)
        self.of_real = self.measures.of(self.real, varied=drawn)
        self._rows_digest = hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()[:16]

    def _strings(self, texts: Dataset) -> list[str]:
        """Return texts as they are written, cut where the game cuts them; a block of them at a time."""
        strings: list[str] = []
        for first in range(0, len(texts), _BLOCK):
            rows = [
                {"prompt_ids": [], "completion_ids": ids} for ids in texts[first : first + _BLOCK]["completion_ids"]
            ]
            block = Completions.collate(rows, self.pad_token_id)
            strings += decode_ids(block.completion_ids, block.completion_mask, self.tokenizer)
        return strings

    def what(self) -> dict[str, Any]:
        """Say what a curve is measured on: figures compare where this is the same."""
        return {
            "texts": self.measures.digest,
            "num_samples": self.args.num_test_samples,
            "temperatures": self.args.temperatures,
            "rows": self._rows_digest,
        }

    def curve(
        self,
        trainer: SeqGANTrainer,
        model: PreTrainedModel | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> list[dict[str, Any]]:
        """
        Measure a generator at each temperature.

        Args:
            trainer (`SeqGANTrainer`): Holds it. Where the test texts have prompts, samples complete these.
            model (`PreTrainedModel`, *optional*): Another generator, on its device, to be measured instead.
            temperatures (`Sequence[float]`, *optional*): Above 0; by default those of the run.

        Returns:
            `list[dict]`: `temperature`; `nll` of the test texts, nats per token; `nll_best`, the lowest that this
            generator has at any temperature from 0.8 to 1.4 in steps of 0.05 (temperature scaling, [Guo et al.
            2017](https://huggingface.co/papers/1706.04599)): by it two generators differ in more than temperature; the
            metrics of [`TextMeasures`] of fresh samples, from the run's seed; and `samples`, the first ten.
        """
        model, text_format, num_samples = model or trainer.model, trainer.text_format, self.args.num_test_samples
        temperatures = list(temperatures or self.args.temperatures)
        batch_size = trainer.args.per_device_eval_batch_size
        read_at = list(dict.fromkeys([*temperatures, *_SCALED]))
        nlls = dict(
            zip(read_at, nll_at_temperatures(model, self.rows, self.pad_token_id, read_at, batch_size), strict=True)
        )
        nll_best = min(nlls[temperature] for temperature in _SCALED)
        # Spread over all prompts, and any few of the first samples complete different ones.
        step = max(len(self.rows) // num_samples, 1)
        prompts = [self.rows[index * step % len(self.rows)]["prompt_ids"] for index in range(num_samples)]
        at_once = trainer.rows_at_once(max(map(len, prompts)))
        curve: list[dict[str, Any]] = []
        for temperature in temperatures:
            sampled = complete_prompts(model, prompts, text_format, trainer.args.seed, temperature, at_once)
            samples = decode_ids(sampled.completion_ids, sampled.completion_mask, self.tokenizer)
            point = {"temperature": temperature, "nll": nlls[temperature], "nll_best": nll_best}
            curve.append(point | self.measures.of(samples) | {"samples": samples[:NUM_SHOWN]})
        return curve

    def matched_temperature(self, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> float | None:
        """
        Find the temperature at which the generator before the game writes as well as after it.

        Args:
            curves (`Mapping`): For `MLE` and `SeqGAN` what [`curve`] returned.

        Returns:
            `float`, *optional*: read off the curve of `MLE`; `None` if it does not get there.
        """
        return temperature_where(curves[MLE], self.task.quality, point_at(curves[SEQGAN])[self.task.quality])

    def stages(
        self, curves: Mapping[str, Sequence[Mapping[str, Any]]], matched: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, float]]:
        """
        Return the rows of the printed table.

        Args:
            curves (`Mapping`): For `MLE`, `SeqGAN` and its controls what [`curve`] returned.
            matched (`Mapping`, *optional*): The point of `MLE` at [`matched_temperature`], if there is one.

        Returns:
            `dict`: `MLE`; `MLE, best temperature`, at which it writes best without being more uniform than real texts;
            `MLE, matched temperature`, at which it writes as well as `SeqGAN`, if there is one; `SeqGAN`;
            `SeqGAN, temperature 0.7`, that of the samples shown, if `sample_temperature` is not 1; the controls;
            `real texts`, the validation texts, measured as samples are, but for their variety, which is that of as many
            training texts as there are samples.
        """
        task, mle = self.task, curves[MLE]
        rows = {MLE: point_at(mle)}
        limit = self.of_real[task.sameness]
        rows[BEST_TEMPERATURE] = best_temperature(mle, task.quality, task.sameness, limit)
        if matched is not None:
            rows[MATCHED_TEMPERATURE] = matched
        rows[SEQGAN] = point_at(curves[SEQGAN])
        if self.args.sample_temperature != 1:
            shown = self.args.sample_temperature
            rows[f"{SEQGAN_AT}{shown:g}"] = point_at(curves[SEQGAN], shown)
        rows |= {name: point_at(curve) for name, curve in curves.items() if name not in (MLE, SEQGAN)}
        rows[REAL_TEXTS] = self.of_real
        return {
            name: {metric: value for metric, value in point.items() if metric != "samples"}
            for name, point in rows.items()
        }

    def verdict(self, trainer: SeqGANTrainer) -> dict[str, float]:
        """Return what a trainer's discriminator knows: its accuracies and AUC on test texts and fresh completions."""
        rows = self.rows[: self.args.num_test_samples]
        real = Completions.collate(rows, self.pad_token_id)
        prompts = [row["prompt_ids"] for row in rows]
        at_once = trainer.rows_at_once(max(map(len, prompts)))
        generated = complete_prompts(trainer.model, prompts, trainer.text_format, trainer.args.seed, 1.0, at_once)
        return trainer.discriminator.evaluate(real, generated)

    def nearest(self, samples: Sequence[str]) -> list[str]:
        """Return for each sample the training text that shares most with it."""
        training = map(self.task.tokens, self.training_texts)
        return [self.training_texts[index] for index in nearest_texts(list(map(self.task.tokens, samples)), training)]

    def draw(self, curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
        """Draw the curves on the plane of quality and sameness, with the real texts."""
        real = [{"temperature": 1.0, **self.of_real}]
        order = self.task.order
        plot_quality_and_diversity(
            {**curves, REAL_TEXTS: real},
            path,
            "Up and to the left is better; each curve runs over the temperature",
            (self.task.sameness, f"self-BLEU-{order} (how much alike samples are)"),
            (self.task.quality, f"BLEU-{order} against held-out texts"),
        )


def point_at(curve: Sequence[Mapping[str, Any]], temperature: float = 1.0) -> Mapping[str, Any]:
    """Return the point of a curve at one of its temperatures; by default that of the model itself."""
    (point,) = [point for point in curve if point["temperature"] == temperature]
    return point


def keep_nearest(bench: Bench, samples: Sequence[str], path: Path) -> list[str]:
    """Keep samples with the training text most like each, apart from what is pushed, as these are real texts."""
    nearest = bench.nearest(samples)
    pairs = [{"sample": sample, "nearest": text} for sample, text in zip(samples, nearest, strict=True)]
    write_whole(path, json.dumps(pairs, indent=1, ensure_ascii=False))
    return nearest
