"""`SeqGANTrainer`: the game, in the order it is played."""

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset, disable_progress_bars
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, TrainerCallback, set_seed
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from .adapters import base_folders, embedding_rows, require_bases_elsewhere
from .callbacks import CompletionsCallback, DiscriminatorCallback, WarningsCallback
from .checkpoints import folders_of_pair
from .chunks import naming_knobs
from .completions import Completions
from .config import SeqGANConfig
from .data import AnyDataset, TextFormat, check_kind, is_conditional, is_conversational, prepare_dataset
from .discriminator import Discriminator, context_length
from .evaluation import completion_metrics, held_out_metrics
from .generation import new_row_limit, sampling_config, with_every_eos
from .hub import BackgroundPushes
from .interruption import InterruptionCallback
from .launch import check_launch, on_device
from .loading import (
    find_tokenizer,
    hub_arguments,
    load_discriminator,
    load_generator,
    require_discriminator,
    require_generator,
    require_tokenizer,
    switch_off_dropout,
)
from .losses import (
    completion_predictions,
    mean_negative_log_likelihood,
    mean_weights,
    negative_log_likelihood,
    policy_gradient_weights,
    reader_of,
    weighted_token_loss,
)
from .masking import mask_after_eos
from .metering import CpuClock, Meter
from .processes import begin_alike, is_first, largest, num_processes, process_index, put_together, share_of, total
from .progress import RichProgressCallback, choose_display
from .published import PublishedPairTrainer, base_model_of
from .randomness import COMPLETIONS, CONTROLS, NEGATIVES, ROLLOUTS, derived_keys, named_key
from .rewards import advantages_of_update, rewards_of_scores
from .rollout import score_rollouts
from .states import dropout_off, own_randomness
from .streams import GameTexts, Replay, read_alike, require_one_count

logger = logging.get_logger(__name__)

_SETS_REPLAYED = 10
_MEMORY_KNOBS = (
    "Lower `per_device_train_batch_size` and raise `gradient_accumulation_steps` as much, lower "
    "`max_completion_length`, set `gradient_checkpointing` or `bf16`, or train an adapter (`peft_config`)"
)


class SeqGANTrainer(PublishedPairTrainer):
    """
    Fine-tunes a causal language model against a discriminator that learns along with it: Algorithm 1 of SeqGAN
    (https://huggingface.co/papers/1609.05473).

    Args:
        model (`str` or `PreTrainedModel`): The generator: Hub id, local path or any causal language model.
        discriminator (`str` or `PreTrainedModel`): Hub id, local path or any sequence classifier with two labels.
        args (`SeqGANConfig`, *optional*): The settings.
        train_dataset (`Dataset` or `IterableDataset`): Real texts: a column `text`; or `prompt` and `completion`; or
            `messages`, for the chat template; or `input_ids`.
        eval_dataset (`Dataset` or `IterableDataset`, *optional*): Held-out texts in the same form.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer; loaded along where `model` is
            a name and has one beside it. Rows of `input_ids` need none.
        discriminator_processing_class (`PreTrainedTokenizerBase`, *optional*): The discriminator's own; loaded along
            where `discriminator` is a name and has one beside it. `None`: it reads the generator's token ids.
        peft_config (`PeftConfig`, *optional*): Train an adapter of the generator instead of the whole. The reference of
            the KL term is then the generator without it.
        discriminator_peft_config (`PeftConfig`, *optional*): The same for the discriminator, with task type `SEQ_CLS`.
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
        eval_dataset: AnyDataset | dict[str, AnyDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        discriminator_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any | None = None,
        discriminator_peft_config: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        args = SeqGANConfig() if args is None else args
        if not isinstance(args, SeqGANConfig):
            raise TypeError(f"`args` must be a `SeqGANConfig`; got {type(args).__name__}. It takes what that takes.")
        check_launch(args)
        if not is_first():
            disable_progress_bars()  # of `datasets`; those of a game are the first process's anyway
        if train_dataset is None:
            raise ValueError("`train_dataset` is missing: the discriminator needs real texts to learn from.")
        check_kind(train_dataset, "train_dataset")
        require_tokenizer(processing_class, "processing_class")
        require_tokenizer(discriminator_processing_class, "discriminator_processing_class")
        self._is_chat = is_conversational(train_dataset)
        set_seed(args.seed)  # new heads and adapters are drawn below
        generator = load_generator(model, peft_config, **args.init_kwargs("model"))
        require_generator(generator)
        if processing_class is None and isinstance(model, str):
            processing_class = find_tokenizer(model, **hub_arguments(args.init_kwargs("model")))
        if args.disable_dropout:
            switch_off_dropout(generator)
        self.text_format = TextFormat.from_model(generator, processing_class, args.max_completion_length)
        judge = load_discriminator(discriminator, discriminator_peft_config, **args.init_kwargs("discriminator"))
        require_discriminator(judge)
        self._base_folders = base_folders(generator, judge)
        require_bases_elsewhere(self._base_folders, *folders_of_pair(args.output_dir))
        if discriminator_processing_class is None and isinstance(discriminator, str):
            discriminator_processing_class = find_tokenizer(
                discriminator, **hub_arguments(args.init_kwargs("discriminator"))
            )
        self.discriminator = self._make_discriminator(
            on_device(judge, args),
            generator_processing_class=processing_class,
            processing_class=discriminator_processing_class,
            reads_prompt=is_conditional(train_dataset, self.text_format),
            generator_vocab_size=embedding_rows(generator),
            args=args,
            read_generator=reader_of(generator, is_conditional(train_dataset, self.text_format), args.temperature),
        )
        if self.discriminator.reads_prompt and args.discriminator_loss == "pairwise" and args.discriminator_replay > 0:
            raise ValueError(
                "`discriminator_loss='pairwise'` compares a real and a generated completion of one prompt, and "
                "`discriminator_replay` takes completions of other prompts; for data with prompts it must be 0, got "
                f"{args.discriminator_replay}."
            )
        self._base_model, self._discriminator_base_model = base_model_of(model), base_model_of(discriminator)
        limits = {"generator": context_length(generator, processing_class)}
        if self.discriminator.processing_class is None:
            limits["discriminator"] = self.discriminator.context_length
        self.prepare_texts = functools.partial(
            prepare_dataset,
            processing_class=processing_class,
            text_format=self.text_format,
            long_texts=args.long_texts,
            context_lengths={reader: limit for reader, limit in limits.items() if limit is not None},
        )
        require_one_count(train_dataset, args.discriminator_data, args.dataloader_num_workers)
        are_parted = args.discriminator_data != "same"
        self.texts = GameTexts(
            self.prepare_texts(train_dataset, name="train_dataset", numbered=are_parted),
            self.text_format.pad_token_id,
            args.discriminator_data,
            args.discriminator_holdout,
            args.seed,
            args.discriminator_share,
            prepared_from=train_dataset if are_parted else None,
        )
        self.replay = Replay(_SETS_REPLAYED * args.discriminator_samples, self.text_format.pad_token_id)
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: self.prepare_texts(part, name=key) for key, part in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = self.prepare_texts(eval_dataset, name="eval_dataset")

        super().__init__(
            model=generator,
            args=args,
            data_collator=functools.partial(_collate, pad_token_id=self.text_format.pad_token_id),
            train_dataset=self.texts.prompts,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=held_out_metrics,
            callbacks=callbacks,
        )
        for network in (self.model, self.discriminator.model):
            begin_alike(network)  # before copies are made
        self.generation_config = sampling_config(self.text_format, args.temperature)
        self.saved_generation_config = with_every_eos(self.generation_config, generator.generation_config)
        self.row_limit = new_row_limit()
        has_adapter = hasattr(generator, "disable_adapter")
        self.reference = self._frozen_copy() if args.beta > 0 and not has_adapter else None
        self.rollout_policy = self._frozen_copy() if args.rollout_update_rate < 1 else self.model
        self.sample_texts: list[dict[str, Any]] = []
        self._sets_played = 0
        self.card: dict[str, Any] = {}
        self.failed_pushes: list[str] = []
        self._pushes = BackgroundPushes(args.hub_token)
        self._meter, self._clock = Meter(), CpuClock()
        self._prompts: list[dict[str, torch.Tensor]] = []
        self._scored: list[dict[str, Any]] = []
        self._display = choose_display(args)
        if isinstance(self._display, RichProgressCallback):
            self.remove_callback(ProgressCallback)
            self.add_callback(self._display)
            self._meter.listener = self._display.enter
        self._interruption = InterruptionCallback(args.device)
        self.add_callback(DiscriminatorCallback(self))
        self.add_callback(self._interruption)
        self.add_callback(WarningsCallback())
        if args.log_completions:
            self.add_callback(CompletionsCallback(self, self._display.show_completions))

    def _make_discriminator(self, model: PreTrainedModel, args: SeqGANConfig, **kwargs: Any) -> Discriminator:
        return Discriminator(
            model,
            pad_token_id=self.text_format.pad_token_id,
            pad_is_a_token=self.text_format.pad_is_a_token,
            loss=args.discriminator_loss,
            learning_rate=args.discriminator_learning_rate,
            weight_decay=args.discriminator_weight_decay,
            batch_size=args.discriminator_batch_size,
            max_grad_norm=args.max_grad_norm,
            learns_prefixes=args.num_rollouts == 0,
            **({} if args.rollout_batch_size == "auto" else {"score_batch_size": args.rollout_batch_size}),
            **kwargs,
        )

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "completion_ids"]  # type: ignore[assignment]

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        return super()._get_dataloader(read_alike(dataset, kwargs.get("is_training", False)), *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of prompts: `num_generations` completions of each make up the batch size."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self._train_batch_size // self.args.num_generations,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        As in `Trainer`. However it ends, the terminal is given back and failed pushes are reported.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint's folder; `True`: the newest in
                `output_dir` that is complete.

        Raises:
            CheckpointError: If a checkpoint cannot be written.
            FloatingPointError: If losses, rewards or gradients are not finite.
            Interrupted: After Ctrl-C or SIGTERM. The update under way was finished, and a checkpoint was written.
            ValueError: If there is nothing to resume.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_checkpoint()
        with contextlib.closing(self._display), contextlib.ExitStack() as at_failure:
            at_failure.callback(self._report_pushes)
            with self._interruption.listening(), self._clock.running():
                result = super().train(resume_from_checkpoint, *args, **kwargs)
            at_failure.pop_all()  # `Trainer` has waited for them
        # A signal after the last update found nothing to end.
        if self.state.global_step < self.state.max_steps and self._interruption.received is not None:
            self._interruption.end(
                f"Stopped after update {self.state.global_step}, which is saved as a checkpoint in "
                f"{self.args.output_dir}. "
                + ("It holds weights alone." if self.args.save_only_model else "Go on with `resume_from_checkpoint`.")
            )
        return result

    # ---- Update G --------------------------------------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """As in `Trainer`: the prompts of an update, in as many batches as its gradient is accumulated over."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._prompts, self._scored = batches, []  # of an update that failed, parts may be left
        return batches, num_items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """
        One update of the generator: write, finish, score, learn. Where its gradient is accumulated over several batches,
        the first writes for all of them.
        """
        if not self._scored:
            self._scored = self._generate_and_score_completions(self._prompts)
        with self._meter.phase("generator"), naming_knobs("An update of the generator", _MEMORY_KNOBS):
            return super().training_step(model, self._scored.pop(0), num_items_in_batch)

    def _generate_and_score_completions(self, batches: Sequence[dict[str, torch.Tensor]]) -> list[dict[str, Any]]:
        args, pad = self.args, self.text_format.pad_token_id
        prompts = Completions.concatenate([self._full(self._prepare_inputs(batch)) for batch in batches], pad)
        # All processes' rows of a batch stand before those of the next batch, as their prompts do in the dataset.
        each, processes, step = self._train_batch_size, num_processes(), self.state.global_step
        rows = torch.arange(each) + each * process_index()
        rows = (rows + each * processes * torch.arange(len(batches)).unsqueeze(1)).flatten().to(args.device)
        count = len(rows) * processes
        with self._meter.phase("generate"):
            keys = derived_keys(named_key(args.seed, COMPLETIONS, step), rows)
            completions = self._generate(prompts, keys, args.num_generations)
        scores = self._score_prefixes(completions, derived_keys(named_key(args.seed, ROLLOUTS, step), rows))
        self._keep_samples(completions, scores[0])
        mine = rewards_of_scores(*scores, completions.completion_mask, args.reward)
        rewards, ids = (put_together(tensor, rows, count) for tensor in (mine, completions.completion_ids))
        mask = mask_after_eos(ids, self.text_format.eos_token_id)
        draws = torch.Generator().manual_seed(named_key(args.seed, CONTROLS, step))
        advantages = advantages_of_update(rewards, mask, args, draws)
        if wrong := int((~(rewards[:, 1:].isfinite() & advantages.isfinite())).sum()):
            raise self._diverged(f"{wrong} of {advantages.numel()} rewards are not finite")
        everyone = Completions(ids[:, :0], mask[:, :0], ids, mask)
        self._meter.add(completion_metrics(everyone, rewards[:, 1:], self.text_format.eos_token_id))
        return self._parts_of_update(completions, advantages, mask, rows)

    def _parts_of_update(
        self, completions: Completions, advantages: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor
    ) -> list[dict[str, Any]]:
        """Cut what this process has of an update into the batches that its gradient is accumulated over."""
        args, each, count = self.args, self._train_batch_size, len(advantages)
        common, real = {"num_tokens": mask.sum().item() * each / count}, None
        if args.mle_coef > 0:
            real = self.texts.for_generator(self.state.global_step // args.generator_steps, count).to(args.device)
            common["num_real_tokens"] = real.completion_mask.sum().item() * each / count
        parts = []
        for start in range(0, len(rows), each):
            part = slice(start, start + each)
            here = rows[part]
            batch = {"completions": completions.select(part), "advantages": advantages[here]}
            parts.append(batch | common | ({} if real is None else {"real": real.select(here)}))
        return parts

    def _full(self, inputs: dict[str, torch.Tensor]) -> Completions:
        """Repeat the prompts of a short batch, the last of an epoch, so that every update has the same size."""
        prompts = Completions(**inputs)
        num_prompts = self._train_batch_size // self.args.num_generations
        return prompts.select(torch.arange(num_prompts, device=self.args.device) % len(prompts))

    def _score_prefixes(self, completions: Completions, row_keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score every prefix by what its rollouts are worth, or, without rollouts, by what D says of it."""
        args = self.args
        if args.num_rollouts == 0:
            with self._meter.phase("score"):
                scores, prompt_scores = self.discriminator.score_prefixes(completions)
            return scores.unsqueeze(0), prompt_scores.unsqueeze(0)
        with self._meter.phase("rollout"), self.accelerator.autocast():
            return score_rollouts(
                self.rollout_policy,
                completions,
                self._score,
                self.generation_config,
                args.num_rollouts,
                args.rollout_stride,
                self.rows_at_once(completions.prompt_ids.shape[1]),
                from_prompt=args.baseline == "difference",
                row_limit=self.row_limit,
                row_keys=row_keys,
            )

    def _score(self, texts: Completions) -> torch.Tensor:
        with self._meter.phase("score"):
            return self.discriminator.score(texts)

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
        weights = policy_gradient_weights(inputs["advantages"], mask, args.max_completion_length)
        reference, kl_weights = None, None
        if args.beta > 0:
            # A context of its own: weights that autocast has cast and kept here would have no gradient below.
            with torch.no_grad(), self.accelerator.autocast(), self._reference_policy() as reference_policy:
                reference = completion_predictions(reference_policy, *completions.tensors())
            kl_weights = args.beta * mean_weights(mask, inputs["num_tokens"])
        with self.accelerator.autocast():
            loss, tokens = weighted_token_loss(
                completion_predictions(model, *completions.tensors()),
                completions.completion_ids,
                mask,
                weights,
                args.temperature,
                with_entropy=True,
                kl_weights=kl_weights,
                reference=reference,
            )
        # Neither is anything behind a completion.
        parts = {
            "entropy": tokens.entropy.sum() / inputs["num_tokens"],
            "policy_loss": -(tokens.logps * weights).sum(),
        }
        if args.beta > 0:
            parts["kl"] = tokens.kl.sum() / inputs["num_tokens"]
        if args.mle_coef > 0:
            with self.accelerator.autocast():
                parts["mle_loss"] = mean_negative_log_likelihood(model, inputs["real"], inputs["num_real_tokens"])
            loss = loss + args.mle_coef * parts["mle_loss"]
        values = {name: value.item() for name, value in parts.items()}
        self._meter.add(values)
        if largest(
            int(not torch.isfinite(loss)), args.device
        ):  # all stop, or one would wait for the others' gradients
            named = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise self._diverged(f"The generator's loss is {loss.item()}", f" ({named})")
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Stop before an update that would spoil the weights. A gradient scaler skips such updates by itself."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(norm)):
            raise self._diverged(f"The norm of the generator's gradient is {float(norm)}")
        return norm

    def _diverged(self, what: str, details: str = "") -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.state.global_step + 1}{details}. Training stops before the update; the last "
            f"checkpoint in {self.args.output_dir} is as it was. Lower `learning_rate`, or use "
            "`reward='probability'` if `logit` rewards explode."
        )

    @contextlib.contextmanager
    def _reference_policy(self) -> Iterator[nn.Module]:
        if self.reference is not None:
            yield self.reference
            return
        model = self.accelerator.unwrap_model(self.model)
        with dropout_off(model), model.disable_adapter():
            yield model

    def _frozen_copy(self) -> PreTrainedModel:
        return copy.deepcopy(self.model).requires_grad_(False).eval()

    @torch.no_grad()
    def update_rollout_policy(self) -> None:
        """Move a delayed rollout policy towards the generator by `rollout_update_rate`; without delay, do nothing."""
        if self.rollout_policy is self.model:
            return
        for delayed, current in zip(self.rollout_policy.parameters(), self.model.parameters(), strict=True):
            if current.requires_grad:  # what an adapter leaves frozen may be quantised
                delayed.lerp_(current.to(delayed.dtype), self.args.rollout_update_rate)

    # ---- Update D --------------------------------------------------------------------------------------------------

    def pretrain_discriminator(self) -> None:
        """Train D on `discriminator_warmup_steps` fresh sets before the first round: Algorithm 1, lines 4 and 5."""
        steps = self.args.discriminator_warmup_steps
        if steps == 0:
            return
        with self._meter.phase("warmup"):
            for _ in self._display.track(steps, "Discriminator warm-up", "set"):
                self._interruption.end_if_asked("Stopped before the first update: there is nothing to go on from.")
                self._train_discriminator_on_fresh_set(game_round=0)
        self.log({f"warmup_{name}": value for name, value in self._measured().items()})

    def update_discriminator(self) -> None:
        """Train D on `discriminator_steps` fresh sets, after the generator's updates of a round: lines 14 to 17."""
        game_round = (self.state.global_step - 1) // self.args.generator_steps
        with self._meter.phase("discriminator"):
            for _ in range(self.args.discriminator_steps):
                self._train_discriminator_on_fresh_set(game_round)

    def _train_discriminator_on_fresh_set(self, game_round: int) -> None:
        args, count = self.args, self.args.discriminator_samples
        self._sets_played += 1
        seed = args.seed + 1_000_003 * self._sets_played
        # D draws from random states of its own: what G samples does not depend on how D was trained.
        with own_randomness(seed, args.device):
            real = self.texts.for_discriminator(game_round, count).to(args.device)
            generated = self._negatives_for(real)
            tested = self.discriminator.evaluate(self.texts.held_out(game_round, count), generated)
            self._meter.add(tested, prefix="discriminator/held_out_")
            gate = args.discriminator_accuracy_gate
            if gate is None or tested["accuracy"] < gate:
                negatives = self.replay.mix(generated, args.discriminator_replay)
                trained = self.discriminator.update(real, negatives, args.discriminator_epochs, seed)
                self._meter.add(trained, prefix="discriminator/")
            if args.discriminator_replay > 0:
                self.replay.add(generated)

    def _negatives_for(self, real: Completions) -> Completions:
        """Complete the prompts of real texts, each process those of its share."""
        mine = share_of(len(real))
        key = named_key(self.args.seed, NEGATIVES, self._sets_played)
        keys = derived_keys(key, torch.arange(len(real)))[mine].to(self.args.device)
        ids = put_together(self._generate(real.select(mine), keys).completion_ids, mine, len(real))
        mask = mask_after_eos(ids, self.text_format.eos_token_id)
        return Completions(real.prompt_ids, real.prompt_mask, ids, mask)

    # ---- Look ------------------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of held-out texts; `evaluate` takes them in every form that `train_dataset` may have."""
        return super().get_eval_dataloader(self._prepared(eval_dataset, "eval_dataset"))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The same for `predict`."""
        return super().get_test_dataloader(self._prepared(test_dataset, "test_dataset"))

    def _prepared(self, dataset: Any, name: str) -> Any:
        is_raw = isinstance(dataset, (Dataset, IterableDataset))
        return self.prepare_texts(dataset, name=name) if is_raw else dataset

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Held-out negative log-likelihood: its sum over each text (as predictions), and token counts (as labels)."""
        texts = Completions(**self._prepare_inputs(inputs))
        with torch.no_grad(), self.accelerator.autocast():
            nll, counts = negative_log_likelihood(model, texts)
        return nll.sum() / counts.sum(), nll, counts

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, and its time is measured."""
        with self._meter.phase("evaluate"):
            return super().evaluation_loop(*args, **kwargs)

    def _keep_samples(self, completions: Completions, scores: torch.Tensor) -> None:
        shown = completions.select(slice(0, self.args.num_completions_to_log))
        last = (shown.lengths - 1).unsqueeze(1)
        self.sample_texts = self.discriminator.describe(shown, scores[0, : len(shown)].gather(1, last).squeeze(1))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer` does; that of a training step carries the means of all that was measured since the last."""
        if "loss" in logs:
            updates = self.state.global_step - self._last_log
            self._last_log = self.state.global_step
            logs |= self._measured(per=max(updates, 1))
        super().log(logs, start_time)

    def _measured(self, per: int = 1) -> dict[str, float]:
        """Read the meter: means over all processes, seconds too."""
        values = self._meter.read(per)
        if num_processes() == 1:
            return values
        means = (
            total(torch.tensor(list(values.values()), dtype=torch.double, device=self.args.device)) / num_processes()
        )
        return dict(zip(values, means.tolist(), strict=True))

    _last_log = _began_at = 0

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._last_log = self._began_at = self.state.global_step
        self._meter.read()  # an evaluation before the game is no part of its first log
        # From the settings or from accelerate's. In fp16, D would need a gradient scaler of its own.
        if self.accelerator.mixed_precision == "bf16":
            self.discriminator.autocast = self.accelerator.autocast
        return prepared


def _collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    return vars(Completions.collate(rows, pad_token_id))
