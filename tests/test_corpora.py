"""Which texts a run reads: splits, columns and rows, from disk or as a stream."""

import json
import re

import pytest

from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.corpora import all_strings, load_splits


def arguments(path, **kwargs):
    return TextRecipeArguments(dataset_name=str(path), **kwargs)


def test_missing_splits_are_cut_from_the_training_texts_without_overlap(tmp_path):
    (tmp_path / "speech.txt").write_text("\n".join(f"text {i}" for i in range(50)) + "\n\n   \n")
    splits = load_splits(arguments(tmp_path / "speech.txt"), seed=1)
    assert {name: len(split) for name, split in splits.items()} == {"train": 40, "validation": 5, "test": 5}
    assert len({text for split in splits.values() for text in split["text"]}) == 50
    again = load_splits(arguments(tmp_path / "speech.txt"), seed=2)
    assert all(list(split["text"]) == list(again[name]["text"]) for name, split in splits.items())
    few = [load_splits(arguments(tmp_path / "speech.txt", max_samples=9), seed)["train"]["text"] for seed in (1, 1, 2)]
    assert list(few[0]) == list(few[1]) != list(few[2])


def test_rows_and_columns_are_chosen(tmp_path):
    rows = [{"potus": "A" if i % 2 else "B", "speech": f"text {i}"} for i in range(60)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_splits(
        arguments(tmp_path / "s.jsonl", text_column="speech", keep_rows="potus=A", max_samples=7), seed=1
    )
    assert len(splits["train"]) == 7
    assert all(int(text.split()[1]) % 2 for split in splits.values() for text in split["text"])


def test_whole_speeches_are_split_into_paragraphs(tmp_path):
    rows = [{"text": "\n\n".join(f"speech {i} paragraph {j}" for j in range(4))} for i in range(5)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_splits(arguments(tmp_path / "s.jsonl", split_paragraphs=True), seed=1)
    assert sum(map(len, splits.values())) == 20


@pytest.mark.parametrize(
    ("rows", "kwargs", "message"),
    [
        ({"speech": "a"}, {}, "The split `train` of `{path}` has no column `text`; it has ['speech']. Pass"),
        (
            {"text": "a"},
            {"dataset_train_split": "early"},
            "`{path}` has no split `early` to train on; it has train. Pass `--dataset_train_split`.",
        ),
        (
            {"text": "a"},
            {"keep_rows": "potus=A"},
            "`--keep_rows` must be COLUMN=VALUE with one of the columns ['text']; got 'potus=A'.",
        ),
        ({"text": "a"}, {}, "`{path}` has too few texts to hold out a split: 1."),
        (
            {"text": " "},
            {"dataset_streaming": True},
            "The stream of `{path}` has no texts. Check its split and `--keep_rows`.",
        ),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(rows, kwargs, message, tmp_path):
    (tmp_path / "s.jsonl").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=re.escape(message.format(path=tmp_path / "s.jsonl"))):
        load_splits(arguments(tmp_path / "s.jsonl", **kwargs), seed=1)


def test_a_number_of_texts_below_one_is_refused():
    with pytest.raises(ValueError, match=re.escape("`max_samples` must be at least 1; got 0.")):
        TextRecipeArguments(dataset_name="x", max_samples=0)


@pytest.mark.parametrize("kwargs", [{}, {"max_samples": 9}, {"split_paragraphs": True, "keep_rows": "potus=A"}])
def test_a_stream_gives_the_texts_that_the_whole_dataset_gives(kwargs, tmp_path):
    rows = [{"potus": "AB"[i % 2], "text": f"text {i}\n\nmore {i}"} for i in range(2500)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole, streamed = (
        load_splits(arguments(tmp_path / "s.jsonl", dataset_streaming=streaming, **kwargs), seed=1)
        for streaming in (False, True)
    )
    for name, split in whole.items():
        assert list(split["text"]) == list(streamed[name]["text"])


def test_a_long_stream_is_read_as_far_as_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("seqgan_hf.corpora._STREAM_HEAD", 20)
    monkeypatch.setattr("seqgan_hf.corpora._MOST_TEST_TEXTS", 3)
    (tmp_path / "s.txt").write_text("\n".join(f"text {i}" for i in range(5000)))
    splits = load_splits(arguments(tmp_path / "s.txt", dataset_streaming=True, max_samples=10), seed=1)
    seen = [int(text.split()[1]) for split in splits.values() for text in split["text"]]
    assert len(splits["train"]) == 10 and max(seen) < 20


@pytest.mark.parametrize("streaming", [False, True])
def test_prompts_and_conversations_stay_as_they_are(streaming, tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row, strings in (
        ({"prompt": "we", "completion": "work", "text": "other"}, {"we", "work"}),
        ({"messages": chat, "source": "x"}, {"a", "b"}),
    ):
        (tmp_path / "s.jsonl").write_text("\n".join([json.dumps(row)] * 30))
        splits = load_splits(arguments(tmp_path / "s.jsonl", dataset_streaming=streaming), seed=1)
        assert set(splits["test"].column_names) == set(row) - {"text", "source"}
        assert set(all_strings(splits["train"])) == strings


def test_a_column_asked_for_by_name_comes_before_conversations(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "s.jsonl").write_text("\n".join([json.dumps({"messages": chat, "speech": "c"})] * 30))
    assert set(load_splits(arguments(tmp_path / "s.jsonl", text_column="speech"), seed=1)["train"]["text"]) == {"c"}
    with pytest.raises(ValueError, match=re.escape("`--split_paragraphs` splits plain texts, and `")):
        load_splits(arguments(tmp_path / "s.jsonl", split_paragraphs=True), seed=1)


def test_a_stream_may_have_conversations_of_different_keys(tmp_path):
    plain, named = {"role": "user", "content": "a"}, {"role": "user", "content": "a", "name": "ann"}
    rows = [{"messages": [named if i > 1200 else plain, {"role": "assistant", "content": "b"}]} for i in range(1500)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_splits(arguments(tmp_path / "s.jsonl", dataset_streaming=True), seed=1)
    assert sum(map(len, splits.values())) == 1500
