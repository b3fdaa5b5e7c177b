"""Self-BLEU, distinct-n and novelty: by hand, and against NLTK and plain counting."""

import random

import pytest
from test_bleu import NLTK_SMOOTHING, bleu_of_nltk, random_texts

from seqgan_hf.metrics import DistinctN, Novelty, SelfBleu


@pytest.fixture
def self_bleu(tmp_path):
    return SelfBleu(cache_dir=str(tmp_path))


def test_self_bleu_by_hand(self_bleu):
    """
    "a b c" and "a b d" share 2 of 3 words and 1 of 2 pairs with another text; all of "a b" stands elsewhere, but it is
    shorter than both others: exp(1 - 3/2).
    """
    scores = self_bleu.compute(predictions=["a b c", "a b d", "a b"], max_order=2)
    assert scores["self_bleu2"] == pytest.approx((2 * (2 / 3 * 1 / 2) ** 0.5 + 2.718281828**-0.5) / 3)


def test_a_text_is_not_its_own_reference(self_bleu):
    assert self_bleu.compute(predictions=["a b", "c d"], max_order=2) == {"self_bleu": 0.0, "self_bleu2": 0.0}
    # "a a" clips to the one "a" of the other text, and the other to both of these.
    scores = self_bleu.compute(predictions=["a a", "a b"], max_order=1)
    assert scores == {"self_bleu": 0.5}


def test_equal_texts_are_each_others_references(self_bleu):
    assert self_bleu.compute(predictions=["a b c", "a b c"], max_order=3)["self_bleu3"] == 1.0


@pytest.mark.filterwarnings(r"ignore:\s*The hypothesis contains 0 counts")
@pytest.mark.parametrize("smoothing", NLTK_SMOOTHING)
def test_self_bleu_is_nltk_against_all_others(self_bleu, smoothing):
    for seed in range(5):
        texts = [[], ["z"], *random_texts(random.Random(seed), 20, "abcd", (0, 12))]
        scores = self_bleu.compute(predictions=texts, max_order=3, smoothing=smoothing)
        by_nltk = [
            bleu_of_nltk([text], texts[:index] + texts[index + 1 :], 3, NLTK_SMOOTHING[smoothing])[0]
            for index, text in enumerate(texts)
        ]
        for order in (2, 3):
            expected = sum(each[order - 1] for each in by_nltk) / len(texts)
            assert scores[f"self_bleu{order}"] == pytest.approx(expected) and expected > 0


def test_one_text_has_nothing_to_be_compared_with(self_bleu):
    with pytest.raises(ValueError, match=r"^`predictions` must hold at least 2 texts, to be compared; got 1\.$"):
        self_bleu.compute(predictions=["a b"])
    self_bleu.add(prediction="a b")
    assert self_bleu.compute(predictions=["a b"], max_order=1) == {"self_bleu": 1.0}


def test_self_bleu_refuses_an_unknown_smoothing(self_bleu):
    with pytest.raises(ValueError, match=r"^`smoothing` must be one of 'none', 'epsilon', 'add_one', got 'floor'\.$"):
        self_bleu.compute(predictions=["a b", "c"], smoothing="floor")


def test_distinct_n_by_hand(tmp_path):
    scores = DistinctN(cache_dir=str(tmp_path)).compute(predictions=["a b a", "a b a", "c"], max_order=4)
    assert scores == {
        "distinct1": 3 / 7,
        "distinct2": 2 / 4,
        "distinct3": 1 / 2,
        "distinct4": 0.0,
        "distinct_texts": 2 / 3,
    }


def test_novelty_by_hand(tmp_path):
    scores = Novelty(cache_dir=str(tmp_path)).compute(
        predictions=["a b z z", "a b", "b a"], training_texts=["a b c", "a b"], max_order=3
    )
    # Words: z twice of 8. Pairs: "b z", "z z" and "b a" of 5. Triples: both. No n-gram reaches over the end of a text.
    assert scores == {"novelty1": 2 / 8, "novelty2": 3 / 5, "novelty3": 1.0, "copied_texts": 1 / 3}


def test_a_copy_has_no_novelty_and_unknown_words_nothing_else(tmp_path):
    novelty = Novelty(cache_dir=str(tmp_path))
    copied = novelty.compute(predictions=["a b c"], training_texts=["x", "a b c"], max_order=3)
    assert copied == {"novelty1": 0.0, "novelty2": 0.0, "novelty3": 0.0, "copied_texts": 1.0}
    unknown = novelty.compute(predictions=["x y z"], training_texts=["a b c"], max_order=3)
    assert unknown == {"novelty1": 1.0, "novelty2": 1.0, "novelty3": 1.0, "copied_texts": 0.0}


def test_texts_too_short_for_an_order_have_none_of_it(tmp_path):
    scores = Novelty(cache_dir=str(tmp_path)).compute(predictions=["a", ""], training_texts=["b"], max_order=2)
    assert scores == {"novelty1": 1.0, "novelty2": 0.0, "copied_texts": 0.0}
