"""What recipes can be told, beside `SeqGANConfig`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

_CONTROLS = ("constant", "shuffled", "random")


@dataclass
class DatasetArguments:
    """Which texts are read: from the Hub, the web or the disk."""

    dataset_name: str = field(
        metadata={"help": "Texts: Hub id, URL, or a local txt, json, jsonl, csv or parquet file or a folder of such."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    dataset_streaming: bool = field(
        default=False,
        metadata={
            "help": "Read rows as they come instead of downloading whole files first. With `max_samples`, the first "
            "10,000 texts of a split (or as many more as are asked for) stand for it; without, all are read into memory."
        },
    )
    text_column: str = field(
        default="text",
        metadata={"help": "The column that holds the texts. `prompt` and `completion`, or `messages`, need no name."},
    )
    keep_rows: str | None = field(
        default=None, metadata={"help": "Keep the rows with this value: COLUMN=VALUE, as in `potus=Barack Obama`."}
    )
    split_paragraphs: bool = field(
        default=False, metadata={"help": "Make each line of a row a text of its own, where a row is a whole speech."}
    )
    max_samples: int | None = field(
        default=None, metadata={"help": "Take at most so many of the (training) texts, drawn by the seed."}
    )

    def __post_init__(self) -> None:
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"`max_samples` must be at least 1; got {self.max_samples}.")


@dataclass
class ScratchArguments:
    """The networks that a recipe makes from scratch."""

    embedding_size: int = field(default=32, metadata={"help": "Width of the generator's embedding."})  # the paper
    hidden_size: int = field(default=32, metadata={"help": "Width of the generator's LSTM."})  # the paper
    generator_dropout: float = field(default=0.0, metadata={"help": "Dropout of the generator, in [0, 1)."})
    discriminator: str = field(
        default="cnn",  # the paper
        metadata={
            "help": "`cnn`, the paper's; or `likelihood_ratio`, which weighs the likelihood of a text under language "
            "models of real texts against that under the generator.",
            "choices": ("cnn", "likelihood_ratio"),
        },
    )
    language_models: int = field(
        default=2,
        metadata={
            "help": "How many such models are trained for `likelihood_ratio`, by maximum likelihood on the generator's "
            "texts; a copy of the generator after its first stage is one more."
        },
    )
    language_model_size: int = field(default=64, metadata={"help": "Width of their embeddings and of their LSTMs."})
    language_model_dropout: float = field(default=0.2, metadata={"help": "Their dropout, in [0, 1)."})
    language_model_weight_decay: float = field(default=0.4, metadata={"help": "Weight decay of their training."})
    ratio_hidden_size: int = field(
        default=0,
        metadata={
            "help": "Width of the LSTM that `likelihood_ratio` adds to what it reads, and by which it reads the "
            "generator's hidden states, too; 0: none."
        },
    )

    def __post_init__(self) -> None:
        if self.discriminator not in ("cnn", "likelihood_ratio"):
            raise ValueError(f"`discriminator` must be cnn or likelihood_ratio; got {self.discriminator!r}.")
        if self.language_model_size < 1:
            raise ValueError(f"`language_model_size` must be at least 1; got {self.language_model_size}.")


@dataclass
class TextRecipeArguments(ScratchArguments, DatasetArguments):
    """What a recipe on texts can be told, beside [`SeqGANConfig`]."""

    PRESETS: ClassVar[dict[str, str]] = {"sample": "smoke", "from_scratch": "paper"}
    """Flags that stand for a preset."""

    sample: bool = field(
        default=False,
        metadata={"help": "A quick run that needs no network: a bundled text, small networks from scratch."},
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Train a tokenizer on the texts, and the paper's LSTM and CNN, instead of loading models."},
    )
    dataset_train_split: str = field(default="train", metadata={"help": "The split to train on."})
    dataset_test_split: str = field(
        default="test",
        metadata={"help": "The split that nothing learns from; without it, training texts are held out."},
    )
    model_name_or_path: str = field(
        default="distilbert/distilgpt2", metadata={"help": "The generator: Hub id or local path of a causal model."}
    )
    discriminator_name_or_path: str = field(
        default="distilbert/distilroberta-base", metadata={"help": "The discriminator: Hub id or local path."}
    )
    use_peft: bool = field(
        default=False,
        metadata={"help": "Train a LoRA adapter of the generator instead of the whole. Needs the extra `peft`."},
    )
    discriminator_use_peft: bool = field(default=False, metadata={"help": "The same for the discriminator."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters; at least 1."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters; they are added `alpha / r` times."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the generator's modules that get an adapter; by default all its linear layers."},
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Load the generator in 4 bits and train an adapter on it (QLoRA). Needs bitsandbytes."},
    )
    tokenizer: str = field(
        default="bpe",
        metadata={
            "help": "From scratch: `bpe`, `word` or `character`. The last two write \N{REPLACEMENT CHARACTER} for what "
            "is not in the vocabulary.",
            "choices": ("bpe", "word", "character"),
        },
    )
    vocab_size: int = field(
        default=4000, metadata={"help": "From scratch: the most tokens of the tokenizer; for `bpe` at least 259."}
    )
    fixed_length: bool = field(
        default=False,
        metadata={
            "help": "From scratch: all texts have `max_completion_length` tokens and no end; others are left out."
        },
    )
    mle_epochs: float = field(default=3.0, metadata={"help": "Epochs of maximum likelihood before the game, at most."})
    mle_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that stage."})
    mle_batch_size: int = field(default=16, metadata={"help": "Texts per update in that stage."})
    mle_weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of that stage's AdamW."})
    mle_patience: int = field(
        default=2, metadata={"help": "Stop that stage after so many epochs without a lower held-out NLL; 0: never."}
    )
    num_test_samples: int = field(
        default=500, metadata={"help": "Texts sampled from a generator at each temperature."}
    )
    temperatures: list[float] = field(
        default_factory=lambda: [1.1, 1.0, 0.9, 0.8, 0.7, 0.6],
        metadata={
            "help": "Softmax temperatures, above 0, at which both stages are measured: the curve of the "
            "maximum-likelihood generator is the rival that counts. 1 is always among them."
        },
    )
    sample_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Softmax temperature, above 0, of the ten samples that are shown and kept; it joins `temperatures`. "
            "Below 1 texts are more plausible and more alike."
        },
    )
    controls: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Play the game again with these controls instead of the reward: `constant`, `shuffled`, `random`. "
            "What they gain, too, is not the discriminator's. `--controls` alone: none, where a preset has some."
        },
    )
    seeds: int = field(
        default=1,
        metadata={
            "help": "Runs in a row, of seeds `seed`, `seed` + 1 and so on; more than one are kept in folders "
            "`seed_<number>` of `output_dir`. With `--resume_from_checkpoint true` finished ones are left as they are."
        },
    )

    def __post_init__(self) -> None:
        ScratchArguments.__post_init__(self)
        DatasetArguments.__post_init__(self)
        self.temperatures = _checked_temperatures([self.sample_temperature, *self.temperatures])
        for name, least in (("num_test_samples", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        for control in self.controls:
            if control not in _CONTROLS:
                raise ValueError(f"`controls` must be among {', '.join(_CONTROLS)}; got {control!r}.")
        if self.discriminator == "likelihood_ratio" and not self.from_scratch:
            raise ValueError(
                "`discriminator: likelihood_ratio` reads the tokens of language models made from scratch: add "
                "`--from_scratch`, or leave it out and name a discriminator by `--discriminator_name_or_path`."
            )
        if self.fixed_length and not self.from_scratch:
            raise ValueError(
                "`fixed_length` makes a tokenizer without an end of text: add `--from_scratch`, or leave it out."
            )
        if self.fixed_length and self.tokenizer == "bpe":
            raise ValueError(
                "`fixed_length` counts words or characters: set `tokenizer` to `word` or `character`; got `bpe`."
            )
        adapted = self.use_peft or self.discriminator_use_peft or self.load_in_4bit
        if self.from_scratch and adapted:
            raise ValueError(
                "`from_scratch` makes new networks, and an adapter needs one that was trained. Leave out `use_peft`, "
                "`discriminator_use_peft` and `load_in_4bit`, or name models instead."
            )
        if self.load_in_4bit and not self.use_peft:
            raise ValueError("`load_in_4bit` freezes the generator, so there must be an adapter: add `--use_peft`.")


@dataclass
class SyntheticRecipeArguments(ScratchArguments):
    """What the synthetic recipe can be told, beside [`SeqGANConfig`]. The length is `max_completion_length`."""

    oracle: str | None = field(
        default=None, metadata={"help": "An oracle's parameters (.npz); by default one is drawn from `oracle_seed`."}
    )
    oracle_seed: int = field(default=88, metadata={"help": "Draws the oracle, where none is given."})
    num_texts: int = field(
        default=10_000,  # the paper
        metadata={"help": "Texts sampled from the oracle to train on, and as many to test on."},
    )
    num_validation_texts: int = field(
        default=1000, metadata={"help": "More of its texts, which decide when maximum likelihood stops."}
    )
    num_test_samples: int = field(
        default=10_000,  # the authors' code; the paper has 100,000
        metadata={"help": "Texts sampled from the generator for NLL_oracle."},
    )
    mle_epochs: float = field(
        default=120.0,  # the authors' code
        metadata={"help": "Epochs of maximum likelihood before the game, at most."},
    )
    mle_learning_rate: float = field(
        default=1e-2,  # the authors' code
        metadata={"help": "Learning rate of that stage."},
    )
    mle_batch_size: int = field(default=64, metadata={"help": "Texts per update in that stage."})  # the paper
    mle_patience: int = field(
        default=0,  # the paper overfits
        metadata={"help": "Stop that stage after so many epochs without a lower held-out NLL; 0: never."},
    )
    mle_weight_decay: float = field(
        default=0.0,  # the authors' code
        metadata={
            "help": "Weight decay of that stage's AdamW. 0.3 with a learning rate of 1e-2 makes a far better rival than "
            "early stopping alone."
        },
    )
    temperatures: list[float] = field(
        default_factory=lambda: [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7],
        metadata={
            "help": "Softmax temperatures, above 0, at which the generator is measured after each stage: the curve of "
            "the maximum-likelihood generator is the rival that counts. 1 is always among them."
        },
    )
    rival_temperature: float = field(
        default=0.75,
        metadata={"help": "The temperature of that rival that stands in the printed table."},
    )
    game: bool = field(
        default=True, metadata={"help": "Off: stop after maximum likelihood and its curve over the temperature."}
    )
    seeds: int = field(
        default=1,
        metadata={
            "help": "Runs in a row, of seeds `seed`, `seed` + 1 and so on; more than one are kept in folders "
            "`seed_<number>` of `output_dir`. With `--resume_from_checkpoint true` finished ones are left as they are."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.temperatures = _checked_temperatures([self.rival_temperature, *self.temperatures])
        for name in ("seeds", "num_texts", "num_test_samples", "num_validation_texts"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


@dataclass
class SampleArguments:
    """What `seqgan-hf sample` can be told, beside the model."""

    num_samples: int = field(default=20, metadata={"help": "Texts to write; at least 1.", "aliases": ["-n"]})
    temperature: float = field(
        default=1.0, metadata={"help": "Softmax temperature, above 0. 1: the model's own distribution."}
    )
    max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens of a text, EOS included. By default that of the model's run, where it is known, or "
            "else 64."
        },
    )
    prompt: str | None = field(
        default=None,
        metadata={"help": "Begin each text with this, which a discriminator then reads, too. By default nothing."},
    )
    output: str | None = field(
        default=None,
        metadata={"help": "Write the texts to this file (.jsonl with their scores, or .txt) instead of showing them."},
    )
    scores: bool = field(
        default=True,
        metadata={"help": "Show P(real) beside each text, if a discriminator was saved with the model."},
    )
    batch_size: int = field(default=64, metadata={"help": "Texts at once; it bounds memory."})
    seed: int = field(default=42, metadata={"help": "Decides the texts."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the model's own code, if it brings any."})

    def __post_init__(self) -> None:
        _check_sampling(self.num_samples, [self.temperature], self.max_completion_length, self.batch_size)
        if self.output is not None and not self.output.endswith((".jsonl", ".txt")):
            raise ValueError(f"`--output` must end in .jsonl or .txt; got {self.output}.")


@dataclass
class EvaluateArguments(DatasetArguments):
    """What `seqgan-hf evaluate` can be told, beside the model."""

    split: str | None = field(
        default=None,
        metadata={"help": "The split to evaluate on. By default `test`, or else `validation`, or else the only one."},
    )
    num_samples: int = field(
        default=500, metadata={"help": "Texts sampled at each temperature, for BLEU and variety; at least 1."}
    )
    temperatures: list[float] = field(
        default_factory=lambda: [0.7, 0.8, 0.9, 1.0, 1.1, 1.2],
        metadata={"help": "Softmax temperatures, above 0. 1, the model itself, is always among them."},
    )
    max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens of a text, EOS included. Real texts are cut at it, too. By default that of the "
            "model's run, where it is known, or else 64."
        },
    )
    batch_size: int = field(
        default=32,
        metadata={"help": "Texts at once. Memory grows with it times the length times the size of the vocabulary."},
    )
    seed: int = field(default=42, metadata={"help": "Decides the samples, and which texts `max_samples` keeps."})
    output_dir: str = field(default="evaluation", metadata={"help": "Where evaluation.json and sweep.png go."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the model's own code, if it brings any."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sampling(self.num_samples, self.temperatures, self.max_completion_length, self.batch_size)


@dataclass
class BlindArguments(DatasetArguments):
    """What a blind test is made from: the models and the real texts."""

    dataset_name: str = field(
        default="",
        metadata={"help": "Real texts: Hub id, URL, or a local txt, json, jsonl, csv or parquet file or a folder."},
    )
    model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A model to judge, Hub id or path; give it again for more. The others are tested against the FIRST, "
            "the baseline: in the paper that of maximum likelihood."
        },
    )
    labels: list[str] = field(
        default_factory=list,
        metadata={"help": "What to call the models in the results, in their order; by default by their last names."},
    )
    kind: str = field(
        default="text",
        metadata={
            "help": "What the texts are: `text`; `poem`, Chinese characters, in verses of 5 or 7; `music`, melodies of "
            "keys 0 to 88, which play, or MIDI files of such.",
            "choices": ("text", "poem", "music"),
        },
    )
    split: str | None = field(
        default=None,
        metadata={
            "help": "The split of the real texts. By default `test`, or else `validation`, or else the only one."
        },
    )
    max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens of a text, EOS included. Real texts are cut at it, too. By default that of the "
            "first model whose run is known, or else 64."
        },
    )
    temperature: float = field(default=1.0, metadata={"help": "Softmax temperature of the models, above 0."})
    batch_size: int = field(default=64, metadata={"help": "Texts at once; it bounds memory."})
    seed: int = field(default=42, metadata={"help": "Decides the texts, and the order of each judge."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the models' own code, if they bring any."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sampling(1, [self.temperature], self.max_completion_length, self.batch_size)
        if self.kind not in ("text", "poem", "music"):
            raise ValueError(f"`kind` must be text, poem or music; got {self.kind!r}.")
        if self.labels and len(self.labels) != len(self.model):
            raise ValueError(
                f"`labels` must name each model: {len(self.model)} of them; got {len(self.labels)}. Leave them out to "
                "have the models' last names."
            )
        if len(set(self.labels)) < len(self.labels) or "real" in self.labels:
            raise ValueError(f"`labels` must differ, and none be `real`; got {', '.join(self.labels)}.")


@dataclass
class JudgeArguments(BlindArguments):
    """What `seqgan-hf judge` can be told."""

    items: int = field(
        default=20,  # the paper
        metadata={"help": "Texts of each source, real ones and of each model; at least 1."},
    )
    output_dir: str = field(
        default="judge", metadata={"help": "The folder of the trial: trial.json, votes.sqlite, results."}
    )
    host: str = field(
        default="127.0.0.1", metadata={"help": "The address to listen at. By default this machine alone is served."}
    )
    port: int = field(default=7860, metadata={"help": "The port; 0: any that is free."})
    allowed_hosts: list[str] = field(
        default_factory=list,
        metadata={"help": "More names under which the page is reached, such as that of this machine in a network."},
    )
    export_space: str | None = field(
        default=None, metadata={"help": "Serve nothing: write this folder, which can be pushed as a Space."}
    )
    results: str | None = field(
        default=None,
        metadata={"help": "Serve nothing: print what people said in this folder of a trial, and write it there."},
    )
    add_votes: list[str] = field(
        default_factory=list,
        metadata={"help": "With `results`: first add the votes of these CSV files, such as those of a Space."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items < 1:
            raise ValueError(f"`items` must be at least 1; got {self.items}.")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`port` must be from 0 to 65535; got {self.port}.")
        if self.add_votes and self.results is None:
            raise ValueError("`add_votes` adds to the votes of a trial: name its folder by `--results`.")


@dataclass
class TuringArguments(BlindArguments):
    """What `seqgan-hf turing` can be told."""

    items: int = field(
        default=10, metadata={"help": "Texts to judge, as many real ones as of each model; a multiple of that."}
    )
    output_dir: str = field(default="turing", metadata={"help": "The folder of the trial: trial.json, votes.sqlite."})

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = 1 + max(len(self.model), 1)
        if self.items < sources or self.items % sources:
            raise ValueError(
                f"`items` must be a multiple of {sources}, the number of sources, so that each is judged as often; got "
                f"{self.items}."
            )
        if self.kind == "music":
            raise ValueError("A terminal plays no music. Use `seqgan-hf judge --kind music`.")


def _checked_temperatures(temperatures: Sequence[float]) -> list[float]:
    """Return each temperature once, from the highest on, and 1 among them."""
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(f"A temperature must be above 0; got {temperature}.")
    return sorted({1.0, *temperatures}, reverse=True)


def _check_sampling(num_samples: int, temperatures: Sequence[float], length: int | None, batch_size: int) -> None:
    counts = {"num_samples": num_samples, "max_completion_length": length, "batch_size": batch_size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    _checked_temperatures(temperatures)
