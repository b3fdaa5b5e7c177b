"""Quality, sameness and novelty of samples, by hand; and which temperature of a rival is compared."""

import pytest

from seqgan_hf.text_measures import (
    Task,
    TextMeasures,
    best_temperature,
    likeness,
    nearest_texts,
    point_between,
    temperature_where,
)
from seqgan_hf.tokenization import UNKNOWN

SPEECH = Task(order=2, longest_order=3)
CURVE = [
    {"temperature": 1.0, "bleu2": 0.2, "self_bleu2": 0.1, "samples": ["a"]},
    {"temperature": 0.8, "bleu2": 0.4, "self_bleu2": 0.3, "samples": ["b"]},
    {"temperature": 0.6, "bleu2": 0.3, "self_bleu2": 0.5, "samples": ["c"]},
]


def test_samples_are_measured_against_each_other_held_out_and_training_texts():
    measures = TextMeasures(SPEECH, ["a b c d", "b c"], ["a b x", "a b c"], num_compared=2)
    found = measures.of(["a b c", "a b c", "x x x"])
    assert found["bleu2"] == found["bleu3"] == pytest.approx(2 / 3)
    assert (found["self_bleu2"], found["distinct2"]) == (1, 0.5), "of the first two"
    assert found["novelty2"] == pytest.approx(2 / 6) and found["copied"] == pytest.approx(2 / 3)
    assert set(found) == {"bleu2", "bleu3", "self_bleu2", "distinct2", "distinct_texts", "novelty2", "copied"}
    assert found["distinct_texts"] == 0.5 and measures.variety(["a b", "b c", "b c"])["distinct_texts"] == 1
    assert {SPEECH.quality, SPEECH.sameness} <= set(found)


def test_a_task_counts_words_or_characters():
    assert SPEECH.tokens("We don't, no.") == ["We", "don't", ",", "no", "."]
    assert Task(order=2, level="character").tokens("床前 明\n月") == ["床", "前", "明", "月"]


def test_an_unknown_word_matches_no_reference():
    measures = TextMeasures(SPEECH, [f"a {UNKNOWN} c"], ["a"], num_compared=2)
    assert measures.of([f"a {UNKNOWN}", f"a {UNKNOWN}"])["bleu2"] == 0
    assert measures.of(["a", "c"])["bleu2"] == 0 and measures.of([f"{UNKNOWN} c"] * 2)["bleu2"] == 0


def test_a_task_adds_metrics_of_its_own():
    task = Task(order=2, longest_order=2, more=lambda samples, real: {"lines": len(samples) + 10 * len(real)})
    assert TextMeasures(task, ["a b", "c"], ["a"], 2).of(["a b"] * 3)["lines"] == 23


def test_the_digest_names_what_samples_are_compared_to():
    digests = {
        TextMeasures(SPEECH, real, training, number).digest
        for real, training, number in ((["a"], ["b"], 2), (["b"], ["a"], 2), (["a"], ["b"], 3), (["a", "b"], ["b"], 2))
    }
    assert len(digests) == 4
    assert TextMeasures(SPEECH, ["a"], ["b"], 2).digest in digests
    one, other = (TextMeasures(SPEECH, ["a"], texts, 2).digest for texts in (["b", "c"], ["c", "b"]))
    assert one == other, "their order is no matter"


def test_the_best_temperature_is_not_more_uniform_than_real_texts():
    def best(limit):
        return best_temperature(CURVE, "bleu2", "self_bleu2", limit)["temperature"]

    assert [best(limit) for limit in (0.6, 0.3, 0.2, 0.05)] == [0.8, 0.8, 1.0, 1.0]


def test_a_matched_temperature_lies_on_the_curve_or_nowhere():
    assert temperature_where(CURVE, "bleu2", 0.25) == pytest.approx(0.95)
    assert temperature_where(CURVE, "bleu2", 0.35) == pytest.approx(0.85), "the highest of two"
    assert temperature_where(CURVE, "self_bleu2", 0.5) == pytest.approx(0.6)
    assert temperature_where(CURVE, "bleu2", 0.41) is None
    flat = [{"temperature": t, "bleu2": 0.5} for t in (1.0, 0.9)]
    assert temperature_where(flat, "bleu2", 0.5) == 1.0


def test_between_two_temperatures_lies_a_straight_line():
    assert point_between(CURVE, 0.7) == pytest.approx({"temperature": 0.7, "bleu2": 0.35, "self_bleu2": 0.4})
    assert point_between(CURVE, 1.0) == {"temperature": 1.0, "bleu2": 0.2, "self_bleu2": 0.1}


def test_a_metric_that_one_temperature_lacks_is_left_out_between():
    assert point_between([CURVE[0] | {"mse_nearest": 3.0}, CURVE[1]], 0.9).keys() == {
        "temperature", "bleu2", "self_bleu2"
    }  # fmt: skip


def test_the_nearest_text_shares_most_words_and_pairs():
    texts = [["a", "c", "b"], ["a", "b", "d", "e"], ["a", "b", "c"], ["a", "b", "c"]]
    assert nearest_texts([["a", "b", "c"], ["c", "b"], ["z"]], iter(texts)) == [2, 0, 0]


def test_likeness_counts_tokens_and_bigrams():
    assert likeness(["a", "b"], ["a", "b"]) == 1.0 and likeness(["a"], ["b"]) == 0.0 == likeness([], [])
    assert likeness(["a", "b", "a"], ["b", "a"]) == pytest.approx(2 * 3 / (5 + 3))
