import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BOS, EOS, PAD, SENTENCES, VOCAB_SIZE
from datasets import Dataset
from transformers import EvalPrediction

from seqgan_hf import LSTMConfig, LSTMForCausalLM
from seqgan_hf.completions import Completions, decode_ids
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.evaluation import (
    bleu_of_samples,
    evaluate_generator,
    evaluation_table,
    held_out_metrics,
    length_metrics,
    mean_nll,
    nll_at_temperatures,
    oracle_curve,
    token_nll,
    variety_metrics,
    words,
)
from seqgan_hf.samples import (
    complete_prompts,
)

FORMAT = TextFormat(BOS, EOS, PAD, max_completion_length=6)
# Ragged on both sides: prompts of 1 to 3 tokens, completions of 1 to 6.
ROWS = [
    {"prompt_ids": [BOS], "completion_ids": [5, 6, EOS]},
    {"prompt_ids": [BOS, 7, 8], "completion_ids": [EOS]},
    {"prompt_ids": [BOS, 9], "completion_ids": [3, 4, 5, 6, 7, 8]},
]


def lstm(**kwargs):
    special = {"vocab_size": VOCAB_SIZE, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return LSTMForCausalLM(LSTMConfig(**{**special, **kwargs})).eval()


def writes_only(token, model):
    """Make a model write one token, whatever came before."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[token] = 50.0
    return model


@pytest.mark.parametrize("name", ["gpt2", "lstm"])
def test_nll_is_the_mean_over_all_tokens_at_every_temperature_and_batch_size(name, tiny_model):
    model, texts = tiny_model(name), Completions.collate(ROWS, PAD)
    temperatures = [0.5, 1.0, 2.0]
    one_by_one = nll_at_temperatures(model, ROWS, PAD, temperatures, batch_size=1)
    by_token = token_nll(model, texts)
    assert one_by_one[1] == pytest.approx(by_token.sum().item() / 10, rel=1e-5)  # 3 + 1 + 6 tokens
    assert one_by_one == pytest.approx([mean_nll(model, texts, t) for t in temperatures], rel=1e-5)
    assert one_by_one == pytest.approx(nll_at_temperatures(model, ROWS, PAD, temperatures, batch_size=2), rel=1e-5)


def test_a_uniform_model_has_log_vocabulary_at_every_temperature():
    model = lstm()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
    nll = nll_at_temperatures(model, ROWS, PAD, [0.1, 1.0, 7.0])
    assert nll == pytest.approx([math.log(VOCAB_SIZE)] * 3, rel=1e-5)


@pytest.mark.parametrize(("nll", "perplexity"), [(0.0, 1.0), (709.0, math.exp(709.0)), (710.0, math.inf)])
def test_a_perplexity_that_no_float_holds_is_infinite(nll, perplexity):
    """`math.exp` raised a bare OverflowError, and a generator that had diverged ended the run in `evaluate`."""
    prediction = EvalPrediction(predictions=np.array([2 * nll, 3 * nll]), label_ids=np.array([2, 3]))
    assert held_out_metrics(prediction) == {"nll": nll, "perplexity": pytest.approx(perplexity)}


def test_a_report_on_a_model_that_never_writes_the_held_out_texts_has_an_infinite_perplexity():
    texts, model = Dataset.from_dict({"input_ids": [[6, 6, 6, 6]]}), writes_only(5, lstm(eos_token_id=None))
    with torch.no_grad():
        model.lm_head.bias[5] = 1000.0
    report = evaluate_generator(model, texts, None, 4, temperatures=[1.0], num_samples=2)
    assert report["held_out"]["nll"] == pytest.approx(1000) and report["held_out"]["perplexity"] == math.inf
    assert "(perplexity inf)" in evaluation_table(report)


def test_a_model_that_writes_the_held_out_texts_scores_full_marks():
    texts = Dataset.from_dict({"input_ids": [[5, 5, 5, 5], [5, 5, 5, 5]]})
    model = writes_only(5, lstm(eos_token_id=None))
    report = evaluate_generator(model, texts, None, 4, temperatures=[0.5], num_samples=8)
    held_out, at_half, at_one = report["held_out"], *report["sweep"]
    assert (at_half["temperature"], at_one["temperature"]) == (0.5, 1.0)
    assert [at_one[f"bleu{order}"] for order in (2, 3, 4)] == [1.0, 1.0, 1.0]
    assert at_one["nll"] == pytest.approx(0.0, abs=1e-6) and held_out["perplexity"] == pytest.approx(1.0, abs=1e-6)
    assert (at_one["distinct_ratio"], at_one["duplicate_ratio"]) == (1 / 8, 1.0)
    assert at_one["samples"] == ["5 5 5 5"] * 5
    assert (held_out["texts"], held_out["tokens"], held_out["mean_length"]) == (2, 8, 4.0)
    assert "nll_per_byte" not in held_out and "ended_ratio" not in held_out


def test_likelihood_per_byte_counts_the_texts_as_cut(tokenizer):
    model = lstm(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
    tokenizer_of_bytes = tokenizer("é x", add_special_tokens=False)["input_ids"]
    assert len(tokenizer_of_bytes) == 4  # é has two bytes
    texts = Dataset.from_dict({"text": ["é x", "x", "éé x"]})
    held_out = evaluate_generator(model, texts, tokenizer, 5, temperatures=[], num_samples=2)["held_out"]
    # With EOS they have 5, 2 and 7 tokens; the last is cut to `éé x`'s first five, which are "éé ".
    assert (held_out["tokens"], held_out["bytes"], held_out["texts"]) == (12, 4 + 1 + 5, 3)
    assert held_out["cut_ratio"] == pytest.approx(1 / 3)
    assert held_out["ended_ratio"] == pytest.approx(2 / 3)
    assert held_out["nll"] == pytest.approx(math.log(len(tokenizer)), rel=1e-5)
    assert held_out["nll_per_byte"] == pytest.approx(math.log(len(tokenizer)) * 12 / 10, rel=1e-5)


def test_a_text_of_exactly_the_length_is_not_cut_where_there_is_no_eos():
    texts = Dataset.from_dict({"input_ids": [[3, 4, 5], [3, 4, 5, 6], [3, 4, 5, 6, 7]]})
    held_out = evaluate_generator(lstm(eos_token_id=None), texts, None, 4, [], num_samples=1)["held_out"]
    assert (held_out["cut_ratio"], held_out["tokens"]) == (pytest.approx(1 / 3), 11)


def test_prompts_of_the_held_out_texts_are_completed_and_not_measured(tokenizer, monkeypatch):
    rows = {"prompt": SENTENCES[:4], "completion": SENTENCES[4:8]}
    model = lstm(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.7,
    )  # fmt: skip
    asked = []

    def complete(model, prompts, *args):
        asked.append(prompts)
        return complete_prompts(model, prompts, *args)

    monkeypatch.setattr("seqgan_hf.evaluation.complete_prompts", complete)
    report = evaluate_generator(model, Dataset.from_dict(rows), tokenizer, 40, [], num_samples=6)
    prompts = [tokenizer(text)["input_ids"] for text in SENTENCES[:4]]
    assert asked == [[prompts[index] for index in (0, 0, 1, 2, 2, 3)]]
    text_format = TextFormat.from_model(model, tokenizer, 40)
    prepared = prepare_dataset(Dataset.from_dict(rows), tokenizer, text_format)
    texts = Completions.collate(list(prepared), text_format.pad_token_id)
    assert report["held_out"]["nll"] == pytest.approx(mean_nll(model, texts), rel=1e-5)
    assert report["held_out"]["bytes"] == sum(map(len, SENTENCES[4:8]))


def test_an_evaluation_repeats(tiny_model):
    texts = Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]]})
    first, second = (
        evaluate_generator(tiny_model("gpt2"), texts, None, 8, [0.7], num_samples=12, batch_size=size, seed=1)
        for size in (12, 5)
    )
    assert [point["samples"] for point in first["sweep"]] == [point["samples"] for point in second["sweep"]]
    assert [point["bleu2"] for point in first["sweep"]] == [point["bleu2"] for point in second["sweep"]]
    cold = complete_prompts(tiny_model("gpt2"), [[BOS]] * 12, replace(FORMAT, max_completion_length=8), 1, 0.7)
    assert first["sweep"][0]["samples"] == decode_ids(cold.completion_ids, cold.completion_mask, None)[:5]


def test_held_out_texts_that_fit_no_model_are_refused(tiny_model):
    with pytest.raises(ValueError, match=re.escape("`the held-out texts` needs a column `text`, or `prompt` and")):
        evaluate_generator(tiny_model("gpt2"), Dataset.from_dict({"speech": ["a"]}), None)
    message = (
        "Row 0 of `the held-out texts` needs 1 prompt tokens and up to 64 of completion, but the generator reads 64"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_generator(tiny_model("gpt2"), Dataset.from_dict({"input_ids": [[5]]}), None)


def test_words_of_many_scripts():
    said = "She's well-known; don\u2019t. caf\u00e9 cafe\u0301 \u0939\u093f\u0928\u094d\u0926\u0940 x2"
    kept = ["She's", "well-known", ";", "don\u2019t", ".", "caf\u00e9", "cafe\u0301"]
    assert words(said) == [*kept, "\u0939\u093f\u0928\u094d\u0926\u0940", "x2"]
    assert words("\u767d\u65e5\uff0c ABC\u8a9e\u306e\n") == ["\u767d", "\u65e5", "\uff0c", "ABC", "\u8a9e", "\u306e"]
    assert words(" ") == []


def test_bleu_of_the_references_themselves_is_one():
    texts = ["we work for the town", "a bridge is a promise"]
    assert bleu_of_samples(texts, texts) == {"bleu2": 1.0, "bleu3": 1.0, "bleu4": 1.0}


def test_variety_and_length_by_hand():
    variety = variety_metrics(["a b", " a b\n", "c", ""], references=["a b ", "d"])
    assert variety == {"distinct_ratio": 3 / 4, "duplicate_ratio": 2 / 4}
    texts = Completions.collate(ROWS, PAD)
    assert length_metrics(texts, EOS) == {"mean_length": pytest.approx(10 / 3), "ended_ratio": pytest.approx(2 / 3)}
    assert length_metrics(texts, None) == {"mean_length": pytest.approx(10 / 3)}


def test_the_table_by_hand():
    point = {
        "temperature": 1.0, "nll": 4.5, "bleu2": 0.5, "bleu3": 0.25, "bleu4": 0.125, "mean_length": 9.0,
        "distinct_ratio": 1.0, "duplicate_ratio": 0.025,
    }  # fmt: skip
    held_out = {
        "nll": 4.5, "perplexity": 90.0171, "texts": 1200, "tokens": 34567, "cut_ratio": 0.125, "mean_length": 28.8,
    }  # fmt: skip
    table = """\
1,200 texts, 34,567 tokens; 12.5% of the texts were cut.
Held-out NLL 4.5000 nats per token (perplexity 90.02).

temperature       NLL    BLEU-2    BLEU-3    BLEU-4    tokens  distinct    copied
          1    4.5000    0.5000    0.2500    0.1250       9.0    100.0%      2.5%
 real texts                                              28.8"""
    assert evaluation_table({"held_out": held_out, "sweep": [point]}) == table


def test_an_oracle_curve_has_quality_and_diversity_at_every_temperature(tiny_model):
    model, uniform = tiny_model("lstm"), lstm()
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
        uniform.lm_head.bias.zero_()
    temperatures = [1.0, 0.5, 2.0]
    curve = oracle_curve(model, model, ROWS, FORMAT, temperatures, num_samples=300, seed=1)
    assert [point["temperature"] for point in curve] == temperatures
    by_temperature = {point["temperature"]: point for point in curve}
    qualities = [by_temperature[t]["NLL_oracle"] for t in sorted(temperatures)]
    assert qualities == sorted(qualities) and qualities[0] < qualities[1] - 0.5 < qualities[2] - 1
    held_out = nll_at_temperatures(model, ROWS, PAD, temperatures)
    assert [point["NLL_test"] for point in curve] == pytest.approx(held_out)
    assert curve == oracle_curve(model, model, ROWS, FORMAT, temperatures, num_samples=300, seed=1)
    under_uniform = oracle_curve(model, uniform, ROWS, FORMAT, temperatures, num_samples=20)
    assert [point["NLL_oracle"] for point in under_uniform] == pytest.approx([math.log(VOCAB_SIZE)] * 3)
