"""What recipes can be told, beside `SeqGANConfig`."""

from dataclasses import dataclass, field


@dataclass
class TextRecipeArguments:
    """What a recipe on texts can be told, beside [`SeqGANConfig`]."""

    dataset_name: str = field(
        metadata={"help": "Texts: Hub id, URL, or a local txt, json, jsonl, csv or parquet file or a folder of such."}
    )
    sample: bool = field(
        default=False,
        metadata={"help": "A quick run that needs no network: a bundled text, small networks from scratch."},
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Train a tokenizer on the texts, and the paper's LSTM and CNN, instead of loading models."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    text_column: str = field(default="text", metadata={"help": "The column that holds the texts."})
    keep_rows: str | None = field(
        default=None, metadata={"help": "Keep the rows with this value: COLUMN=VALUE, as in `potus=Barack Obama`."}
    )
    split_paragraphs: bool = field(
        default=False, metadata={"help": "Make each line of a row a text of its own, where a row is a whole speech."}
    )
    max_samples: int | None = field(default=None, metadata={"help": "Use at most so many training texts."})
    model_name_or_path: str = field(
        default="distilbert/distilgpt2", metadata={"help": "The generator: Hub id or local path of a causal model."}
    )
    discriminator_name_or_path: str = field(
        default="distilbert/distilroberta-base", metadata={"help": "The discriminator: Hub id or local path."}
    )
    vocab_size: int = field(default=4000, metadata={"help": "From scratch: tokens of the tokenizer, at least 259."})
    embedding_size: int = field(
        default=32,  # the authors' code
        metadata={"help": "From scratch: width of the generator's embedding."},
    )
    hidden_size: int = field(
        default=32,  # the authors' code
        metadata={"help": "From scratch: width of the generator's LSTM."},
    )
    generator_dropout: float = field(default=0.0, metadata={"help": "From scratch: dropout of the generator."})
    mle_epochs: float = field(default=3.0, metadata={"help": "Epochs of maximum likelihood before the game, at most."})
    mle_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that stage."})
    mle_batch_size: int = field(default=16, metadata={"help": "Texts per update in that stage."})
    mle_patience: int = field(
        default=2, metadata={"help": "Stop that stage after so many epochs without a lower held-out NLL; 0: never."}
    )
    num_test_samples: int = field(
        default=500, metadata={"help": "Texts sampled from the generator for BLEU, before and after the game."}
    )

    def __post_init__(self) -> None:
        if self.num_test_samples < 1:
            raise ValueError(f"`num_test_samples` must be at least 1; got {self.num_test_samples}.")


@dataclass
class SyntheticRecipeArguments:
    """What the synthetic recipe can be told, beside [`SeqGANConfig`]. The length is `max_completion_length`."""

    oracle: str | None = field(
        default=None, metadata={"help": "An oracle's parameters (.npz); by default one is drawn from `oracle_seed`."}
    )
    oracle_seed: int = field(default=88, metadata={"help": "Draws the oracle, where none is given."})
    num_texts: int = field(
        default=10_000,  # the paper
        metadata={"help": "Texts sampled from the oracle to train on, and as many to test on."},
    )
    num_test_samples: int = field(
        default=10_000,  # the authors' code; the paper has 100,000
        metadata={"help": "Texts sampled from the generator for NLL_oracle."},
    )
    embedding_size: int = field(default=32, metadata={"help": "Width of the generator's embedding."})  # the paper
    hidden_size: int = field(default=32, metadata={"help": "Width of the generator's LSTM."})  # the paper
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
    rival_temperature: float = field(
        default=0.75,
        metadata={"help": "Also report the maximum-likelihood generator at this temperature: the rival that counts."},
    )
