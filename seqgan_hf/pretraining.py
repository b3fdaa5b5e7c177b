"""Maximum likelihood before the game (Algorithm 1, line 2): a `transformers.Trainer` that never holds all logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from .data import AnyDataset, TextFormat, prepare_dataset
from .evaluation import held_out_metrics
from .launch import check_launch
from .losses import Predictions, completion_predictions, mean_weights, token_logps, weighted_token_loss
from .shards import ShardedTrainer
from .streams import read_alike


def pretrain_generator(
    model: PreTrainedModel,
    train_dataset: AnyDataset,
    eval_dataset: AnyDataset,
    processing_class: PreTrainedTokenizerBase | None = None,
    output_dir: str | Path = "mle-output",
    max_completion_length: int = 64,
    long_texts: str = "truncate",
    epochs: float = 20,
    learning_rate: float = 1e-2,
    batch_size: int = 64,
    patience: int = 3,
    max_grad_norm: float = 5.0,
    seed: int = 42,
    **training_arguments: Any,
) -> dict[str, float]:
    """
    Train a generator by maximum likelihood, stop when held-out NLL does not fall any more, and keep its best state.

    Args:
        model (`PreTrainedModel`): Any causal language model; trained in place.
        train_dataset (`Dataset` or `IterableDataset`): Real texts, in every form that `SeqGANTrainer` takes.
        eval_dataset (`Dataset` or `IterableDataset`): Held-out texts. They decide when to stop, so report on
            others.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer. Rows of ids need none.
        output_dir (`str` or `Path`): Where the best and the last checkpoint are kept.
        max_completion_length (`int`): The most tokens of a text, EOS included, as in `SeqGANConfig`.
        long_texts (`str`): `truncate` or `error`, as in `SeqGANConfig`.
        epochs (`float`): At most.
        learning_rate (`float`): Of AdamW, constant; the default is the authors' code for their LSTM.
        batch_size (`int`): Texts per update, those of all processes together.
        patience (`int`): Stop after so many epochs without a new best; 0 trains all epochs and keeps the last state.
        max_grad_norm (`float`): Gradients are clipped to this norm; the default is the authors' code.
        seed (`int`): Of the order of the texts.
        **training_arguments: More of `transformers.TrainingArguments`. One process uses one GPU. accelerate keeps one
            precision for all of a process, so `bf16` and `fp16` must be those of the game.

    Returns:
        `dict`: `epochs` trained, and the held-out `nll` per token and `perplexity` of the state that was kept.

    Raises:
        ValueError: If `label_smoothing_factor` is set: it would not be maximum likelihood. If `batch_size` cannot be
            shared out, or the launcher asks for what a generator cannot be launched with.
    """
    if training_arguments.get("label_smoothing_factor"):
        raise ValueError(
            "`label_smoothing_factor` is not supported: this stage is plain maximum likelihood, and its likelihood stops "
            "it. Leave it out."
        )
    text_format = TextFormat.from_model(model, processing_class, max_completion_length)
    train_dataset, eval_dataset = (
        prepare_dataset(dataset, processing_class, text_format, name, long_texts)
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset))
    )
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "max_grad_norm": max_grad_norm,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_strategy": "epoch" if patience else "no",
        "save_total_limit": 1,
        "load_best_model_at_end": patience > 0,
        "metric_for_best_model": "nll",
        "greater_is_better": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "accelerator_config": {"dispatch_batches": False},
        "seed": seed,
        "report_to": "none",
    }
    settings = TrainingArguments(**(arguments | training_arguments))
    check_launch(settings)
    if batch_size % settings.world_size:
        raise ValueError(
            f"`batch_size` is that of all processes together, so it must be a multiple of their number, "
            f"{settings.world_size}; got {batch_size}. A recipe has it as `mle_batch_size`."
        )
    settings.per_device_train_batch_size //= settings.world_size
    trainer = LikelihoodTrainer(
        model=model,
        args=settings,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=LikelihoodCollator(text_format.pad_token_id),
        compute_metrics=held_out_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=patience)] if patience else [],
    )
    # Rows hold `prompt_ids` and `completion_ids`, which no forward takes; the collator needs them.
    trainer.args.remove_unused_columns = False
    trainer.train()
    metrics = trainer.evaluate()
    return {
        "epochs": float(trainer.state.epoch or 0),
        "nll": metrics["eval_nll"],
        "perplexity": metrics["eval_perplexity"],
    }


class LikelihoodTrainer(ShardedTrainer):
    """
    `transformers.Trainer` on batches of [`LikelihoodCollator`]: the mean of -log p over labelled tokens.

    The projection to the vocabulary and its cross-entropy go block by block (`losses.weighted_token_loss`). The loss that
    a model computes itself holds three copies of all logits, which for a small model is most of its time and memory.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # the Trainer then counts the labels of all accumulated batches

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        return super()._get_dataloader(read_alike(dataset, kwargs.get("is_training", False)), *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean of -log p over the labels of the batch, or their sum over `num_items_in_batch`."""
        with self.accelerator.autocast():
            predictions, ids, labelled = _predict_labels(model, inputs)
            weights = mean_weights(labelled)
            if num_items_in_batch is not None:
                weights = labelled / num_items_in_batch
                if self.args.average_tokens_across_devices:
                    weights = weights * self.accelerator.num_processes
            return weighted_token_loss(predictions, ids, labelled, weights)[0]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Held-out negative log-likelihood: its sum over each text (as predictions), and token counts (as labels)."""
        with torch.no_grad(), self.accelerator.autocast():
            predictions, ids, labelled = _predict_labels(model, self._prepare_inputs(inputs))
            nll = -token_logps(predictions, ids, labelled)[0].sum(dim=1)
        counts = labelled.sum(dim=1)
        return nll.sum() / counts.sum(), nll, counts


def _predict_labels(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Predictions, torch.Tensor, torch.Tensor]:
    """Predict every token but the first: the predictions, the tokens, and 1 where one is labelled."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    predictions = completion_predictions(model, ids[:, :1], mask[:, :1], ids[:, 1:], mask[:, 1:])
    return predictions, ids[:, 1:], (inputs["labels"][:, 1:] != -100).long()


class LikelihoodCollator:
    """
    Rows of `prompt_ids` and `completion_ids` to a right-padded batch with labels on the completions alone.

    Args:
        pad_token_id (`int`): Fills the rows.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor([*row["prompt_ids"], *row["completion_ids"]]) for row in rows]
        labels = [torch.tensor([-100] * len(row["prompt_ids"]) + list(row["completion_ids"])) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }
