"""
Random settings and random rows of data: each must end in success, or in an error that says what is wrong.

    python benchmarks/fuzz.py --cases 10000

Half of the cases are files of settings, made of true and misspelt names, of values of all kinds, and of bytes that were
changed; they are read as a recipe reads its own. Half are datasets of all kinds of rows, prepared as the trainer does. An
error of another kind than those documented, or one without a message, is printed with the case that made it.
"""

import argparse
import contextlib
import dataclasses
import io
import random
import string
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import yaml
from datasets import Dataset, IterableDataset
from transformers import logging

import seqgan_hf
from seqgan_hf import SeqGANConfig, parse_config
from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.tokenization import train_tokenizer

CLASSES = (TextRecipeArguments, SeqGANConfig)
PACKAGE = Path(seqgan_hf.__file__).parent
# Errors of the settings that are those of `TrainingArguments`, and of the command line.
SPEAKS_FOR_ITSELF = ("training_args.py", "argparse.py", "trainer_utils.py", "generic.py")
DOCUMENTED = (ValueError, TypeError, ImportError, SystemExit)
KEYS = [
    *SeqGANConfig.__annotations__, *TextRecipeArguments.__annotations__, "learning_rate", "max_steps", "seed", "bf16",
    "per_device_train_batch_size", "gradient_accumulation_steps", "save_strategy", "logging_steps", "output_dir",
]  # fmt: skip
DEFAULTS = {
    field.name: field.default
    for one in CLASSES
    for field in dataclasses.fields(one)
    if isinstance(field.default, (str, int, float))
}
COLUMNS = (
    "text",
    "prompt",
    "completion",
    "messages",
    "input_ids",
    "attention_mask",
    "prompt_ids",
    "completion_ids",
    "x",
)
TOKENIZER = train_tokenizer(["we work for the town", "the town works for us"], vocab_size=270)


class NoDataset(Exception):
    """Rows that `datasets` itself does not take: nothing of this package was tried."""


def any_text(draw: random.Random) -> str:
    """Draw a text: words, blanks, signs of all planes, control characters."""
    signs = [
        "a",
        "we ",
        " ",
        "\n",
        "\0",
        "é",
        "字",
        "🙂",
        "\u202e",
        "<|endoftext|>",
        ":",
        "[",
        "{",
        "'",
        '"',
        "%",
        "&",
    ]
    return "".join(draw.choice(signs) for _ in range(draw.randrange(12)))


def any_number(draw: random.Random) -> Any:
    """Draw a number, also one that no setting takes."""
    return draw.choice(
        [0, 1, 2, -1, 3, 64, 2**31, 2**63, 10**400, 0.5, -0.5, 1e-4, 1e308, float("inf"), float("nan"), True, False]
    )


def any_value(draw: random.Random, depth: int = 0) -> Any:
    """Draw a value of any kind that YAML and JSON have."""
    kind = draw.randrange(7 if depth < 2 else 4)
    if kind == 0:
        return None
    if kind == 1:
        return any_text(draw)
    if kind in (2, 3):
        return any_number(draw)
    if kind == 4:
        return {any_text(draw): any_value(draw, depth + 1) for _ in range(draw.randrange(3))}
    return [any_value(draw, depth + 1) for _ in range(draw.randrange(4))]


def settings_case(draw: random.Random, folder: Path) -> tuple[str, Callable[[], Any]]:
    """Draw a file of settings, and how it is read."""
    values = {}
    for _ in range(draw.randrange(1, 6)):
        key = draw.choice(KEYS)
        if draw.random() < 0.03:
            key = key.replace(draw.choice(key), draw.choice(string.ascii_letters), 1)
        values[key] = draw.choice([DEFAULTS.get(key), any_value(draw)])
    written = yaml.safe_dump(values, allow_unicode=True).encode()
    if draw.random() < 0.2:
        at = draw.randrange(len(written))
        written = written[:at] + bytes([draw.randrange(256)]) + written[at + draw.randrange(2) :]
    path = folder / "run.yaml"
    path.write_bytes(written)
    flags = ["--output_dir", str(folder / "run"), "--dataset_name", "user/name", "--use_cpu", "true"]
    return repr(written), lambda: parse_config(CLASSES, [str(path), *flags])


def any_ids(draw: random.Random) -> Any:
    """Draw ids, mostly good ones."""
    if draw.random() < 0.1:
        return any_value(draw)
    ids: list[Any] = [draw.randrange(270) for _ in range(draw.randrange(8))]
    if ids and draw.random() < 0.2:
        ids[draw.randrange(len(ids))] = draw.choice([-1, 270, 10**9, 2])
    return ids


def any_cell(draw: random.Random, column: str) -> Any:
    """Draw what stands in a column, mostly what is expected there."""
    if draw.random() < 0.15:
        return any_value(draw)
    if column in ("text", "prompt", "completion"):
        return any_text(draw)
    if column == "messages":
        roles = [draw.choice(["system", "user", "assistant", ""]) for _ in range(draw.randrange(4))]
        return [{"role": role, "content": any_text(draw)} for role in roles]
    return any_ids(draw)


def rows_case(draw: random.Random, folder: Path) -> tuple[str, Callable[[], Any]]:
    """Draw a dataset, or a stream, and how it is prepared."""
    columns = draw.sample(COLUMNS, draw.randrange(1, 4))
    rows = [{column: any_cell(draw, column) for column in columns} for _ in range(draw.randrange(4))]
    text_format = TextFormat(1, draw.choice([2, None]), 0, draw.randrange(1, 9), vocab_size=270)
    tokenizer = draw.choice([TOKENIZER, TOKENIZER, TOKENIZER, None])
    streamed, long_texts = draw.random() < 0.3, draw.choice(["truncate", "truncate", "error"])

    def prepare() -> None:
        if streamed:
            dataset: Any = IterableDataset.from_generator(lambda: iter(rows))
        else:
            try:
                dataset = Dataset.from_list(rows)
            except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
                raise NoDataset from error
        check(list(prepare_dataset(dataset, tokenizer, text_format, long_texts=long_texts)), text_format)

    return repr((rows, text_format, streamed)), prepare


def check(prepared: list[dict[str, Any]], text_format: TextFormat) -> None:
    """
    Look whether rows are what the generator could have written.

    Raises:
        AssertionError: If not.
    """
    assert prepared, "no row is left, and nothing was said"
    for row in prepared:
        ids = row["completion_ids"]
        assert 0 < len(ids) <= text_format.max_completion_length, row
        assert all(0 <= token < 270 for token in [*ids, *row["prompt_ids"]]), row
        assert text_format.eos_token_id not in ids[:-1], row
        assert row["prompt_ids"], row


def try_one(call: Callable[[], Any]) -> tuple[str, BaseException | None]:
    """Run a case, and say how it ended; an error that is not documented comes along."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            call()
    except NoDataset:
        return "no dataset", None
    except DOCUMENTED as error:
        message = said.getvalue() if isinstance(error, SystemExit) else str(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = Path(where.filename).is_relative_to(PACKAGE) and str(where.line).startswith("raise ")
        if (ours or Path(where.filename).name in SPEAKS_FOR_ITSELF) and len(message.split()) > 3:
            return type(error).__name__, None
        return "undocumented", error
    except Exception as error:
        return "undocumented", error
    return "success", None


def fuzz(cases: int, seed: int, folder: Path) -> tuple[Counter[tuple[str, str]], list[str]]:
    """
    Try random cases.

    Args:
        cases (`int`): How many.
        seed (`int`): Of the first; each has its own.
        folder (`Path`): For files.

    Returns:
        `tuple`: how many ended how, by kind and end, and a description of each that should not have.
    """
    ended, wrong = Counter[tuple[str, str]](), []
    for number in range(cases):
        draw = random.Random(seed + number)
        kind, make = (("settings", settings_case), ("rows", rows_case))[number % 2]
        case, call = make(draw, folder)
        end, error = try_one(call)
        ended[kind, end] += 1
        if error is not None:
            wrong.append(f"seed {seed + number}, {kind}: {type(error).__name__}: {error}\n    {case}")
        if number % 500 == 499:
            print(f"{number + 1:,} of {cases:,} cases, {len(wrong)} wrong", file=sys.stderr, flush=True)
    return ended, wrong


def main() -> None:
    """Try cases, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    with tempfile.TemporaryDirectory() as folder:
        ended, wrong = fuzz(args.cases, args.seed, Path(folder))
    for kind, end in sorted(ended):
        print(f"{kind:10} {end:14} {ended[kind, end]:6,}")
    print("\n".join(wrong))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
