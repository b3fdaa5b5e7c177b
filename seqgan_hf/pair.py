"""`PairTrainer`: a `transformers.Trainer` that keeps two networks together: saved, loaded, resumed and pushed as one."""

import contextlib
import importlib.metadata
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, SaveStrategy, rotate_checkpoints
from transformers.utils import ADAPTER_CONFIG_NAME, is_matplotlib_available, logging

from .checkpoints import (
    DISCRIMINATOR_FOLDER,
    STATE_FILE,
    last_checkpoint,
    refusing_code,
    what_is_wrong_with,
    written_whole,
)
from .chunks import RowLimit
from .completions import Completions
from .config import SeqGANConfig
from .data import TextFormat
from .discriminator import Discriminator, area_under_curve
from .generation import generate_completions
from .hub import BackgroundPushes, PushError, create_repository, how_to_push, result_of_push, stage_checkpoint
from .memory import rows_that_fit
from .model_card import CardFacts, NetworkFacts, render_model_card
from .plots import plot_learning_curves
from .processes import from_first, is_first
from .randomness import SAMPLES, derived_keys, named_key
from .streams import GameTexts, Replay

logger = logging.get_logger(__name__)

_ARGUMENTS_FILE = "training_args.json"
_CARD_SAMPLES = 8
_CARD_TESTS = 128  # texts of either kind that the card's AUC is of
_PACKAGES = ("seqgan_hf", "transformers", "torch", "datasets", "tokenizers", "accelerate", "peft")


class PairTrainer(Trainer):
    """
    Saves the generator with its discriminator, both optimizers and the state of the game, and resumes from them exactly;
    pushes the pair, with its card, to the Hub.

    Attributes:
        discriminator (`Discriminator`): D, never a part of the generator.
        texts (`GameTexts`): The real texts, and where the reading of them stands.
        rollout_policy (`PreTrainedModel`): The generator itself, or its delayed copy.
        card (`dict`): What the model card says beyond what the trainer knows, by the names of [`CardFacts`]: the dataset,
            the results, the language, ...
        failed_pushes (`list[str]`): A sentence for each push that failed and was not an error.
        last_push (`CommitInfo`, *optional*): Of the last push that [`push_to_hub`] waited for.
    """

    args: SeqGANConfig
    model: PreTrainedModel
    rollout_policy: PreTrainedModel
    text_format: TextFormat
    discriminator: Discriminator
    texts: GameTexts
    replay: Replay
    card: dict[str, Any]
    failed_pushes: list[str]
    last_push: CommitInfo | None = None
    _updates_of_best: int | None = None
    _writes_to: Path | None = None
    _base_model: str | None
    _discriminator_base_model: str | None
    _is_chat: bool
    generation_config: GenerationConfig
    row_limit: RowLimit
    hub_model_id: Any  # `Trainer` types it as `None`
    _sets_played: int
    _began_at: int
    _pushes: BackgroundPushes

    def rows_at_once(self, prompt_length: int = 1) -> int:
        """
        Return how many rows the generator may write at once: `rollout_batch_size`, or what fits into memory now.

        Args:
            prompt_length (`int`): Tokens before the completions.
        """
        if self.args.rollout_batch_size == "auto":
            return rows_that_fit(self.model, prompt_length + self.args.max_completion_length)
        return int(self.args.rollout_batch_size)

    # ---- Save, load, resume ----------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            _remove_other_kind(folder, self.accelerator.unwrap_model(self.model))
            _remove_other_kind(folder / DISCRIMINATOR_FOLDER, self.discriminator.model)
            for code in (folder / DISCRIMINATOR_FOLDER).glob("*.py"):
                (folder / code.name).unlink(missing_ok=True)  # copied below, when it was saved before
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        if not _is_adapter(self.accelerator.unwrap_model(self.model)):
            self.generation_config.save_pretrained(folder)  # plain sampling; the base model's may warp it
        # A pickle runs code where it is read, and this one carries the Hub token.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        (folder / _ARGUMENTS_FILE).write_text(self.args.to_json_string(), encoding="utf-8")
        if folder == Path(self.args.output_dir):
            self.save_state()
        self.discriminator.save(folder / DISCRIMINATOR_FOLDER)
        # transformers looks for the code of a model at the root, also where the model is in a subfolder.
        for code in (folder / DISCRIMINATOR_FOLDER).glob("*.py"):
            if (folder / code.name).is_file():
                if (folder / code.name).read_bytes() == code.read_bytes():
                    continue  # a discriminator that reads with models like the generator
                logger.warning(
                    f"Both networks bring their code in a file {code.name}, and transformers looks for both at the root "
                    "of a repository: from the Hub, the discriminator will not load. Rename one of them."
                )
                continue
            shutil.copy2(code, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, but a checkpoint appears when all of it is on the disk."""
        checkpoint = self.checkpoint_folder(trial)
        with written_whole(checkpoint) as unfinished:
            self._writes_to = unfinished.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writes_to = None
            # `Trainer` looks for the best checkpoint where this one is written.
            best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if self.state.best_global_step and (best == checkpoint or best.is_dir()):
                self.state.best_model_checkpoint = str(best)
                if self.args.should_save:
                    self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(checkpoint.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def checkpoint_folder(self, trial: Any = None) -> Path:
        """Return where a checkpoint of this update lies, or would."""
        return Path(super()._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _newest_checkpoint(self) -> str:
        last = from_first(last_checkpoint(self.args.output_dir) if is_first() else None)
        if last is None:
            raise ValueError(
                f"{self.args.output_dir} holds no complete checkpoint to resume. Check `output_dir`, or leave "
                "`resume_from_checkpoint` out to begin anew."
            )
        return str(last)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writes_to or super()._get_output_dir(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if (wrong := what_is_wrong_with(Path(resume_from_checkpoint))) is not None:
            raise ValueError(
                f"{resume_from_checkpoint} cannot be resumed: {wrong}. Resume a checkpoint that SeqGANTrainer saved "
                "without `save_only_model`, or pass its folder as `model`."
            )
        with _without_discriminator(Path(resume_from_checkpoint)) as folder:
            super()._load_from_checkpoint(str(folder), model)
        self.discriminator.load(Path(resume_from_checkpoint) / DISCRIMINATOR_FOLDER)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            self.discriminator.load(Path(self.state.best_model_checkpoint) / DISCRIMINATOR_FOLDER)
            self._updates_of_best = self.state.best_global_step

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.args.should_save:
            return
        delayed = None if self.rollout_policy is self.model else self._trained_weights(self.rollout_policy)
        state = {
            "discriminator_optimizer": self.discriminator.optimizer.state_dict(),
            "texts": self.texts.state_dict(),
            "sets_played": self._sets_played,
            "rollout_policy": delayed,
            "replay": self.replay.state_dict(),
        }
        torch.save(state, os.path.join(output_dir, STATE_FILE))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_scaler(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with refusing_code(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        with refusing_code(checkpoint):
            state = torch.load(os.path.join(checkpoint, STATE_FILE), map_location=_where(self.args), weights_only=True)
        self.discriminator.optimizer.load_state_dict(state["discriminator_optimizer"])
        self.texts.load_state_dict(state["texts"])
        self._sets_played = state["sets_played"]
        self.replay.load_state_dict(state["replay"])
        if self.rollout_policy is not self.model:  # a copy, also where the checkpoint was made without one
            weights = state["rollout_policy"] or self._trained_weights(self.model)
            self.rollout_policy.load_state_dict(weights, strict=False)

    def _trained_weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return what is trained of the generator, from it or from its copy: of an adapter that alone."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: parameter.detach() for name, parameter in model.named_parameters() if name in trained}

    # ---- The Hub ---------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, or explain before any training why it cannot be."""
        args = self.args
        token, private = token or args.hub_token, args.hub_private_repo if private is None else private
        self.hub_model_id = create_repository(args.hub_model_id, args.output_dir, token, private, args.hub_revision)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the pair and its card; push them where `push_to_hub` is set. A push that fails is reported, and is an error
        only with `hub_push_required`.
        """
        try:
            super().save_model(output_dir, _internal_call)
        except PushError as error:
            if self.args.hub_push_required:
                raise
            self._report_failure(str(error))
        if not _internal_call and not self.args.push_to_hub and output_dir in (None, self.args.output_dir):
            self.create_model_card()

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> "CommitInfo | Future[CommitInfo] | None":
        """
        Upload the generator, its discriminator, their tokenizers, the card and the report of the run.

        Args:
            commit_message (`str`): Of the commit.
            blocking (`bool`): Wait for the upload.
            token (`str`, *optional*): One that may write; `hub_token` by default.
            revision (`str`, *optional*): The branch; `hub_revision` by default.
            private (`bool`, *optional*): Whether to make the repository private where it is new.
            **kwargs: For [`create_model_card`].

        Returns:
            `CommitInfo`; a `Future` of it if not `blocking`; `None` on other processes than the first.

        Raises:
            PushError: If it fails; all of it is saved in `output_dir`, and the message says how to repeat it.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self.last_push = None
        self._finish_current_push()
        folder, revision = Path(self.args.output_dir), revision or self.args.hub_revision
        job = self._pushes.upload(self.hub_model_id, folder, str(commit_message), revision, token)
        if not blocking:
            return job
        again = how_to_push(self.hub_model_id, folder, revision)
        self.last_push = result_of_push(job, str(commit_message), self.hub_model_id, again)
        return self.last_push

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Write the card of the pair as `README.md` in `output_dir`, and the learning curves beside it.

        Args:
            language, license (`str`, *optional*): Of the metadata.
            tags (`str` or `list[str]`, *optional*): More of them.
            model_name (`str`, *optional*): The heading; the name of the repository or folder by default.
            finetuned_from (`str`, *optional*): Hub id of what the generator was before; found by default.
            dataset_tags, dataset (`str`, *optional*): Hub id of the real texts, or what may be said of them.
            tasks, dataset_args (*optional*): Taken for compatibility; the task is text generation, and `card` says more.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        asked = {
            "language": language,
            "license": license,
            "title": model_name,
            "dataset": _one(dataset_tags or dataset),
        }
        said = self.card | {name: value for name, value in asked.items() if value is not None}
        said["tags"] = [*said.get("tags", []), *([tags] if isinstance(tags, str) else tags or [])]
        if is_matplotlib_available() and any("reward/mean" in entry for entry in self.state.log_history):
            said["curves"] = plot_learning_curves(self.state.log_history, folder / "curves.png").name
        base_model = finetuned_from or said.pop("finetuned_from", None) or self._base_model
        facts = CardFacts(**(self._known_facts(base_model) | said))
        (folder / "README.md").write_text(render_model_card(facts), encoding="utf-8")

    def _known_facts(self, base_model: str | None) -> dict[str, Any]:
        generator = self.accelerator.unwrap_model(self.model)
        is_adapter = _is_adapter(generator)
        game = self.discriminator
        seconds = [entry["train_runtime"] for entry in self.state.log_history if "train_runtime" in entry]
        written = self._fresh_completions(_CARD_TESTS, self.args.seed)
        scores = game.score(written)
        shown = slice(0, _CARD_SAMPLES)
        return {
            "model_id": self.hub_model_id or Path(self.args.output_dir).absolute().name,
            "title": Path(self.hub_model_id or self.args.output_dir).absolute().name,
            "generator": _network_facts(generator.get_base_model() if is_adapter else generator, base_model),
            "discriminator": _network_facts(game.model, self._discriminator_base_model),
            "start_token_id": self.text_format.start_token_id,
            "pad_token_id": self.text_format.pad_token_id,
            "eos_token_id": self.text_format.eos_token_id,
            "max_completion_length": self.args.max_completion_length,
            "temperature": self.args.temperature,
            "has_tokenizer": self.processing_class is not None,
            "is_conditional": game.reads_prompt,
            "is_chat": self._is_chat,
            "discriminator_reads_ids": game.processing_class is None,
            "discriminator_reads_prompt": game.reads_prompt,
            "discriminator_reads_generator": bool(getattr(game.model.config, "reads_generator", ())),
            "is_adapter": is_adapter,
            "discriminator_is_adapter": _is_adapter(game.model),
            "settings": game_settings(self.args),
            "num_updates": self._updates_of_best or self.state.global_step,
            # With a gate, not every set was learned from.
            "num_sets": self._sets_played if self.args.discriminator_accuracy_gate is None else None,
            "seed": self.args.seed,
            "seconds": seconds[-1] if seconds and self._began_at == 0 else None,
            "held_out_auc": area_under_curve(game.score(self.texts.first_held_out(_CARD_TESTS)), scores),
            # Without prompts: they are training data, which may be private.
            "samples": [row | {"prompt": ""} for row in game.describe(written.select(shown), scores[shown])],
            "versions": _versions(),
        }

    def _fresh_completions(self, num_samples: int, seed: int) -> Completions:
        """Complete the first prompts of the training texts. No random state moves, and no text is taken from the game."""
        rows = list(itertools.islice(self.texts.prompts, num_samples))
        prompts = Completions.collate(rows, self.text_format.pad_token_id).to(self.args.device)
        with self.accelerator.autocast():
            return generate_completions(
                self.model,
                prompts.prompt_ids,
                prompts.prompt_mask,
                self.generation_config,
                batch_size=self.rows_at_once(prompts.prompt_ids.shape[1]),
                row_limit=self.row_limit,
                row_keys=derived_keys(named_key(seed, SAMPLES), torch.arange(len(rows))).to(self.args.device),
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint's pair in the background. Of `Trainer`'s own, it would take the generator alone."""
        args = self.args
        # While a checkpoint is written, `Trainer` asks for it too early.
        if self._writes_to or not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if not args.hub_always_push and not self._pushes.is_done():
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        self.create_model_card()
        checkpoint = Path(checkpoint_folder)
        names = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        stage = stage_checkpoint(checkpoint, Path(args.output_dir), names.get(HubStrategy(args.hub_strategy)))
        by_steps = args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        self._pushes.start(self.hub_model_id, stage, f"Training in progress, {when}", args.hub_revision)

    def _finish_current_push(self) -> None:
        """Wait for pushes in the background, and report those that failed: `Trainer` would swallow them."""
        failed = self._report_pushes()
        if failed:  # the command that repeats them takes what is in `output_dir`
            self.save_model(_internal_call=True)
            self.create_model_card()

    def _report_pushes(self) -> bool:
        again = how_to_push(str(self.hub_model_id), self.args.output_dir, self.args.hub_revision)
        failures = self._pushes.failures(again)
        for failure in failures:
            self._report_failure(failure)
        return bool(failures)

    def _report_failure(self, failure: str) -> None:
        self.failed_pushes.append(failure)
        logger.error(failure)


def game_settings(config: SeqGANConfig) -> dict[str, Any]:
    """Return the settings of the game itself, without those of `TrainingArguments` that are not set to play it."""
    own = set(SeqGANConfig.__annotations__) | {"max_steps", "per_device_train_batch_size", "seed", "max_grad_norm"}
    own -= {"output_dir", "logging_steps", "log_completions", "num_completions_to_log", "hub_push_required"}
    return {name: value for name, value in config.to_dict().items() if name in own}


def base_model_of(model: str | PreTrainedModel) -> str | None:
    """
    Return the Hub id that a network was loaded from.

    Args:
        model (`str` or `PreTrainedModel`): As it was passed to the trainer.

    Returns:
        `str`, or `None` if it was made from scratch or read from a local folder.
    """
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    return name if name and not Path(name).exists() else None


@contextlib.contextmanager
def _without_discriminator(checkpoint: Path) -> Iterator[Path]:
    """Show a checkpoint without its discriminator, whose adapter `Trainer` would take for another of the generator."""
    if not (checkpoint / DISCRIMINATOR_FOLDER / ADAPTER_CONFIG_NAME).is_file():
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in checkpoint.iterdir():
            if path.name != DISCRIMINATOR_FOLDER:
                os.symlink(path.resolve(), Path(folder) / path.name)
        yield Path(folder)


def _remove_other_kind(folder: Path, model: nn.Module) -> None:
    """Remove a whole model where an adapter will be saved, and the other way round: both together load as neither."""
    patterns = ("config.json", "model*.safetensors*") if _is_adapter(model) else ("adapter_*",)
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        path.unlink()


def _network_facts(model: PreTrainedModel, base_model: str | None) -> NetworkFacts:
    model = model.get_base_model() if _is_adapter(model) else model  # type: ignore[operator]
    carries_code = bool(getattr(model, "_auto_class", None) or getattr(model.config, "auto_map", None))
    return NetworkFacts(type(model).__name__, base_model, carries_code)


def _where(args: SeqGANConfig) -> torch.device:
    """Return the device as `torch.load` knows it: that of one of several processes on a CPU has a number."""
    return torch.device("cpu") if args.device.type == "cpu" else args.device


def _is_adapter(model: nn.Module) -> bool:
    return hasattr(model, "get_base_model")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _one(value: str | list[str] | None) -> str | None:
    return value[0] if isinstance(value, list) and value else value or None  # type: ignore[return-value]
