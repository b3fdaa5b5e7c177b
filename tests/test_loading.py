import json
import re

import pytest
from conftest import SENTENCES

from seqgan_hf.loading import load_discriminator, load_generator, load_texts, load_tokenizer, train_tokenizer


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv"])
def test_local_files_are_texts(ending, tmp_path):
    path = tmp_path / f"speech.{ending}"
    lines = {
        "txt": SENTENCES,
        "jsonl": [json.dumps({"text": text}) for text in SENTENCES],
        "csv": ["text", *SENTENCES],
    }[ending]
    path.write_text("\n".join(lines) + "\n")
    assert list(load_texts(str(path))["train"]["text"]) == SENTENCES


def test_a_folder_gives_its_splits(tmp_path):
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    loaded = load_texts(str(tmp_path))
    assert {name: split["text"][0] for name, split in loaded.items()} == {
        n: n for n in ("train", "validation", "test")
    }


def test_streaming_gives_the_same_texts(tmp_path):
    (tmp_path / "speech.txt").write_text("\n".join(SENTENCES) + "\n")
    stream = load_texts(str(tmp_path / "speech.txt"), split="train", streaming=True)
    assert [row["text"] for row in stream] == SENTENCES


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: load_generator("nobody/nothing"), "the generator `nobody/nothing`"),
        (lambda: load_discriminator("nobody/nothing"), "the discriminator `nobody/nothing`"),
        (lambda: load_tokenizer("nobody/nothing"), "the tokenizer of `nobody/nothing`"),
        (lambda: load_texts("nobody/nothing"), "the dataset `nobody/nothing`"),
        (lambda: load_texts("/nowhere/speech.txt"), "the dataset `/nowhere/speech.txt`"),
        (
            lambda: load_texts("http://127.0.0.1:9/speech.txt"),
            "the dataset `http://127.0.0.1:9/speech.txt`",
        ),
    ],
)
def test_an_unreachable_hub_is_explained(call, what, unreachable_hub):
    with pytest.raises(OSError, match=re.escape(f"Could not load {what}: it is neither a local path nor")) as error:
        call()
    assert "give a local path, or run a recipe with `--sample`, which needs no network." in str(error.value)


def test_the_trained_tokenizer_writes_and_reads_any_text():
    tokenizer = train_tokenizer(SENTENCES, 300)
    text = "Größe, 詩 & <b>new\nlines</b>  twice"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_a_vocabulary_below_the_bytes_is_refused():
    message = "`vocab_size` must be at least 259, for every byte and 3 special tokens; got 100."
    with pytest.raises(ValueError, match=re.escape(message)):
        train_tokenizer(SENTENCES, 100)
