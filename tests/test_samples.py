import json
import re

import pytest
import torch
from conftest import BOS, EOS, PAD, VOCAB_SIZE
from datasets import Dataset

from seqgan_hf import LikelihoodRatioForSequenceClassification, LSTMConfig, LSTMForCausalLM
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.discriminator import Discriminator
from seqgan_hf.loading import load_discriminator, load_texts
from seqgan_hf.losses import reader_of
from seqgan_hf.samples import (
    complete_prompts,
    encode_prompt,
    length_of_run,
    load_saved_discriminator,
    sample_texts,
    samples_table,
    score_texts,
    write_samples,
)

FORMAT = TextFormat(BOS, EOS, PAD, max_completion_length=6)


def test_completions_depend_on_the_seed_alone(tiny_model):
    model = tiny_model("gpt2")
    before = torch.random.get_rng_state()
    samples = complete_prompts(model, [[BOS]] * 7, FORMAT, seed=3, batch_size=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    at_once = sample_texts(model, FORMAT, 7, seed=3)
    for tensor, other in zip(samples.tensors(), at_once.tensors(), strict=True):
        assert torch.equal(tensor, other)
    other_seed = complete_prompts(model, [[BOS]] * 7, FORMAT, seed=4, batch_size=2)
    assert not torch.equal(samples.completion_ids, other_seed.completion_ids)


def test_a_bar_is_shown_where_there_is_more_than_one_batch(tiny_model, capfd):
    sample_texts(tiny_model("lstm"), FORMAT, 7, seed=3, batch_size=7)
    assert capfd.readouterr().err == ""
    sample_texts(tiny_model("lstm"), FORMAT, 7, seed=3, batch_size=6)
    assert "Sampling at temperature 1" in capfd.readouterr().err


def test_a_prompt_beyond_the_models_context_is_refused(tiny_model):
    text_format = TextFormat(BOS, EOS, PAD, max_completion_length=62)
    message = (
        "A prompt of 3 and up to 62 more tokens do not fit into the 64 that the generator reads. Lower "
        "`max_completion_length` or shorten the prompt."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        complete_prompts(tiny_model("gpt2"), [[BOS], [BOS, 3, 4]], text_format, seed=0)


def test_a_prompt_is_encoded_as_the_trainer_does(tokenizer):
    text_format = TextFormat(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 8)
    prompts = Dataset.from_dict({"prompt": ["we open"], "completion": ["the school"]})
    expected = prepare_dataset(prompts, tokenizer, text_format)[0]["prompt_ids"]
    assert encode_prompt("we open", tokenizer, text_format) == expected
    assert encode_prompt(None, None, text_format) == [tokenizer.bos_token_id]
    message = "A prompt is text, and the model was saved without a tokenizer to encode it. Leave it out."
    with pytest.raises(ValueError, match=re.escape(message)):
        encode_prompt("we", None, text_format)


@pytest.mark.parametrize("name", ["cnn", "distilbert"])
def test_a_saved_discriminator_scores_as_it_did(name, tiny_model, tmp_path):
    generator = tiny_model("lstm")
    assert load_saved_discriminator(str(tmp_path), "discriminator", generator, None, FORMAT) is None
    discriminator = Discriminator(tiny_model(name).eval(), None, None, False, PAD, VOCAB_SIZE)
    discriminator.save(tmp_path / "discriminator")
    saved = load_saved_discriminator(str(tmp_path), "discriminator", generator, None, FORMAT)
    texts = sample_texts(generator, FORMAT, 9, seed=0)
    expected = discriminator.score(texts).sigmoid().tolist()
    assert score_texts(saved, texts, batch_size=4) == pytest.approx(expected, rel=1e-5)


def test_a_saved_discriminator_reads_the_generator_that_it_is_loaded_with(tiny_model, tmp_path):
    generator = tiny_model("lstm")
    model = LikelihoodRatioForSequenceClassification.from_language_models([tiny_model("llama")], start_token_id=BOS)
    reader = reader_of(generator, False)
    discriminator = Discriminator(model, None, None, False, PAD, VOCAB_SIZE, read_generator=reader)
    discriminator.save(tmp_path / "discriminator")
    saved = load_saved_discriminator(str(tmp_path), "discriminator", generator, None, FORMAT)
    texts = sample_texts(generator, FORMAT, 9, seed=0)
    assert score_texts(saved, texts) == pytest.approx(discriminator.score(texts).sigmoid().tolist(), rel=1e-5)


def test_a_saved_adapter_has_the_labels_of_the_game_whatever_its_model_has(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model("bert")
    model.config.id2label = {0: "Human", 1: "ChatGPT"}
    model.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", init_lora_weights=False)
    adapter = load_discriminator(str(tmp_path / "base"), lora)
    adapter.config.id2label = {0: "generated", 1: "real"}
    discriminator = Discriminator(adapter, None, None, False, PAD, VOCAB_SIZE)
    discriminator.save(tmp_path / "discriminator")
    generator = tiny_model("lstm")
    saved = load_saved_discriminator(str(tmp_path), "discriminator", generator, None, FORMAT)
    texts = sample_texts(generator, FORMAT, 9, seed=0)
    assert score_texts(saved, texts) == pytest.approx(discriminator.score(texts).sigmoid().tolist(), rel=1e-5)


def test_a_saved_discriminator_keeps_its_own_tokenizer(tokenizer, tiny_model, tmp_path):
    own = tokenizer.train_new_from_iterator(["a bridge of bytes"] * 3, vocab_size=262)
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    model = tiny_model("cnn")
    model.resize_token_embeddings(len(own), mean_resizing=False)
    discriminator = Discriminator(model, tokenizer, own, False, PAD, len(tokenizer))
    discriminator.save(tmp_path / "discriminator")
    text_format = TextFormat.from_model(generator, tokenizer, 6)
    saved = load_saved_discriminator(str(tmp_path), "discriminator", generator, tokenizer, text_format)
    assert saved.processing_class.get_vocab() == own.get_vocab()
    texts = sample_texts(generator, text_format, 5, seed=0)
    assert score_texts(saved, texts) == pytest.approx(discriminator.score(texts).sigmoid().tolist(), rel=1e-5)


def test_samples_are_shown_and_written(tmp_path):
    rows = [{"text": "a\nb", "score": 0.25}, {"text": "c", "score": 1.0}]
    assert samples_table(rows) == "P(real)  text\n  0.250  a b\n  1.000  c"
    prompted = [{"prompt": "We", "completion": " will."}]
    assert samples_table(prompted) == "We will."
    assert list(load_texts(str(write_samples(rows, tmp_path / "new" / "s.jsonl")), split="train")) == rows
    assert write_samples(rows, tmp_path / "s.txt").read_text() == "a b\nc\n"
    assert json.loads(write_samples(prompted, tmp_path / "p.jsonl").read_text()) == prompted[0]


def test_a_text_cannot_give_orders_to_the_terminal():
    shown = samples_table([{"text": "we\x1b[2J work\x07", "score": 0.5}])
    assert "we\ufffd[2J work\ufffd" in shown and not re.search(r"[\x00-\x09\x0b-\x1f]", shown)


def test_the_length_of_a_run_stands_in_its_folder_or_above_and_otherwise_nowhere(tmp_path):
    (tmp_path / "run" / "mle").mkdir(parents=True)
    assert length_of_run(str(tmp_path / "run")) is None
    (tmp_path / "run" / "training_args.json").write_text('{"max_completion_length": 32}')
    assert length_of_run(str(tmp_path / "run")) == length_of_run(str(tmp_path / "run" / "mle")) == 32
    (tmp_path / "run" / "mle" / "training_args.json").write_text('{"learning_rate": 0.1}')
    assert length_of_run(str(tmp_path / "run" / "mle")) is None
