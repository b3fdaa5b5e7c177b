import re

import pytest
import torch
from conftest import DISCRIMINATORS, EOS, PAD, SENTENCES, VOCAB_SIZE
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from seqgan_hf import TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.discriminator import Discriminator, area_under_curve
from seqgan_hf.loading import train_tokenizer


def discriminator(model, **kwargs):
    defaults = {
        "generator_processing_class": None,
        "processing_class": None,
        "reads_prompt": False,
        "pad_token_id": PAD,
        "generator_vocab_size": VOCAB_SIZE,
    }
    return Discriminator(model, **{**defaults, **kwargs})


def texts(*completions, prompt=(1,)):
    rows = [{"prompt_ids": list(prompt), "completion_ids": list(ids)} for ids in completions]
    return Completions.collate(rows, PAD)


REAL = texts([4, 5, EOS], [4, 6, 7, EOS], [4, EOS], [4, 5, 5, 5])
GENERATED = texts([9, 5, EOS], [9, 6, 7, EOS], [9, EOS], [9, 5, 5, 5])


def as_written_by_the_generator(completions, extra_columns):
    """The same texts, with the padding that generation leaves: a longer row, and prompts padded further left."""
    pad = torch.nn.functional.pad
    return Completions(
        pad(completions.prompt_ids, (3, 0), value=PAD),
        pad(completions.prompt_mask, (3, 0)),
        pad(completions.completion_ids, (0, extra_columns), value=PAD),
        pad(completions.completion_mask, (0, extra_columns)),
    )


@pytest.mark.parametrize("reads_prompt", [False, True])
@pytest.mark.parametrize("tokenizers", ["same", "own"])
def test_real_and_generated_texts_have_the_same_surface(reads_prompt, tokenizers, tokenizer):
    """A generator that writes exactly the real texts must be beyond any discriminator, even one that cheats."""
    text_format = TextFormat(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 14)
    column = (
        {"prompt": [s.split()[0] for s in SENTENCES], "completion": SENTENCES} if reads_prompt else {"text": SENTENCES}
    )
    real = Completions.collate(
        list(prepare_dataset(Dataset.from_dict(column), tokenizer, text_format)), text_format.pad_token_id
    )
    ended = (real.completion_ids == tokenizer.eos_token_id).any(dim=1)
    assert ended.any() and not ended.all()  # some are cut, some end: both surfaces are compared
    own = None if tokenizers == "same" else train_tokenizer(SENTENCES[:3], 265)
    model = TextCNNForSequenceClassification(TextCNNConfig(vocab_size=300, filter_sizes=(1,), num_filters=(2,)))
    judge = discriminator(
        model, generator_processing_class=tokenizer, processing_class=own, reads_prompt=reads_prompt,
        pad_token_id=tokenizer.pad_token_id, generator_vocab_size=len(tokenizer),
    )  # fmt: skip
    written = as_written_by_the_generator(real, extra_columns=4)
    for name, tensor in judge.encode(real).items():
        assert torch.equal(tensor, judge.encode(written)[name]), name
    assert (judge.encode(real)["input_ids"] != judge.pad_token_id).any()


def test_a_cheating_discriminator_is_at_chance_on_equal_texts():
    """Were BOS or padding on one side only, this one would tell them apart after a few epochs."""
    torch.manual_seed(0)
    judge = discriminator(DISCRIMINATORS["cnn"](), learning_rate=1e-2, batch_size=8)
    real = texts(*[[4 + i % 9, 5, EOS] if i % 2 else [4 + i % 9, 6, 7, EOS] for i in range(64)])
    generated = as_written_by_the_generator(real, extra_columns=3)
    judge.update(real, generated, epochs=5, seed=1)
    assert judge.evaluate(real, generated)["auc"] == 0.5


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_it_learns_to_tell_texts_apart_and_scores_without_dropout(name, tiny_model):
    judge = discriminator(tiny_model(name), learning_rate=1e-2, batch_size=4)
    metrics = judge.update(REAL, GENERATED, epochs=40, seed=1)
    assert metrics["loss"] < 0.6
    assert judge.evaluate(REAL, GENERATED) == {
        "accuracy_real": 1, "accuracy_generated": 1, "accuracy": 1, "auc": 1,
    }  # fmt: skip
    judge.model.train()
    assert torch.equal(judge.score(REAL), judge.score(REAL))
    assert judge.model.training


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_scores_do_not_depend_on_what_shares_the_batch(name, tiny_model):
    judge = discriminator(tiny_model(name))
    together = judge.score(REAL)
    apart = torch.cat([judge.score(REAL.select(slice(i, i + 1))) for i in range(len(REAL))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_training_moves_no_global_random_state(tiny_model):
    judge = discriminator(tiny_model("bert"))
    before = torch.get_rng_state()
    judge.update(REAL, GENERATED, epochs=2, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_not_two_labels_is_refused():
    model = BertForSequenceClassification(
        BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    )
    message = "The discriminator must have two labels, generated and real; got 3. Load it with `num_labels=2`."
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(model)


def test_a_smaller_vocabulary_is_refused(tiny_model):
    message = f"it knows {VOCAB_SIZE} tokens and the generator writes 500. Pass the discriminator's own tokenizer"
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(tiny_model("cnn"), generator_vocab_size=500)


def test_texts_that_cannot_be_decoded_are_refused(tiny_model, tokenizer):
    message = "The discriminator has a tokenizer of its own, so the generator's texts must be decoded for it"
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(tiny_model("cnn"), processing_class=tokenizer)


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_model):
    judge = discriminator(tiny_model("cnn"))
    with torch.no_grad():
        next(judge.model.parameters())[4].fill_(float("nan"))
    before = {name: value.clone() for name, value in judge.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"The discriminator's loss is nan\. Its weights are as before"):
        judge.update(REAL, GENERATED, epochs=1, seed=1)
    for name, value in judge.model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_area_under_curve_counts_ties_as_half():
    assert area_under_curve(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])) == (1 + 0.5 + 1 + 1) / 4
    assert area_under_curve(torch.tensor([0.0]), torch.tensor([1.0])) == 0


def test_labels_are_named(tiny_model):
    judge = discriminator(tiny_model("bert"))
    assert judge.model.config.id2label == {0: "generated", 1: "real"}
