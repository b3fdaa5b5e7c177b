"""Everything a run can be told."""

import json
import math
import numbers
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from .redaction import publishable

DISCRIMINATOR_LOSSES = ("cross_entropy", "pairwise")
REWARDS = ("probability", "logit", "centered_probability", "log_probability")
BASELINES = ("none", "leave_one_out", "group_leave_one_out", "difference")
REWARD_CONTROLS = ("none", "constant", "shuffled", "random")
DISCRIMINATOR_DATA = ("same", "held_out", "cross_fit")
LONG_TEXTS = ("truncate", "error")


@dataclass
class SeqGANConfig(TrainingArguments):
    """
    Arguments of [`SeqGANTrainer`], on top of `transformers.TrainingArguments`.

    One step of the Trainer is one update of the generator; `max_steps` counts them. A round is `generator_steps` updates
    of the generator and then `discriminator_steps` of the discriminator. Each field's `help` is its description.

    Raises:
        ValueError: If a value is out of its range, or two values contradict each other.
    """

    # Defaults of TrainingArguments that do not suit this game.
    output_dir: str = field(
        default="seqgan-output", metadata={"help": "Where checkpoints, the final pair and the logs are written."}
    )
    learning_rate: float = field(
        default=1e-5,  # adversarial fine-tuning of a pre-trained model; the paper's LSTM from scratch takes 1e-2
        metadata={"help": "Learning rate of the generator."},
    )
    lr_scheduler_type: str = field(
        default="constant",  # the authors' code
        metadata={"help": "Schedule of the generator's learning rate. The game has no end to anneal towards."},
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Log every so many updates of the generator; below 1, a share of all updates."}
    )

    # Rollouts
    num_rollouts: int = field(
        default=16,  # the authors' code, sequence_gan.py
        metadata={
            "help": "Monte Carlo rollouts per prefix. Generation time grows linearly with it. 0: none; the discriminator "
            "judges unfinished texts itself, and learns to."
        },
    )
    rollout_stride: int = field(
        default=1,  # the paper: every position
        metadata={
            "help": "Estimate the value of every k-th prefix only; the tokens between share the next estimate. "
            "Generation time falls as 1/k; at least 1."
        },
    )
    # `int` or `auto`; the parser of command lines knows one type a field.
    rollout_batch_size: str = field(
        default=512,  # type: ignore[assignment]
        metadata={
            "help": "The most rollouts alive at once: it bounds the memory of writing and scoring, whatever the batch "
            "and their number. `auto` chooses it from the memory that is free at each update; samples may then differ "
            "between runs of one seed."
        },
    )
    rollout_update_rate: float = field(
        default=1.0,  # in the authors' code the rate has no effect: rollouts read the live weights
        metadata={
            "help": "Share of the generator's weights that the rollout policy takes over after each update, in (0, 1]. "
            "1: rollouts are made by the generator itself. The paper's delayed copy with rate 0.8 is 0.2 here."
        },
    )

    # Generation
    max_completion_length: int = field(
        default=64, metadata={"help": "The most tokens of a completion, EOS included. Real texts are cut at it, too."}
    )
    num_generations: int = field(
        default=1, metadata={"help": "Completions of each prompt. It must divide the batch size per device."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Softmax temperature of completions, negatives and rollouts; above 0."}
    )
    long_texts: str = field(
        default="truncate",
        metadata={
            "help": "What to do with a real text longer than `max_completion_length`: `truncate` it (without EOS, as a "
            "generated one that does not end), or stop with an `error` that names the row.",
            "choices": LONG_TEXTS,
        },
    )

    # Rewards, and what the generator minimises
    reward: str = field(
        default="probability",  # the paper, Eq. 4
        metadata={
            "help": "What a score of the discriminator is worth: `probability` is P(real) in [0, 1], `logit` its "
            "log-odds, unbounded, `centered_probability` 2 P(real) - 1 in [-1, 1], `log_probability` log P(real), at "
            "most 0.",
            "choices": REWARDS,
        },
    )
    baseline: str = field(
        default="leave_one_out",  # the paper has `none`, under which even a constant reward moves the generator
        metadata={
            "help": "What is subtracted from a token's reward: `none` (the paper), `leave_one_out` (the mean of the "
            "other completions of the batch at that position), `group_leave_one_out` (the same over the "
            "`num_generations` completions of one prompt), `difference` (the value of the prefix before the token).",
            "choices": BASELINES,
        },
    )
    whiten_advantages: bool = field(
        default=False, metadata={"help": "Scale the advantages of a batch to mean 0 and standard deviation 1."}
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Switch the generator's dropout off in the game, so that it learns from the distribution that was "
            "sampled."
        },
    )
    reward_control: str = field(
        default="none",
        metadata={
            "help": "Replace the reward by a control with the same machinery and cost: `constant` (1 everywhere), "
            "`shuffled` (over the completions of the batch), `random` (uniform noise). A gain that survives is not the "
            "discriminator's.",
            "choices": REWARD_CONTROLS,
        },
    )
    beta: float = field(
        default=0.0,
        metadata={
            "help": "Weight of KL(generator || frozen reference) in the loss. 0: no reference kept. The reference is the "
            "generator as the game begins; with an adapter it is the model without it, as it was before any stage."
        },
    )
    mle_coef: float = field(
        default=0.0, metadata={"help": "Weight of the likelihood of real texts in the generator's loss; at least 0."}
    )

    # The game
    generator_steps: int = field(
        default=1,  # the paper's g-steps
        metadata={"help": "Updates of the generator in a round; at least 1."},
    )
    discriminator_steps: int = field(
        default=5,  # the paper's d-steps
        metadata={"help": "Fresh sets of negatives in a round, each trained on; 0 keeps the discriminator frozen."},
    )
    discriminator_epochs: int = field(
        default=3,  # the paper's k
        metadata={"help": "Epochs over each fresh set; at least 1."},
    )
    discriminator_warmup_steps: int = field(
        default=50,  # the authors' code
        metadata={"help": "Fresh sets that the discriminator is trained on before the first round."},
    )
    discriminator_samples: int = field(
        default=256,  # the paper takes as many as there are real texts, which costs 10,000 completions a set
        metadata={"help": "Completions, and as many real texts, in one set of the discriminator."},
    )
    discriminator_loss: str = field(
        default="cross_entropy",  # the paper, Eq. 5
        metadata={
            "help": "What the discriminator minimises: `cross_entropy`, or `pairwise` (Bradley-Terry: a real text should "
            "score above a generated one, of the same prompt where rows have prompts). The latter needs `reward` `logit` "
            "and a baseline.",
            "choices": DISCRIMINATOR_LOSSES,
        },
    )
    discriminator_replay: float = field(
        default=0.0,  # the paper
        metadata={
            "help": "Share of the discriminator's negatives that are taken from earlier sets, in [0, 1): against a "
            "generator that goes round in circles. 0 for `pairwise` on rows with prompts, whose pairs it would part."
        },
    )
    discriminator_learning_rate: float = field(
        default=1e-4,  # the paper
        metadata={"help": "Learning rate of the discriminator (AdamW, constant)."},
    )
    discriminator_weight_decay: float = field(
        default=0.0, metadata={"help": "Weight decay of the discriminator's AdamW."}
    )
    discriminator_batch_size: int = field(
        default=64,  # the paper
        metadata={"help": "Texts, real and generated together, per update of the discriminator."},
    )
    discriminator_data: str = field(
        default="same",  # the paper
        metadata={
            "help": "Which real texts the discriminator learns from: `same` (all, as the generator), `held_out` (some "
            "that the generator never learns from, see `discriminator_share`), `cross_fit` (two halves: each round the "
            "generator's likelihood term takes one and the discriminator the other, and they swap; a stage before the "
            "game takes the first half, so only `held_out` keeps the discriminator's texts from the generator "
            "throughout).",
            "choices": DISCRIMINATOR_DATA,
        },
    )
    discriminator_share: float = field(
        default=0.5,
        metadata={
            "help": "Share of the real texts that `discriminator_data='held_out'` gives to the discriminator, in (0, "
            "0.5]: one in 2, 3, 4, ... of them. One with few weights to learn needs few texts."
        },
    )
    discriminator_holdout: float = field(
        default=0.1,
        metadata={
            "help": "Share of the discriminator's real texts on which it is tested and never trained, in (0, 0.5]; at "
            "most 1,000 texts are taken."
        },
    )
    discriminator_accuracy_gate: float | None = field(
        default=None,
        metadata={"help": "Skip the discriminator's training on a set while its held-out accuracy is at least this."},
    )

    # Loading and logging
    model_init_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Arguments of `from_pretrained` where the generator is an id or a path (JSON)."},
    )
    discriminator_init_kwargs: dict | str | None = field(
        default=None, metadata={"help": "The same for the discriminator (JSON)."}
    )
    log_completions: bool = field(
        default=True,
        metadata={"help": "Show sample completions with their scores at each log, and keep them on disk."},
    )
    num_completions_to_log: int = field(default=4, metadata={"help": "How many of them; at least 1."})
    hub_push_required: bool = field(
        default=False,
        metadata={
            "help": "End with an error if the final push to the Hub fails. Off: the failure is reported with the command "
            "that repeats it, and the run ends well."
        },
    )

    # Lets TrainingArguments read these from a JSON string on the command line.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs", "discriminator_init_kwargs"]

    def __post_init__(self) -> None:
        self.rollout_batch_size = _number_or_auto("rollout_batch_size", self.rollout_batch_size)
        self._check_numbers()
        self._check_json()
        super().__post_init__()
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # the search would take the output layer for unused
        loading: Any = self.accelerator_config
        if loading.dispatch_batches is None:
            loading.dispatch_batches = False  # of a stream, batches of unlike width cannot be sent
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn of it at every loop
        for name, choices in {
            "reward": REWARDS,
            "baseline": BASELINES,
            "reward_control": REWARD_CONTROLS,
            "discriminator_data": DISCRIMINATOR_DATA,
            "discriminator_loss": DISCRIMINATOR_LOSSES,
            "long_texts": LONG_TEXTS,
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        if Path(self.output_dir or "").is_file():
            raise ValueError(f"`output_dir` must be a folder; {self.output_dir} is a file. Give another name.")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        self._check_ranges()
        self._check_batches()
        self._check_inherited()

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, [`publishable`]."""
        return publishable(super().to_dict())

    def init_kwargs(self, network: str) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` for the `model` or the `discriminator`."""
        kwargs = getattr(self, f"{network}_init_kwargs")
        return dict(kwargs or {})

    def _check_numbers(self) -> None:
        """Refuse words, fractions and infinities where numbers are counted or measured."""
        hints = get_type_hints(type(self))
        for name in (*SeqGANConfig.__annotations__, *_NUMBERS):
            value: Any = getattr(self, name, None)
            kinds = set(get_args(hints[name])) or {hints[name]}
            if not kinds & {int, float} or str in kinds or (value is None and type(None) in kinds):
                continue
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if float in kinds and not (is_number and math.isfinite(value)):
                raise ValueError(f"`{name}` must be a finite number; got {value!r}.")
            if float not in kinds and not (is_number and isinstance(value, numbers.Integral)):
                raise ValueError(f"`{name}` must be a whole number; got {value!r}.")

    def _check_json(self) -> None:
        """Refuse what looks like JSON and is none; `TrainingArguments` reads what is."""
        for name in self._VALID_DICT_FIELDS:
            value = getattr(self, name, None)
            if isinstance(value, str) and value.startswith("{"):
                try:
                    json.loads(value)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"`{name}` must be JSON, with double quotes around names and texts; got {value[:60]!r} ({error})."
                    ) from error

    def _check_ranges(self) -> None:
        if self.discriminator_learning_rate <= 0:
            raise ValueError(f"`discriminator_learning_rate` must be above 0; got {self.discriminator_learning_rate}.")
        if self.temperature <= 0:
            raise ValueError(
                f"`temperature` must be above 0; got {self.temperature}. Greedy decoding has no gradient."
            )
        if not 0 < self.rollout_update_rate <= 1:
            raise ValueError(f"`rollout_update_rate` must be in (0, 1]; got {self.rollout_update_rate}.")
        for name in ("discriminator_holdout", "discriminator_share"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ValueError(f"`{name}` must be in (0, 0.5]; got {getattr(self, name)}.")
        if not 0 <= self.discriminator_replay < 1:
            raise ValueError(f"`discriminator_replay` must be in [0, 1); got {self.discriminator_replay}.")
        if self.discriminator_loss == "pairwise":
            self._check_pairwise()
        if self.num_rollouts == 0:
            self._check_no_rollouts()
        gate = self.discriminator_accuracy_gate
        if gate is not None and not 0.5 <= gate <= 1:
            raise ValueError(f"`discriminator_accuracy_gate` must be in [0.5, 1] (0.5 is chance); got {gate}.")

    def _check_pairwise(self) -> None:
        """A pairwise loss leaves scores open up to a constant, so only what does not change with it makes sense."""
        for name, wanted, is_wanted in (
            ("reward", "`logit`", self.reward == "logit"),
            ("baseline", "one, which takes that constant away", self.baseline != "none"),
            ("discriminator_accuracy_gate", "left out", self.discriminator_accuracy_gate is None),
        ):
            if not is_wanted:
                raise ValueError(
                    "`discriminator_loss='pairwise'` leaves scores open up to a constant, so "
                    f"`{name}` must be {wanted}; got {getattr(self, name)!r}."
                )

    def _check_no_rollouts(self) -> None:
        for name, wanted in (
            ("rollout_stride", 1),
            ("rollout_update_rate", 1),
            ("discriminator_loss", "cross_entropy"),
        ):
            if getattr(self, name) != wanted:
                raise ValueError(
                    "`num_rollouts=0` leaves unfinished texts to the discriminator, which judges each prefix, so "
                    f"`{name}` must be {wanted}; got {getattr(self, name)!r}."
                )

    def _check_batches(self) -> None:
        batch_size = self.per_device_train_batch_size
        if batch_size % self.num_generations:
            raise ValueError(
                f"`per_device_train_batch_size` ({batch_size}) must be a multiple of `num_generations` "
                f"({self.num_generations}), because a batch holds every completion of its prompts."
            )
        if self.discriminator_samples < self.world_size:
            raise ValueError(
                f"`discriminator_samples` must be at least the number of processes ({self.world_size}), each of which "
                f"writes its share of a set; got {self.discriminator_samples}."
            )
        if self.baseline == "leave_one_out" and batch_size * self.world_size < 2:
            raise ValueError(
                "`baseline='leave_one_out'` compares the completions of a batch, so `per_device_train_batch_size` must "
                f"be at least 2; got {batch_size}."
            )
        if self.reward_control == "shuffled" and batch_size * self.gradient_accumulation_steps * self.world_size < 2:
            raise ValueError(
                "`reward_control='shuffled'` gives each completion of an update the rewards of another, and needs at "
                "least 2 of them: raise `per_device_train_batch_size` or `gradient_accumulation_steps`."
            )
        if self.baseline == "group_leave_one_out" and self.num_generations < 2:
            raise ValueError(
                "`baseline='group_leave_one_out'` compares the completions of one prompt, so `num_generations` must be "
                f"at least 2; got {self.num_generations}."
            )

    def _check_inherited(self) -> None:
        """Refuse what `Trainer` offers and the game has better, or cannot take part in."""
        if self.enable_jit_checkpoint:
            raise ValueError(
                "`enable_jit_checkpoint` would save in the middle of an update. Leave it out: at SIGTERM and Ctrl-C "
                "SeqGANTrainer finishes the update, saves and ends by itself."
            )
        if self.auto_find_batch_size:
            raise ValueError(
                "`auto_find_batch_size` would play a game with another batch, on from where the first one stopped. Leave "
                "it out: lower `per_device_train_batch_size`, and raise `gradient_accumulation_steps` as much."
            )


_LEAST: dict[str, float] = {
    "num_rollouts": 0,
    "rollout_stride": 1,
    "max_completion_length": 1,
    "num_generations": 1,
    "beta": 0,
    "mle_coef": 0,
    "generator_steps": 1,
    "discriminator_steps": 0,
    "discriminator_epochs": 1,
    "discriminator_warmup_steps": 0,
    "discriminator_samples": 1,
    "discriminator_batch_size": 2,
    "num_completions_to_log": 1,
    "learning_rate": 0,
    "max_grad_norm": 0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
}
# Numbers of `TrainingArguments` that would fail later, or not at all.
_NUMBERS = (
    "learning_rate", "max_grad_norm", "weight_decay", "max_steps", "per_device_train_batch_size", "seed",
    "gradient_accumulation_steps", "num_train_epochs", "logging_steps", "save_steps", "warmup_steps",
)  # fmt: skip


def _number_or_auto(name: str, value: Any) -> Any:
    """Return a setting as an `int` of at least 1, or as `auto`."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, or `auto`; got {value!r}.")
    return int(value)
