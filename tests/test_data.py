import logging
import re

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel

from seqgan_hf.data import (
    TextFormat,
    is_conditional,
    prepare_dataset,
)
from seqgan_hf.streams import RealTexts, generator_and_discriminator_folds, hold_out


def text_format(tokenizer, length=30):
    return TextFormat(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, length)


def as_stream(dataset):
    return dataset.to_iterable_dataset()


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
def test_text_becomes_start_token_and_completion_with_eos(kind, tokenizer):
    dataset = kind(Dataset.from_dict({"text": SENTENCES, "other": list(range(10))}))
    rows = list(prepare_dataset(dataset, tokenizer, text_format(tokenizer)))
    assert len(rows) == 10 and set(rows[0]) == {"prompt_ids", "completion_ids"}
    assert rows[0]["prompt_ids"] == [tokenizer.bos_token_id]
    assert rows[0]["completion_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(rows[0]["completion_ids"][:-1]) == SENTENCES[0]


def test_prompt_and_completion_stay_apart(tokenizer):
    dataset = Dataset.from_dict({"prompt": ["we work", ""], "completion": [" for us", "the town"]})
    assert is_conditional(dataset, text_format(tokenizer))
    assert is_conditional(prepare_dataset(dataset, tokenizer, text_format(tokenizer)), text_format(tokenizer))
    first, second = prepare_dataset(dataset, tokenizer, text_format(tokenizer))
    assert tokenizer.decode(first["prompt_ids"]) == "we work"
    assert tokenizer.decode(first["completion_ids"]) == " for us</s>"
    assert second["prompt_ids"] == [tokenizer.bos_token_id]


TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{{ '</s>' if m['role'] == 'assistant' else '' }}\n"
    "{% endfor %}{{ '<s>assistant: ' if add_generation_prompt else '' }}"
)


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


ASKED, ANSWERED = chat(("system", "we"), ("user", "the town")), chat(("assistant", "works"))


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
@pytest.mark.parametrize("columns", [{"messages": [ASKED + ANSWERED]}, {"prompt": [ASKED], "completion": [ANSWERED]}])
def test_conversations_go_through_the_chat_template(kind, columns, tokenizer):
    tokenizer.chat_template = TEMPLATE
    dataset = kind(Dataset.from_dict(columns))
    assert is_conditional(dataset, text_format(tokenizer))
    (row,) = prepare_dataset(dataset, tokenizer, text_format(tokenizer))
    assert tokenizer.decode(row["prompt_ids"]) == "<s>system: we\n<s>user: the town\n<s>assistant: "
    assert tokenizer.decode(row["completion_ids"]) == "works</s>"  # ends at EOS, not at the newline behind it
    assert row["prompt_ids"] == tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            None,
            ASKED + ANSWERED,
            "Row 0 of `train_dataset` is a conversation, but the tokenizer has no chat template.",
        ),
        (
            TEMPLATE,
            ASKED,
            "Row 0 of `train_dataset` must be a prompt of at least one message and one answer of the `assistant`; got "
            "the roles ['system', 'user'].",
        ),
        (TEMPLATE, ANSWERED, "got the roles ['assistant']."),
        (
            TEMPLATE,
            [{"from": "human", "value": "we"}, {"from": "gpt", "value": "us"}],
            "Row 0 of `train_dataset` must have messages of `role` and `content`; got messages of ['from', 'value'].",
        ),
        (
            "{{ messages | length }}",
            ASKED + ANSWERED,
            "Row 0 of `train_dataset`: the chat template writes the answered conversation otherwise than the prompt",
        ),
    ],
)
def test_unusable_conversations_are_refused(template, messages, message, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare_dataset(Dataset.from_dict({"messages": [messages]}), tokenizer, text_format(tokenizer))


def test_input_ids_lose_bos_and_gain_eos_where_a_tokenizer_says_so(tokenizer):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    dataset = Dataset.from_dict({"input_ids": [[bos, 7, 8, eos], [7, 8], [9]]})
    rows = prepare_dataset(dataset, tokenizer, text_format(tokenizer))
    assert list(rows["completion_ids"]) == [[7, 8, eos], [7, 8, eos], [9, eos]]


def test_input_ids_without_tokenizer_or_eos_stay_as_they_are():
    """The synthetic oracle: its start token 0 is also a word, so a text may begin with it."""
    dataset = Dataset.from_dict({"input_ids": [[0, 7, 8], [7, 0, 0]]})
    rows = prepare_dataset(dataset, None, TextFormat(0, None, 0, 3))
    assert list(rows["completion_ids"]) == [[0, 7, 8], [7, 0, 0]]


def test_a_long_text_is_cut_without_eos(tokenizer):
    dataset = Dataset.from_dict({"text": ["we work for the town at night"]})
    (row,) = prepare_dataset(dataset, tokenizer, text_format(tokenizer, length=3))
    assert len(row["completion_ids"]) == 3 and tokenizer.eos_token_id not in row["completion_ids"]


def test_a_long_text_can_be_an_error(tokenizer):
    dataset = Dataset.from_dict({"text": ["we", "we work for the town at night and the bridge is open"]})
    count = len(tokenizer(dataset["text"][1])["input_ids"]) + 1
    message = f"Row 1 of `eval_dataset` has {count} tokens, EOS included, more than `max_completion_length` (5)."
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare_dataset(dataset, tokenizer, text_format(tokenizer, 5), "eval_dataset", long_texts="error")


def test_blank_rows_are_left_out(tokenizer):
    rows = prepare_dataset(Dataset.from_dict({"text": ["", "we work", ""]}), tokenizer, text_format(tokenizer))
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Dataset.from_dict({"text": []}), ValueError, "`train_dataset` is empty. Check its path, split and filters"),
        (
            IterableDataset.from_generator(lambda: iter(())),
            ValueError,
            "`train_dataset` is empty. Check its path, split and filters",
        ),
        (
            Dataset.from_dict({"speech": ["a"], "year": [1]}),
            ValueError,
            "`train_dataset` needs a column `text`, or `prompt` and `completion`, or `messages`, or `input_ids`; "
            "got ['speech', 'year']. Rename yours by `dataset.rename_column(...)`, or pass `--text_column` to a recipe.",
        ),
        (Dataset.from_dict({"text": ["", ""]}), ValueError, "`train_dataset` has rows, but each of them is blank."),
        (
            Dataset.from_dict({"text": ["a", None]}),
            ValueError,
            "Row 1 of `train_dataset` has a NoneType in column `text` where text is expected.",
        ),
        (
            DatasetDict(train=Dataset.from_dict({"text": ["a"]})),
            TypeError,
            "`train_dataset` must be a `datasets.Dataset` or `IterableDataset`; got DatasetDict. Pass one split",
        ),
    ],
)
def test_unusable_datasets_are_refused_by_name(dataset, error, message, tokenizer):
    with pytest.raises(error, match=re.escape(message)):
        prepare_dataset(dataset, tokenizer, text_format(tokenizer))


def test_text_without_a_tokenizer_is_refused():
    message = "`train_dataset` holds text, so the generator's tokenizer must be passed as `processing_class`."
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare_dataset(Dataset.from_dict({"text": ["a"]}), None, TextFormat(0, None, 0, 3))


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
def test_a_prompt_longer_than_the_context_is_refused(kind):
    dataset = kind(Dataset.from_dict({"prompt_ids": [[1], [1] * 60], "completion_ids": [[2 + 1], [3]]}))
    message = (
        "Row 1 of `train_dataset` needs 60 prompt tokens and up to 10 of completion, but the generator reads 64 tokens "
        "at most. Lower `max_completion_length` or shorten the prompt."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        list(prepare_dataset(dataset, None, TextFormat(1, 2, 0, 10), context_lengths={"generator": 64}))
    assert len(list(prepare_dataset(dataset, None, TextFormat(1, 2, 0, 4), context_lengths={"generator": 64}))) == 2


def test_a_completion_ends_at_its_first_eos_and_padding_is_left_out(tokenizer):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = Dataset.from_dict(
        {"input_ids": [[7, 8, eos, pad, pad], [7, eos, 9, eos, eos]], "attention_mask": [[1, 1, 1, 0, 0], [1] * 5]}
    )
    assert list(prepare_dataset(rows, tokenizer, text_format(tokenizer))["completion_ids"]) == [[7, 8, eos], [7, eos]]
    (row,) = prepare_dataset(
        Dataset.from_dict({"text": ["we</s>the town</s></s>"]}), tokenizer, text_format(tokenizer)
    )
    assert tokenizer.decode(row["completion_ids"]) == "we</s>"


def test_prepared_rows_may_be_prepared_again_and_stay(tokenizer):
    texts = Dataset.from_dict({"text": SENTENCES})
    once = prepare_dataset(texts, tokenizer, text_format(tokenizer, 14))
    twice = prepare_dataset(once, tokenizer, text_format(tokenizer, 20))
    assert list(once) == list(twice)
    assert max(map(len, prepare_dataset(once, tokenizer, text_format(tokenizer, 5))["completion_ids"])) == 5
    assert not is_conditional(once, text_format(tokenizer))


def test_extra_columns_and_tensor_formats_do_not_disturb(tokenizer):
    dataset = Dataset.from_dict({"text": ["we work"], "prompt": ["a"]})
    assert not is_conditional(dataset, text_format(tokenizer))
    (row,) = prepare_dataset(dataset, tokenizer, text_format(tokenizer))
    assert tokenizer.decode(row["completion_ids"]) == "we work</s>"
    ids = Dataset.from_dict({"input_ids": [[7, 8], [9, 9]]}).with_format("torch")
    assert len(prepare_dataset(ids, tokenizer, text_format(tokenizer))) == 2


def gpt2_without(*missing):
    names = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1)
    for name, value in names.items():
        setattr(config, name, None if name in missing else value)
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("missing", "expected", "said"),
    [
        (
            ("pad_token_id",),
            TextFormat(1, 2, 2, 9, pad_is_a_token=True, vocab_size=8),
            "has no padding token: rows are filled with token 2",
        ),
        (
            ("eos_token_id",),
            TextFormat(1, None, 0, 9, pad_is_a_token=True, vocab_size=8),
            "has no EOS token: every completion has 9 tokens.",
        ),
        (
            ("bos_token_id",),
            TextFormat(2, 2, 0, 9, vocab_size=8),
            "has no BOS token: texts start from its EOS token, 2.",
        ),
    ],
)
def test_missing_special_tokens_are_resolved_and_said(missing, expected, said, caplog):
    logger = logging.getLogger("transformers")
    logger.propagate = True
    logging.getLogger("seqgan_hf.data").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO, logger="seqgan_hf.data"):
        assert TextFormat.from_model(gpt2_without(*missing), None, 9) == expected
    assert said in caplog.text


def test_special_tokens_without_an_embedding_are_resolved_or_refused(tokenizer, caplog):
    model = gpt2_without("pad_token_id")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert TextFormat.from_model(model, tokenizer, 9).pad_token_id == tokenizer.eos_token_id
    tokenizer.add_special_tokens({"eos_token": "[EOS]"})
    with pytest.raises(ValueError, match=re.escape("Call `model.resize_token_embeddings(len(tokenizer))`")):
        TextFormat.from_model(model, tokenizer, 9)


def test_a_generator_that_cannot_start_is_refused():
    with pytest.raises(ValueError, match="needs a BOS or an EOS token to start a text from"):
        TextFormat.from_model(gpt2_without("bos_token_id", "eos_token_id"), None, 9)


def prepared(count):
    return Dataset.from_dict({"prompt_ids": [[1]] * count, "completion_ids": [[i, 2] for i in range(3, 3 + count)]})


def first_tokens(texts):
    return texts.completion_ids[:, 0].tolist()


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
def test_real_texts_are_endless_shuffled_and_resumable(kind):
    texts = RealTexts(kind(prepared(7)), pad_token_id=0, seed=5)
    epochs = [first_tokens(texts.next(7)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(3, 10)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != list(range(3, 10))
    texts.next(4)
    state = texts.state_dict()
    expected = first_tokens(texts.next(9))
    again = RealTexts(kind(prepared(7)), pad_token_id=0, seed=5)
    again.load_state_dict(state)
    assert first_tokens(again.next(9)) == expected


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
def test_folds_are_disjoint_and_cross_fitting_swaps_them(kind):
    def tokens(fold):
        return {row["completion_ids"][0] for row in fold}

    dataset = kind(prepared(11))
    (generator,), (discriminator,) = generator_and_discriminator_folds(dataset, "held_out", seed=1)
    assert not tokens(generator) & tokens(discriminator)
    assert tokens(generator) | tokens(discriminator) == set(range(3, 14))
    generator_folds, discriminator_folds = generator_and_discriminator_folds(dataset, "cross_fit", seed=1)
    assert [tokens(f) for f in generator_folds] == [tokens(f) for f in discriminator_folds[::-1]]
    assert tokens(generator_folds[0]) == tokens(generator)
    (same,), (also,) = generator_and_discriminator_folds(dataset, "same", seed=1)
    assert same is also is dataset


@pytest.mark.parametrize("kind", [lambda dataset: dataset, as_stream], ids=["map", "stream"])
def test_held_out_texts_are_never_trained_on(kind):
    train, held_out = hold_out(kind(prepared(2000)), share=0.1, seed=1)
    train, held_out = ({row["completion_ids"][0] for row in part} for part in (train, held_out))
    assert not train & held_out and len(train | held_out) == 2000
    assert len(held_out) == (200 if kind is not as_stream else 100)


def test_a_stream_too_short_to_hold_out_from_is_refused():
    with pytest.raises(ValueError, match="The first 100 texts of a stream are held out"):
        hold_out(as_stream(prepared(100)), share=0.1, seed=1)


def test_one_text_is_too_few_to_hold_out():
    with pytest.raises(ValueError, match="needs at least 2 real texts"):
        hold_out(prepared(1), share=0.1, seed=1)


def test_ids_that_a_mask_hides_need_not_be_known(tokenizer):
    dataset = Dataset.from_dict({"input_ids": [[3, 4, 10], [-100, 5, 6]], "attention_mask": [[1, 1, 0], [0, 1, 1]]})
    prepared = prepare_dataset(dataset, None, TextFormat(1, None, 0, 5, vocab_size=10))
    assert prepared["completion_ids"][:] == [[3, 4], [5, 6]]


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple, lambda ids: [np.int64(token) for token in ids]])
def test_rows_of_a_stream_may_be_arrays(make):
    def rows():
        for ids in ([3, 4, 0], [5, 6, 0]):
            yield {"input_ids": make(ids), "attention_mask": make([1, 1, 0])}

    prepared = prepare_dataset(IterableDataset.from_generator(rows), None, TextFormat(1, None, 0, 5, vocab_size=10))
    assert [row["completion_ids"] for row in prepared] == [[3, 4], [5, 6]]
