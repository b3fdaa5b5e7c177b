"""Tokenizers of runs from scratch: what they keep of a text, what they do not know, and what they refuse."""

import re

import pytest
from conftest import SENTENCES
from transformers import AutoTokenizer

from seqgan_hf.tokenization import UNKNOWN, train_tokenizer

TEXTS = ['We don\'t say "no", do we? A well-known (old) promise.', "40 40 0 42", "cost: 3.5 %"]


def written(tokenizer, text):
    """What is read back of a text, as samples are."""
    return tokenizer.batch_decode(
        tokenizer([text])["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )[0]


def test_the_trained_tokenizer_writes_and_reads_any_text():
    tokenizer = train_tokenizer(SENTENCES, 300)
    text = "Größe, 詩 & <b>new\nlines</b>  twice"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_a_vocabulary_below_the_bytes_is_refused():
    message = "`vocab_size` must be at least 259, for every byte and 3 special tokens; got 100."
    with pytest.raises(ValueError, match=re.escape(message)):
        train_tokenizer(SENTENCES, 100)


@pytest.mark.parametrize("level", ["bpe", "word", "character"])
def test_what_was_trained_on_is_read_back_also_from_disk(level, tmp_path):
    train_tokenizer(TEXTS, 400, level).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert [written(tokenizer, text) for text in TEXTS] == TEXTS


def test_a_word_is_one_token_wherever_it_stands():
    tokenizer = train_tokenizer(TEXTS, 400, "word")
    forty, again, rest, _ = tokenizer("40 40 0 42")["input_ids"]
    assert forty == again != rest
    assert tokenizer("40  \n 0 ")["input_ids"] == [forty, rest]
    assert len(tokenizer("don't (old)")["input_ids"]) == 4


def test_a_character_is_one_token_and_white_space_is_one():
    tokenizer = train_tokenizer(["床前 明月\n光"], 400, "character")
    assert len(tokenizer("床前 明月\n光")["input_ids"]) == 7
    assert len(tokenizer) == 3 + 1 + 7


@pytest.mark.parametrize(
    ("level", "expected"), [("word", f"We {UNKNOWN} {UNKNOWN}"), ("character", f"We {UNKNOWN}oo")]
)
def test_what_the_vocabulary_lacks_shows(level, expected):
    text = {"word": "We zoom 41", "character": "We zoo"}[level]
    assert written(train_tokenizer(TEXTS, 400, level), text) == expected


def test_the_most_frequent_make_up_the_vocabulary():
    tokenizer = train_tokenizer(["a b b c c c", "c d"], 3 + 1 + 2, "word")
    assert written(tokenizer, "a b c d") == f"{UNKNOWN} b c {UNKNOWN}"


@pytest.mark.parametrize("level", ["bpe", "word", "character"])
def test_texts_of_one_length_have_no_end(level):
    tokenizer = train_tokenizer(TEXTS, 400, level, ends=False)
    assert tokenizer.eos_token_id is None and "</s>" not in tokenizer.get_vocab()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (0, 1)


def test_a_vocabulary_of_nothing_but_special_tokens_is_refused():
    message = "`vocab_size` must be above 4, the special tokens and the unknown one; got 4."
    with pytest.raises(ValueError, match=re.escape(message)):
        train_tokenizer(SENTENCES, 4, "word")


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match=re.escape("`tokenizer` must be one of bpe, word, character; got 'byte'.")):
        train_tokenizer(SENTENCES, 300, "byte")
