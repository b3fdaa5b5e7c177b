"""
Every wrong thing that a user may bring, and what happens: the table of docs/bad_input.md, which this writes.

    python tests/test_bad_input.py
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset, DatasetDict, IterableDataset
from test_trainer import config
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
)

from seqgan_hf import (
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANConfig,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
    parse_config,
)
from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.tokenization import train_tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "bad_input.md"
TOKENIZER = train_tokenizer(SENTENCES, vocab_size=280)
VOCAB_SIZE = len(TOKENIZER)
BERT = BertConfig(
    vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
T5 = T5Config(vocab_size=VOCAB_SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
GPT2 = GPT2Config(vocab_size=VOCAB_SIZE, n_positions=32, n_embd=16, n_layer=1, n_head=2)


def lstm(**kwargs):
    return LSTMForCausalLM(LSTMConfig(**{"vocab_size": VOCAB_SIZE} | kwargs))


def cnn(vocab_size=VOCAB_SIZE):
    return TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=vocab_size, filter_sizes=(2,), num_filters=(4,), pad_token_id=TOKENIZER.pad_token_id)
    )


class ThreeLogits(BertForSequenceClassification):
    def __init__(self, settings):
        super().__init__(settings)
        self.classifier = torch.nn.Linear(settings.hidden_size, 3)


def trainer(folder, **given):
    """Make a trainer of what is given, and of good things otherwise."""
    settings = given.pop("settings", {})
    parts = {
        "model": lstm, "discriminator": cnn, "args": lambda: config(folder, max_completion_length=8, **settings),
        "train_dataset": lambda: Dataset.from_dict({"text": SENTENCES}), "processing_class": lambda: TOKENIZER,
    }  # fmt: skip
    made = {name: given[name] if name in given else make() for name, make in parts.items()}
    return SeqGANTrainer(**made, **{name: value for name, value in given.items() if name not in parts})


def play(folder, **given):
    trainer(folder, **given).train()


def rows(**columns):
    return lambda folder: trainer(folder, train_dataset=Dataset.from_dict(columns))


def other(**given):
    return lambda folder: trainer(folder, **{name: make() for name, make in given.items()})


def settings(**values):
    return lambda folder: config(folder, **values)


def file(content: str | bytes):
    def read(folder):
        path = folder / "run.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        parse_config((TextRecipeArguments, SeqGANConfig), [str(path)])

    return read


@dataclass
class Case:
    """What somebody brings, the call that meets it, and the error; `...` stands for what varies."""

    what: str
    call: Callable[[Path], Any]
    error: type[BaseException]
    message: str


def encoding(ids):
    return (
        f"Row 0 of `train_dataset` must have a list of token ids, whole numbers, in column `input_ids`; got {ids}. "
        "Encode the texts by the generator's tokenizer, or pass them as a column `text`."
    )


def unknown(token):
    return (
        f"Row 0 of `train_dataset` has token {token}, and the generator knows tokens from 0 to 279. Encode the texts "
        "by its own tokenizer, or call `model.resize_token_embeddings(len(tokenizer))`."
    )


def no_text(kind, column="text"):
    return (
        f"Row 0 of `train_dataset` has a {kind} in column `{column}` where text is expected. Filter such rows out, or "
        "convert them to strings."
    )


def other_kind(kind, name="train_dataset"):
    return (
        f"`{name}` must be a `datasets.Dataset` or `IterableDataset`; got {kind}. Pass one split, such as "
        "dataset['train'], or wrap your rows by `Dataset.from_list`."
    )


def no_generator(kind):
    return (
        f"The generator must be a causal language model; got {kind}. Pass a name or path, or load one by "
        "`AutoModelForCausalLM.from_pretrained`."
    )


def no_discriminator(kind):
    return (
        f"The discriminator must be a sequence classifier; got {kind}. Pass a name or path, or load one by "
        "`AutoModelForSequenceClassification.from_pretrained(..., num_labels=2)`."
    )


def frozen(role):
    return (
        f"Nothing of the {role} is to be trained: all its parameters have `requires_grad=False`. Set it to `True`, or "
        "pass a `peft_config`."
    )


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CASES = {
    "Datasets": [
        Case(
            "nothing",
            other(train_dataset=lambda: None),
            ValueError,
            "`train_dataset` is missing: the discriminator needs real texts to learn from.",
        ),
        Case("a list", other(train_dataset=lambda: SENTENCES), TypeError, other_kind("list")),
        Case(
            "all splits",
            other(train_dataset=lambda: DatasetDict(train=Dataset.from_dict({"text": SENTENCES}))),
            TypeError,
            other_kind("DatasetDict"),
        ),
        Case(
            "a list of held-out texts",
            other(eval_dataset=lambda: SENTENCES),
            TypeError,
            other_kind("list", "eval_dataset"),
        ),
        Case(
            "no rows",
            rows(text=[]),
            ValueError,
            "`train_dataset` is empty. Check its path, split and filters: at least one text is needed.",
        ),
        Case(
            "rows that are blank",
            rows(text=["", ""]),
            ValueError,
            "`train_dataset` has rows, but each of them is blank. At least one text is needed.",
        ),
        Case(
            "one text",
            rows(text=["we work"]),
            ValueError,
            "The discriminator needs at least 2 real texts, one to learn from and one to be tested on; got 1. Add "
            "texts to `train_dataset`.",
        ),
        Case(
            "columns of other names",
            rows(content=SENTENCES, label=[1] * 10),
            ValueError,
            "`train_dataset` needs a column `text`, or `prompt` and `completion`, or `messages`, or `input_ids`; got "
            "['content', 'label']. Rename yours by `dataset.rename_column(...)`, or pass `--text_column` to a "
            "recipe.",
        ),
        Case("numbers as texts", rows(text=[1, 2]), ValueError, no_text("int")),
        Case("lists as texts", rows(text=[["a"], ["b"]]), ValueError, no_text("list")),
        Case("a missing text", rows(text=[None, "a"]), ValueError, no_text("NoneType")),
        Case(
            "a missing prompt",
            rows(prompt=[None, "a"], completion=["b", "c"]),
            ValueError,
            no_text("NoneType", "prompt"),
        ),
        Case(
            "a conversation as prompt, and a text as completion",
            rows(prompt=[[USER]] * 2, completion=["b"] * 2),
            ValueError,
            no_text("list", "prompt"),
        ),
        Case(
            "half a character",
            other(train_dataset=lambda: IterableDataset.from_generator(half_characters)),
            ValueError,
            "Row 0 of `train_dataset` has a lone surrogate in column `text`, half a character, which no tokenizer "
            "reads. Repair it by `text.encode('utf-8', 'replace').decode()`.",
        ),
        Case(
            "texts as messages",
            rows(messages=["hello"] * 2),
            ValueError,
            "Row 0 of `train_dataset` must have a list of messages of `role` and `content`; got 'hello'. Rename a "
            "column of plain texts to `text`.",
        ),
        Case(
            "conversations, and no chat template",
            rows(messages=[[USER, ANSWER]] * 2),
            ValueError,
            "Row 0 of `train_dataset` is a conversation, but the tokenizer has no chat template. Pass a chat model's "
            "tokenizer, set `tokenizer.chat_template`, or make columns `prompt` and `completion` of plain text.",
        ),
        Case("ids beyond the vocabulary", rows(input_ids=[[3, 500]] * 2), ValueError, unknown(500)),
        Case("ids under 0", rows(input_ids=[[3, -1]] * 2), ValueError, unknown(-1)),
        Case("fractions as ids", rows(input_ids=[[3.5, 4.0]] * 2), ValueError, encoding("[3.5, 4.0]")),
        Case("words as ids", rows(input_ids=[["a", "b"]] * 2), ValueError, encoding("['a', 'b']")),
        Case("an id instead of a list", rows(input_ids=[3, 4]), ValueError, encoding("3")),
        Case("lists of lists of ids", rows(input_ids=[[[3]], [[4]]]), ValueError, encoding("[[3]]")),
        Case("no ids", rows(input_ids=[None, [3]]), ValueError, encoding("None")),
        Case(
            "a mask of another length",
            rows(input_ids=[[3, 4]] * 2, attention_mask=[[1]] * 2),
            ValueError,
            "Row 0 of `train_dataset` has 2 `input_ids`, and as `attention_mask` [1]. Give each id one number, 1 where "
            "it counts, or drop the column.",
        ),
        Case(
            "a prompt that leaves no room",
            other(
                model=lambda: GPT2LMHeadModel(GPT2),
                train_dataset=lambda: Dataset.from_dict({"prompt": ["we work " * 9] * 2, "completion": ["b"] * 2}),
            ),
            ValueError,
            "Row 0 of `train_dataset` needs 27 prompt tokens and up to 8 of completion, but the generator reads 32 "
            "tokens at most. Lower `max_completion_length` or shorten the prompt.",
        ),
        Case(
            "a text that is too long, with `long_texts='error'`",
            lambda folder: trainer(folder, settings={"long_texts": "error"}),
            ValueError,
            "Row 0 of `train_dataset` has ... tokens, EOS included, more than `max_completion_length` (8). Raise it, "
            "shorten the text, or set `long_texts` to `truncate`.",
        ),
        Case(
            "a stream of several shards, parted by `discriminator_data='held_out'`, and several workers",
            lambda folder: trainer(
                folder,
                train_dataset=Dataset.from_dict({"text": SENTENCES}).to_iterable_dataset(num_shards=3),
                settings={"discriminator_data": "held_out", "dataloader_num_workers": 2},
            ),
            ValueError,
            "`discriminator_data='held_out'` counts the texts of a stream, and 2 workers would each count those of their "
            "own among its 3 shards. Set `dataloader_num_workers` to 1, or pass a map-style dataset.",
        ),
    ],
    "Models": [
        Case(
            "a classifier as generator",
            other(model=lambda: BertForSequenceClassification(BERT)),
            TypeError,
            no_generator("BertForSequenceClassification"),
        ),
        Case(
            "a masked language model as generator",
            other(model=lambda: BertForMaskedLM(BERT)),
            TypeError,
            no_generator("BertForMaskedLM"),
        ),
        Case(
            "an encoder with a decoder as generator",
            other(model=lambda: T5ForConditionalGeneration(T5)),
            TypeError,
            no_generator("T5ForConditionalGeneration"),
        ),
        Case("a module as generator", other(model=lambda: torch.nn.Linear(2, 2)), TypeError, no_generator("Linear")),
        Case("a number as generator", other(model=lambda: 3), TypeError, no_generator("int")),
        Case(
            "a generator without a cache that can be forked",
            lambda folder: play(folder, model=BertLMHeadModel(BERT)),
            ValueError,
            "BertLMHeadModel does not keep its state in a cache that can be forked (`reorder_cache`), so rollouts "
            "cannot branch from it. Choose another architecture as the generator.",
        ),
        Case(
            "a generator without BOS and EOS",
            other(processing_class=lambda: None, train_dataset=lambda: Dataset.from_dict({"input_ids": [[3, 4]] * 4})),
            ValueError,
            "The generator needs a BOS or an EOS token to start a text from, and neither its tokenizer nor its "
            "configuration has one. Set `tokenizer.bos_token` or `model.config.bos_token_id`.",
        ),
        Case(
            "a generator of which nothing is trained",
            other(model=lambda: lstm().requires_grad_(False)),
            ValueError,
            frozen("generator"),
        ),
        Case(
            "a discriminator of which nothing is trained",
            other(discriminator=lambda: cnn().requires_grad_(False)),
            ValueError,
            frozen("discriminator"),
        ),
        Case(
            "a generator without numbers",
            other(model=lambda: lstm().to("meta")),
            ValueError,
            "The generator has weights on the device `meta`, which are shapes without numbers. Load it without "
            "`init_empty_weights` or `device_map='meta'`.",
        ),
        Case(
            "a generator as discriminator", other(discriminator=lstm), TypeError, no_discriminator("LSTMForCausalLM")
        ),
        Case(
            "a module as discriminator",
            other(discriminator=lambda: torch.nn.Linear(2, 2)),
            TypeError,
            no_discriminator("Linear"),
        ),
        Case(
            "a discriminator of three classes",
            other(
                discriminator=lambda: BertForSequenceClassification(BertConfig(**BERT.to_dict() | {"num_labels": 3}))
            ),
            ValueError,
            "The discriminator must have two labels, generated and real; got 3. Load it with `num_labels=2`.",
        ),
        Case(
            "a detector whose labels stand the other way round",
            other(
                discriminator=lambda: BertForSequenceClassification(
                    BertConfig(**BERT.to_dict() | {"id2label": {0: "Human", 1: "ChatGPT"}})
                )
            ),
            ValueError,
            "The discriminator must have the labels generated (0) and real (1); got 'Human' (0) and 'ChatGPT' (1), which "
            "would reward the generator for the opposite. Swap the two rows of its head, or, if the names are wrong, set "
            "`discriminator.config.id2label` to {0: 'generated', 1: 'real'}.",
        ),
        Case(
            "a discriminator that gives three logits",
            lambda folder: play(folder, discriminator=ThreeLogits(BERT)),
            ValueError,
            "The discriminator must give two logits a text; ThreeLogits gave (...) for ... texts. Load a sequence "
            "classifier with `num_labels=2`.",
        ),
        Case(
            "a discriminator with a smaller vocabulary",
            other(discriminator=lambda: cnn(10)),
            ValueError,
            "The discriminator would read the generator's token ids, but it knows 10 tokens and the generator writes "
            "280. Pass the discriminator's own tokenizer as `discriminator_processing_class`, so that texts are "
            "re-encoded, or a discriminator with the generator's vocabulary.",
        ),
        Case(
            "a discriminator of whole texts, without rollouts",
            lambda folder: play(folder, settings={"num_rollouts": 0}),
            ValueError,
            "`num_rollouts=0` leaves it to the discriminator to judge unfinished texts, so its output must have "
            "`prefix_logits`, as that of LikelihoodRatioForSequenceClassification; TextCNNForSequenceClassification "
            "has none. Set `num_rollouts` to at least 1.",
        ),
    ],
    "Tokenizers": [
        Case(
            "texts, and no tokenizer",
            other(processing_class=lambda: None, model=lambda: lstm(bos_token_id=1)),
            ValueError,
            "`train_dataset` holds text, so the generator's tokenizer must be passed as `processing_class`.",
        ),
        Case(
            "a name as tokenizer",
            other(processing_class=lambda: "gpt2"),
            TypeError,
            "`processing_class` must be a tokenizer; got str. Load it by `AutoTokenizer.from_pretrained`.",
        ),
        Case(
            "a name as the discriminator's tokenizer",
            other(discriminator_processing_class=lambda: "gpt2"),
            TypeError,
            "`discriminator_processing_class` must be a tokenizer; got str. Load it by "
            "`AutoTokenizer.from_pretrained`.",
        ),
        Case(
            "the tokenizer of a larger model",
            other(model=lambda: lstm(vocab_size=100)),
            ValueError,
            "Row 0 of `train_dataset` has token ..., and the generator knows tokens from 0 to 99. Encode the texts "
            "by its own tokenizer, or call `model.resize_token_embeddings(len(tokenizer))`.",
        ),
    ],
    "Settings": [
        Case(
            "settings of another kind",
            other(args=lambda: {"output_dir": "run"}),
            TypeError,
            "`args` must be a `SeqGANConfig`; got dict. It takes what that takes.",
        ),
        Case(
            "`TrainingArguments`",
            lambda folder: trainer(folder, args=TrainingArguments(output_dir=str(folder))),
            TypeError,
            "`args` must be a `SeqGANConfig`; got TrainingArguments. It takes what that takes.",
        ),
        Case(
            "pairs of completions of one prompt, and replay of others",
            other(
                args=lambda: SeqGANConfig(discriminator_loss="pairwise", reward="logit", discriminator_replay=0.5),
                train_dataset=lambda: Dataset.from_dict({"prompt": SENTENCES, "completion": SENTENCES}),
            ),
            ValueError,
            "`discriminator_loss='pairwise'` compares a real and a generated completion of one prompt, and "
            "`discriminator_replay` takes completions of other prompts; for data with prompts it must be 0, got 0.5.",
        ),
        Case(
            "a word where a number is measured",
            settings(learning_rate="fast"),
            ValueError,
            "`learning_rate` must be a finite number; got 'fast'.",
        ),
        Case(
            "no number",
            settings(temperature=float("nan")),
            ValueError,
            "`temperature` must be a finite number; got nan.",
        ),
        Case("infinity", settings(beta=float("inf")), ValueError, "`beta` must be a finite number; got inf."),
        Case(
            "a fraction where something is counted",
            settings(num_rollouts=1.5),
            ValueError,
            "`num_rollouts` must be a whole number; got 1.5.",
        ),
        Case(
            "a truth where something is counted",
            settings(max_completion_length=True),
            ValueError,
            "`max_completion_length` must be a whole number; got True.",
        ),
        Case("a word as seed", settings(seed="x"), ValueError, "`seed` must be a whole number; got 'x'."),
        Case(
            "a number that is too small",
            settings(gradient_accumulation_steps=0),
            ValueError,
            "`gradient_accumulation_steps` must be at least 1; got 0.",
        ),
        Case(
            "a negative learning rate",
            settings(learning_rate=-1.0),
            ValueError,
            "`learning_rate` must be at least 0; got -1.0.",
        ),
        Case(
            "a word that is no choice",
            settings(reward="score"),
            ValueError,
            "`reward` must be one of probability, logit, centered_probability, log_probability; got 'score'.",
        ),
        Case(
            "arguments of `from_pretrained` that are no JSON",
            settings(model_init_kwargs="{'revision': 'v1'}"),
            ValueError,
            "`model_init_kwargs` must be JSON, with double quotes around names and texts; got "
            "\"{'revision': 'v1'}\" (...).",
        ),
        Case(
            "a file as folder",
            lambda folder: (folder / "run").touch() or config(folder),
            ValueError,
            "`output_dir` must be a folder; ... is a file. Give another name.",
        ),
        Case(
            "a file of settings that is missing",
            lambda folder: parse_config((SeqGANConfig,), [str(folder / "no.yaml")]),
            ValueError,
            "There is no configuration file .... Pass the path of a YAML file, or flags alone.",
        ),
        Case(
            "a file of settings with a list",
            file("- a\n"),
            ValueError,
            "... must hold `field: value` lines; got a list.",
        ),
        Case(
            "a misspelt key",
            file("num_rollout: 4\n"),
            ValueError,
            "... has an unknown key `num_rollout`. Did you mean `num_rollouts`? See --help for all keys.",
        ),
        Case(
            "a file that is no YAML",
            file("a: [1\n"),
            ValueError,
            "... is no YAML: while parsing a flow sequence .... Mend that line.",
        ),
        Case(
            "a file in another encoding",
            file("a: ä".encode("latin-1")),
            ValueError,
            "... is not UTF-8: .... Save it in that encoding.",
        ),
        Case(
            "a word in place of a number in a file",
            file("num_rollouts: many\n"),
            SystemExit,
            "...: argument --num_rollouts/--num-rollouts: invalid int value: 'many'. See --help for all.",
        ),
        Case(
            "a misspelt flag",
            lambda folder: parse_config((SeqGANConfig,), ["--num_rollout", "4"]),
            ValueError,
            "Unknown argument `--num_rollout`. Did you mean `--num_rollouts`? See --help for all.",
        ),
    ],
}
# Met by the tests named, which need another machine, network or process.
ELSEWHERE = {
    "no network, no such repository, a private or gated one": "tests/test_loading.py",
    "weights, or a checkpoint, that might run code": "tests/test_security.py",
    "a push that fails": "tests/test_hub.py",
    "a disk that is full, a checkpoint that is cut off": "tests/test_checkpoints.py",
    "Ctrl-C, SIGTERM; SIGKILL": "tests/test_interruption.py",
    "memory that runs out": "tests/test_chunks.py",
    "wrong commands, trials and votes of a blind test": "tests/test_trial.py",
    "requests that no page of a blind test sends": "tests/test_judge_server.py",
    "losses, rewards and gradients that are not finite": "tests/test_trainer.py",
}


AT_RANDOM = [
    "## At random\n",
    "`benchmarks/fuzz.py` makes files of settings (true and misspelt names, values of all kinds, changed bytes) and",
    "rows of data (columns of all names and kinds, lists and streams), and reads them as a recipe and the trainer do.",
    "Of 10,000 cases all ended in success or in an error of this package, of `TrainingArguments` or of the command line",
    "that says what is wrong: 5,000 settings in 1,330 successes and 3,670 errors; 5,000 datasets in 402 successes and",
    "3,635 errors, and 963 that `datasets` itself does not make. On the way there it found a mask that is no list,",
    "arguments that are no JSON, and a number of steps beyond all floats.",
    "300 cases are in the tests.",
]


def half_characters():
    yield from ({"text": "a\ud800b"} for _ in range(4))


def cases():
    return [
        pytest.param(case, id=f"{group}-{case.what}".replace(" ", "_")) for group in CASES for case in CASES[group]
    ]


@pytest.mark.parametrize("case", cases())
def test_what_is_wrong_ends_in_one_clear_error(case, tmp_path, capsys):
    pattern = ".*".join(re.escape(part) for part in case.message.split("..."))
    with pytest.raises(case.error) as error:
        case.call(tmp_path)
    said = capsys.readouterr().err.strip() if case.error is SystemExit else str(error.value)
    assert re.fullmatch(pattern, said, re.DOTALL), said


def page() -> str:
    parts = [
        "# Bad input\n",
        "What happens where something wrong is brought: one error, before training where it can be known then, that "
        "says what was\nexpected, what came and what to do. `...` stands for what varies. `tests/test_bad_input.py` "
        "brings each of them, and writes this\npage.\n",
    ]
    for group, listed in CASES.items():
        parts += [f"## {group}\n", "| what is brought | what happens |", "|---|---|"]
        parts += [
            f"| {case.what} | `{case.error.__name__}`: {case.message.replace('|', chr(92) + '|')} |" for case in listed
        ]
        parts.append("")
    parts += ["## Elsewhere\n", "| what goes wrong | its tests |", "|---|---|"]
    parts += [f"| {what} | `{test}` |" for what, test in ELSEWHERE.items()]
    return "\n".join([*parts, "", *AT_RANDOM, ""])


def test_the_page_of_bad_input_is_what_is_tested():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/test_bad_input.py"
    assert all((PAGE.parent.parent / test).is_file() for test in ELSEWHERE.values())


if __name__ == "__main__":
    sys.exit(0 if PAGE.write_text(page(), encoding="utf-8") else 1)
