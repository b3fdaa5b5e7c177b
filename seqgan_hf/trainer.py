"""`SeqGANTrainer`: the game, in the order it is played."""

import contextlib
import copy
import functools
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.utils import logging

from .callbacks import CompletionsCallback, DiscriminatorCallback
from .completions import Completions
from .config import SeqGANConfig
from .data import (
    AnyDataset,
    RealTexts,
    TextFormat,
    check_context,
    generator_and_discriminator_folds,
    hold_out,
    is_conditional,
    prepare_dataset,
)
from .discriminator import Discriminator, context_length
from .evaluation import held_out_metrics
from .generation import generate_completions, sampling_config
from .loading import load_discriminator, load_generator, load_tokenizer
from .losses import (
    completion_logits,
    mean_negative_log_likelihood,
    negative_log_likelihood,
    per_token_entropy,
    per_token_kl,
    per_token_logps,
    policy_gradient_loss,
)
from .masking import masked_mean
from .rewards import advantages_from_rewards, apply_reward_control, average_rollout_scores, reward_from_scores
from .rollout import score_rollouts

logger = logging.get_logger(__name__)

_STATE_FILE = "seqgan_state.pt"
DISCRIMINATOR_FOLDER = "discriminator"


class SeqGANTrainer(Trainer):
    """
    Fine-tunes a causal language model against a discriminator that learns along with it: Algorithm 1 of SeqGAN
    (https://huggingface.co/papers/1609.05473).

    Args:
        model (`str` or `PreTrainedModel`): The generator: Hub id, local path or any causal language model.
        discriminator (`str` or `PreTrainedModel`): Hub id, local path or any sequence classifier with two labels.
        args (`SeqGANConfig`, *optional*): The settings.
        train_dataset (`Dataset` or `IterableDataset`): Real texts: a column `text`; or `prompt` and `completion`; or
            `input_ids`.
        eval_dataset (`Dataset` or `IterableDataset`, *optional*): Held-out texts in the same form.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer; loaded along where `model` is
            a name. Rows of `input_ids` need none.
        discriminator_processing_class (`PreTrainedTokenizerBase`, *optional*): The discriminator's own; loaded along
            where `discriminator` is a name. `None`: it reads the generator's token ids.
        peft_config (`PeftConfig`, *optional*): Train an adapter of the generator instead of the whole.
        callbacks (`list[TrainerCallback]`, *optional*): As in `Trainer`.

    Raises:
        ValueError: If the data, the two networks and the settings do not fit together; the message says which and why.
    """

    args: SeqGANConfig
    model: PreTrainedModel
    rollout_policy: PreTrainedModel
    processing_class: PreTrainedTokenizerBase | None

    # The loss is a mean over a batch: the Trainer divides it by the steps of gradient accumulation.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | PreTrainedModel,
        discriminator: str | PreTrainedModel,
        args: SeqGANConfig | None = None,
        train_dataset: AnyDataset | None = None,
        eval_dataset: AnyDataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        discriminator_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        args = SeqGANConfig(output_dir="seqgan-output") if args is None else args
        _refuse_several_processes(args)
        set_seed(args.seed)  # new heads and adapters are drawn below
        if processing_class is None and isinstance(model, str):
            processing_class = load_tokenizer(model)
        if discriminator_processing_class is None and isinstance(discriminator, str):
            discriminator_processing_class = load_tokenizer(discriminator)
        generator: Any = load_generator(model, **args.init_kwargs("model"))
        judge: Any = load_discriminator(discriminator, **args.init_kwargs("discriminator"))
        if peft_config is not None:
            generator = _with_adapter(generator, peft_config)

        if train_dataset is None:
            raise ValueError("`train_dataset` is missing: the discriminator needs real texts to learn from.")
        self.text_format = TextFormat.from_model(generator, processing_class, args.max_completion_length)
        conditional = is_conditional(train_dataset)
        self._prepare_texts = functools.partial(
            prepare_dataset,
            processing_class=processing_class,
            text_format=self.text_format,
            long_texts=args.long_texts,
        )
        train_dataset = self._prepare_texts(train_dataset, name="train_dataset")
        if eval_dataset is not None:
            eval_dataset = self._prepare_texts(eval_dataset, name="eval_dataset")
        check_context(train_dataset, self.text_format, context_length(generator, processing_class), "generator")
        self._set_up_texts(train_dataset, args)

        super().__init__(
            model=generator,
            args=args,
            data_collator=self._collate,
            train_dataset=self._prompt_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=held_out_metrics,
            callbacks=callbacks,
        )
        self.discriminator = Discriminator(
            model=judge.to(args.device),
            generator_processing_class=processing_class,
            processing_class=discriminator_processing_class,
            reads_prompt=conditional,
            pad_token_id=self.text_format.pad_token_id,
            generator_vocab_size=generator.get_input_embeddings().num_embeddings,
            learning_rate=args.discriminator_learning_rate,
            weight_decay=args.discriminator_weight_decay,
            batch_size=args.discriminator_batch_size,
            max_grad_norm=args.max_grad_norm,
            score_batch_size=args.rollout_batch_size,
        )
        if self.discriminator.processing_class is None:
            check_context(train_dataset, self.text_format, self.discriminator.context_length, "discriminator")
        self.generation_config = sampling_config(self.text_format, args.temperature)
        self.reference = self._frozen_copy() if args.beta > 0 and peft_config is None else None
        self.rollout_policy = self._frozen_copy() if args.rollout_update_rate < 1 else self.model
        self.sample_texts: list[dict[str, Any]] = []
        self._sets_played = 0
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self.add_callback(DiscriminatorCallback(self))
        if args.log_completions:
            self.add_callback(CompletionsCallback(self))

    def _set_up_texts(self, dataset: AnyDataset, args: SeqGANConfig) -> None:
        """Open the streams of real texts: the generator's, the discriminator's, and those it is only tested on."""
        pad = self.text_format.pad_token_id
        generator_folds, discriminator_folds = generator_and_discriminator_folds(
            dataset, args.discriminator_data, args.seed
        )
        self._prompt_dataset = generator_folds[0] if args.discriminator_data == "held_out" else dataset
        split = [hold_out(fold, args.discriminator_holdout, args.seed) for fold in discriminator_folds]
        self._generator_texts = [RealTexts(fold, pad, args.seed + 1) for fold in generator_folds]
        self._discriminator_texts = [RealTexts(train, pad, args.seed + 2) for train, _ in split]
        self._held_out_texts = [RealTexts(held_out, pad, args.seed + 3) for _, held_out in split]

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return vars(Completions.collate(rows, self.text_format.pad_token_id))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "completion_ids"]  # type: ignore[assignment]

    def get_train_dataloader(self) -> DataLoader:
        """Batches of prompts: `num_generations` completions of each make up the batch size."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self._train_batch_size // self.args.num_generations,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    # ---- Update G --------------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One update of the generator (or one accumulated part of it): write, finish, score, learn."""
        inputs = self._generate_and_score_completions(self._prepare_inputs(inputs))
        with self._timer("generator"):
            return super().training_step(model, inputs, num_items_in_batch)

    def _generate_and_score_completions(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        args = self.args
        # The last batch of an epoch may be short; its prompts are repeated, so that every update has the same size.
        num_prompts = self._train_batch_size // args.num_generations
        prompts = torch.arange(num_prompts, device=args.device) % len(inputs["prompt_ids"])
        with self._timer("generate"):
            completions = generate_completions(
                self.model,
                inputs["prompt_ids"][prompts],
                inputs["prompt_mask"][prompts],
                self.generation_config,
                args.num_generations,
                args.rollout_batch_size,
            )
        with self._timer("rollout"):
            scores, prompt_scores = score_rollouts(
                self.rollout_policy,
                completions,
                self._timed_score,
                self.generation_config,
                args.num_rollouts,
                args.rollout_stride,
                args.rollout_batch_size,
                from_prompt=args.baseline == "difference",
            )
        self._metrics["seconds/rollout"][-1] -= self._score_seconds
        self._metrics["seconds/score"].append(self._score_seconds)
        self._score_seconds = 0.0

        mask = completions.completion_mask
        rewards = average_rollout_scores(reward_from_scores(scores, args.reward), mask)
        prompt_values = reward_from_scores(prompt_scores, args.reward).mean(dim=0)
        self._record_completions(completions, scores, rewards)
        # The value of the prompt is one more reward to the controls: they replace whatever D said.
        controlled = apply_reward_control(
            torch.cat([prompt_values.unsqueeze(1), rewards], dim=1),
            torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
            args.reward_control,
        )
        advantages = advantages_from_rewards(
            controlled[:, 1:],
            mask,
            args.baseline,
            prompt_values=controlled[:, 0],
            num_generations=args.num_generations,
            stride=args.rollout_stride,
            whiten=args.whiten_advantages,
        )
        batch = {"completions": completions, "advantages": advantages}
        if args.mle_coef > 0:
            texts = self._generator_texts[self._round % len(self._generator_texts)]
            batch["real"] = texts.next(self._train_batch_size).to(args.device)
        return batch

    _score_seconds = 0.0

    def _timed_score(self, texts: Completions) -> torch.Tensor:
        start = time.perf_counter()
        scores = self.discriminator.score(texts)
        self._score_seconds += time.perf_counter() - start
        return scores

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """
        Policy-gradient loss, plus KL to the reference and likelihood of real texts where their weights are not 0.

        Raises:
            FloatingPointError: If it is not finite. The weights and the last checkpoint are as before.
        """
        args, completions = self.args, inputs["completions"]
        mask = completions.completion_mask
        logits = completion_logits(model, *completions.tensors())
        logps = per_token_logps(logits, completions.completion_ids, args.temperature)
        parts = {
            "policy": policy_gradient_loss(logps, inputs["advantages"], mask, args.max_completion_length),
        }
        with torch.no_grad():
            entropy = masked_mean(per_token_entropy(logits, args.temperature), mask)
            self._metrics["entropy"].append(entropy.item())
        if args.beta > 0:
            with torch.no_grad(), self._reference_policy() as reference:
                reference_logits = completion_logits(reference, *completions.tensors())
            kl = masked_mean(per_token_kl(logits, reference_logits), mask)
            parts["kl"] = args.beta * kl
            self._metrics["kl"].append(kl.item())
        if args.mle_coef > 0:
            real = inputs["real"]
            nll = mean_negative_log_likelihood(
                completion_logits(model, *real.tensors()), real.completion_ids, real.completion_mask
            )
            parts["mle"] = args.mle_coef * nll
            self._metrics["mle_loss"].append(nll.item())
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            named = ", ".join(f"{name} {value.item():.4g}" for name, value in parts.items())
            raise FloatingPointError(
                f"The generator's loss is {loss.item()} at step {self.state.global_step + 1} ({named}). Training stops "
                f"before the update; the last checkpoint in {args.output_dir} is as it was. Lower `learning_rate`, or "
                "use `reward='probability'` if `logit` rewards explode."
            )
        return loss

    @contextlib.contextmanager
    def _reference_policy(self) -> Iterator[nn.Module]:
        if self.reference is not None:
            yield self.reference
        else:
            model = self.accelerator.unwrap_model(self.model)
            with model.disable_adapter():
                yield model

    def _frozen_copy(self) -> PreTrainedModel:
        return copy.deepcopy(self.model).requires_grad_(False).eval()

    @torch.no_grad()
    def update_rollout_policy(self) -> None:
        """Move the delayed rollout policy towards the generator by `rollout_update_rate`; without delay, do nothing."""
        if self.rollout_policy is self.model:
            return
        for delayed, current in zip(self.rollout_policy.parameters(), self.model.parameters(), strict=True):
            delayed.lerp_(current.to(delayed.dtype), self.args.rollout_update_rate)

    # ---- Update D --------------------------------------------------------------------------------------------------

    def pretrain_discriminator(self) -> None:
        """Train D on `discriminator_warmup_steps` fresh sets before the first round: Algorithm 1, lines 4 and 5."""
        steps = self.args.discriminator_warmup_steps
        for _ in tqdm(range(steps), desc="Discriminator warm-up", unit="set", disable=steps == 0):
            self._train_discriminator_on_fresh_set()
        if steps:
            self.log({f"warmup_{name}": values[-1] for name, values in self._metrics.items()})
            self._metrics.clear()

    def update_discriminator(self) -> None:
        """Train D on `discriminator_steps` fresh sets: Algorithm 1, lines 11 to 13."""
        with self._timer("discriminator"):
            for _ in range(self.args.discriminator_steps):
                self._train_discriminator_on_fresh_set()

    def _train_discriminator_on_fresh_set(self) -> None:
        args, count = self.args, self.args.discriminator_samples
        fold = self._round % len(self._discriminator_texts)
        held_out = self._held_out_texts[fold]
        self._sets_played += 1
        seed = args.seed + 1_000_003 * self._sets_played
        # D draws from random states of its own: what G samples does not depend on how D was trained.
        with torch.random.fork_rng(devices=[args.device] if args.device.type == "cuda" else []):
            torch.manual_seed(seed)
            real = self._discriminator_texts[fold].next(count).to(args.device)
            generated = generate_completions(
                self.model, real.prompt_ids, real.prompt_mask, self.generation_config, 1, args.rollout_batch_size
            )
            sized = hasattr(held_out.dataset, "__len__")
            tested_on = held_out.next(min(count, len(held_out.dataset)) if sized else count)
            metrics = {f"held_out_{k}": v for k, v in self.discriminator.evaluate(tested_on, generated).items()}
            gate = args.discriminator_accuracy_gate
            if gate is None or metrics["held_out_accuracy"] < gate:
                metrics |= self.discriminator.update(real, generated, args.discriminator_epochs, seed)
        for name, value in metrics.items():
            self._metrics[f"discriminator/{name}"].append(value)

    @property
    def _round(self) -> int:
        return self.state.global_step // self.args.generator_steps

    # ---- Look ------------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: AnyDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Held-out negative log-likelihood per token (`eval_nll`, nats) and perplexity (`eval_perplexity`).

        Args:
            eval_dataset (`Dataset` or `IterableDataset`, *optional*): Texts as in `train_dataset`; the trainer's
                `eval_dataset` by default.
            ignore_keys (`list[str]`, *optional*): As in `Trainer`.
            metric_key_prefix (`str`): Stands before the names.

        Returns:
            `dict`: the metrics.
        """
        if isinstance(eval_dataset, (Dataset, IterableDataset)):
            eval_dataset = self._prepare_texts(eval_dataset, name="eval_dataset")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Held-out negative log-likelihood: its sum over each text (as predictions), and token counts (as labels)."""
        texts = Completions(**self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            labels = texts.completion_ids.masked_fill(texts.completion_mask == 0, -100)
            nll, counts = negative_log_likelihood(completion_logits(model, *texts.tensors()), labels)
        return nll.sum() / counts.sum(), nll, counts

    def _record_completions(self, completions: Completions, scores: torch.Tensor, rewards: torch.Tensor) -> None:
        mask, lengths = completions.completion_mask, completions.lengths
        self._metrics["reward/mean"].append(masked_mean(rewards, mask).item())
        self._metrics["reward/std"].append(rewards[mask.bool()].std(correction=0).item())
        self._metrics["completions/mean_length"].append(lengths.float().mean().item())
        eos = self.text_format.eos_token_id
        if eos is not None:
            ended = (completions.completion_ids == eos).any(dim=1).float().mean().item()
            self._metrics["completions/ended_ratio"].append(ended)
        shown = completions.select(slice(0, self.args.num_completions_to_log))
        last = (shown.lengths - 1).unsqueeze(1)
        probability = scores[0, : len(shown)].gather(1, last).squeeze(1).sigmoid().tolist()
        self.sample_texts = [
            {"prompt": prompt, "completion": completion, "score": score}
            for (prompt, completion), score in zip(self._texts(shown), probability, strict=True)
        ]

    def _texts(self, completions: Completions) -> list[tuple[str, str]]:
        def decode(ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
            rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
            if self.processing_class is None:
                return [" ".join(map(str, row)) for row in rows]
            return self.processing_class.batch_decode(rows, skip_special_tokens=True)

        texts = decode(completions.completion_ids, completions.completion_mask)
        if not self.discriminator.reads_prompt:
            return [("", text) for text in texts]
        return list(zip(decode(completions.prompt_ids, completions.prompt_mask), texts, strict=True))

    @contextlib.contextmanager
    def _timer(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._metrics[f"seconds/{phase}"].append(time.perf_counter() - start)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer` does; a training step's log also carries the means of all that was measured since the last."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._metrics.items()}
            self._metrics.clear()
        super().log(logs, start_time)

    # ---- Save, load, resume ----------------------------------------------------------------------------------------

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.args.bf16:
            self.discriminator.autocast = self.accelerator.autocast
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.discriminator.save(Path(output_dir or self.args.output_dir) / DISCRIMINATOR_FOLDER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.discriminator.load(Path(resume_from_checkpoint) / DISCRIMINATOR_FOLDER)

    def _streams(self) -> list[RealTexts]:
        return self._generator_texts + self._discriminator_texts + self._held_out_texts

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        delayed = None if self.rollout_policy is self.model else self.rollout_policy.state_dict()
        state = {
            "discriminator_optimizer": self.discriminator.optimizer.state_dict(),
            "streams": [stream.state_dict() for stream in self._streams()],
            "sets_played": self._sets_played,
            "rollout_policy": delayed,
        }
        torch.save(state, os.path.join(output_dir, _STATE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = torch.load(os.path.join(checkpoint, _STATE_FILE), map_location=self.args.device, weights_only=True)
        self.discriminator.optimizer.load_state_dict(state["discriminator_optimizer"])
        for stream, position in zip(self._streams(), state["streams"], strict=True):
            stream.load_state_dict(position)
        self._sets_played = state["sets_played"]
        if state["rollout_policy"] is not None:
            self.rollout_policy.load_state_dict(state["rollout_policy"])


def _refuse_several_processes(args: SeqGANConfig) -> None:
    if args.world_size > 1:
        raise ValueError(
            f"SeqGANTrainer runs in one process so far; {args.world_size} were launched. Use `accelerate launch "
            "--num_processes 1`."
        )
    if args.n_gpu > 1:
        logger.info("Several GPUs are visible; one is used.")
        args._n_gpu = 1


def _with_adapter(model: PreTrainedModel, peft_config: Any) -> Any:
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise ImportError("`peft_config` needs the package peft: pip install seqgan_hf[peft].") from error
    return get_peft_model(model, peft_config)
