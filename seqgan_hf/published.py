"""`PublishedPairTrainer`: the pair with its card, pushed to the Hub."""

import contextlib
import importlib.metadata
import itertools
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import is_matplotlib_available, logging

from .adapters import is_adapter, without_adapter
from .completions import Completions
from .config import SeqGANConfig
from .discriminator import area_under_curve
from .fitting import reads_generator
from .hub import BackgroundPushes, PushError, create_repository, how_to_push, result_of_push, stage_checkpoint
from .model_card import CardFacts, NetworkFacts, render_model_card
from .pair import PairTrainer
from .plots import plot_learning_curves
from .randomness import SAMPLES, derived_keys, named_key

logger = logging.get_logger(__name__)

_CARD_SAMPLES = 8
_CARD_TESTS = 128  # texts of either kind that the card's AUC is of
_PACKAGES = ("seqgan_hf", "transformers", "torch", "datasets", "tokenizers", "accelerate", "peft")


class PublishedPairTrainer(PairTrainer):
    """
    Writes the card of the pair, and pushes both networks with it, after training or along with it.

    Attributes:
        card (`dict`): What the model card says beyond what the trainer knows, by the names of [`CardFacts`]: the dataset,
            the results, the language, ...
        failed_pushes (`list[str]`): A sentence for each push that failed and was not an error.
        last_push (`CommitInfo`, *optional*): Of the last push that [`push_to_hub`] waited for.
    """

    card: dict[str, Any]
    failed_pushes: list[str]
    last_push: CommitInfo | None = None
    hub_model_id: Any  # `Trainer` types it as `None`
    _base_model: str | None
    _discriminator_base_model: str | None
    _is_chat: bool
    _began_at: int
    _pushes: BackgroundPushes

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
        game = self.discriminator
        seconds = [entry["train_runtime"] for entry in self.state.log_history if "train_runtime" in entry]
        written = self._fresh_completions(_CARD_TESTS, self.args.seed)
        scores = game.score(written)
        shown = slice(0, _CARD_SAMPLES)
        return {
            "model_id": self.hub_model_id or Path(self.args.output_dir).absolute().name,
            "title": Path(self.hub_model_id or self.args.output_dir).absolute().name,
            "generator": _network_facts(generator, base_model),
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
            "discriminator_reads_generator": bool(reads_generator(game.model)),
            "is_adapter": is_adapter(generator),
            "discriminator_is_adapter": is_adapter(game.model),
            "discriminator_pads_anew": game.pads_anew,
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
        return self._generate(
            prompts, derived_keys(named_key(seed, SAMPLES), torch.arange(len(rows))).to(self.args.device)
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


def _network_facts(model: PreTrainedModel, base_model: str | None) -> NetworkFacts:
    model = without_adapter(model)
    carries_code = bool(getattr(model, "_auto_class", None) or getattr(model.config, "auto_map", None))
    return NetworkFacts(type(model).__name__, base_model, carries_code)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _one(value: str | list[str] | None) -> str | None:
    return value[0] if isinstance(value, list) and value else value or None  # type: ignore[return-value]
