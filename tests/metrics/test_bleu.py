import math
import random
import re
import time
from pathlib import Path

import pytest
import sacrebleu
from nltk.translate import bleu_score

import seqgan_hf.metrics.bleu
from seqgan_hf.metrics import Bleu

FOLDER = str(Path(seqgan_hf.metrics.bleu.__file__).parent)
NLTK_SMOOTHING = {
    "none": bleu_score.SmoothingFunction().method0,
    "epsilon": bleu_score.SmoothingFunction().method1,
    "add_one": bleu_score.SmoothingFunction().method2,
}
SACREBLEU_SMOOTHING = {
    "none": {"smooth_method": "none"},
    "epsilon": {"smooth_method": "floor", "smooth_value": 0.1},
    "add_one": {"smooth_method": "add-k", "smooth_value": 1},
}


@pytest.fixture
def bleu(tmp_path):
    return Bleu(cache_dir=str(tmp_path))


def bleu_of_nltk(hypotheses, references, max_order, smoothing):
    """For each hypothesis its scores of the orders 1 to `max_order`."""
    weights = [(1 / order,) * order for order in range(1, max_order + 1)]
    return [bleu_score.sentence_bleu(references, each, weights, smoothing_function=smoothing) for each in hypotheses]


def random_texts(rng, count, vocabulary, lengths):
    return [[rng.choice(vocabulary) for _ in range(rng.randint(*lengths))] for _ in range(count)]


@pytest.mark.parametrize("smoothing", NLTK_SMOOTHING)
def test_bleu_by_hand(bleu, smoothing):
    """
    First hypothesis: "the" is clipped to 2 and "the the" to 1, so the precisions are 3/4, 2/3 and 0/2. The references
    are equally close, 3 and 5 tokens for 4; the shorter counts, so there is no penalty.
    Second: precision 1, nothing of a higher order (one n-gram without a match), penalty exp(1 - 3/1).
    """
    scores = bleu.compute(
        predictions=["the the the cat", "cat"],
        reference_corpus=["the cat sat down here", "the the dog"],
        max_order=3,
        smoothing=smoothing,
    )
    first, second = {
        "none": ({2: (3 / 4 * 2 / 3) ** (1 / 2), 3: 0}, {2: 0, 3: 0}),
        "epsilon": (
            {2: (3 / 4 * 2 / 3) ** (1 / 2), 3: (3 / 4 * 2 / 3 * 0.1 / 2) ** (1 / 3)},
            {2: math.exp(-2) * 0.1 ** (1 / 2), 3: math.exp(-2) * 0.01 ** (1 / 3)},
        ),
        "add_one": (
            {2: (3 / 4 * 3 / 4) ** (1 / 2), 3: (3 / 4 * 3 / 4 * 1 / 3) ** (1 / 3)},
            {2: math.exp(-2) * 0.5 ** (1 / 2), 3: math.exp(-2) * 0.25 ** (1 / 3)},
        ),
    }[smoothing]
    expected = {f"bleu{order}": (first[order] + second[order]) / 2 for order in (2, 3)}
    assert scores == pytest.approx({"bleu": expected["bleu3"]} | expected)


def test_order_one_by_hand(bleu):
    scores = bleu.compute(
        predictions=["the the the cat", "cat"], reference_corpus=["the cat sat down here", "the the dog"], max_order=1
    )
    assert scores == pytest.approx({"bleu": (3 / 4 + math.exp(-2)) / 2})


@pytest.mark.filterwarnings(r"ignore:\s*The hypothesis contains 0 counts")
@pytest.mark.parametrize("smoothing", NLTK_SMOOTHING)
@pytest.mark.parametrize("max_order", [2, 3, 4, 5])
def test_bleu_is_nltk_to_the_last_bit(bleu, max_order, smoothing):
    """Among the hypotheses are empty ones, ones shorter than the order and ones of unknown words alone."""
    for seed in range(5):
        rng = random.Random(seed)
        references = random_texts(rng, 12, "abcd", (0, 12))
        hypotheses = [[], ["z"], ["z"] * 7, *random_texts(rng, 40, "abcdz", (0, 12))]
        hypotheses += [[*reference[1:], "z"] for reference in references]
        scores = bleu.compute(
            predictions=hypotheses, reference_corpus=references, max_order=max_order, smoothing=smoothing
        )
        by_nltk = bleu_of_nltk(hypotheses, references, max_order, NLTK_SMOOTHING[smoothing])
        for order in range(2, max_order + 1):
            # For a zero precision NLTK takes the smallest float; its 5th root, about 1e-62, is the most that remains.
            of_order = [0.0 if each[order - 1] < 1e-60 else each[order - 1] for each in by_nltk]
            assert scores[f"bleu{order}"] == math.fsum(of_order) / len(of_order) > 0
        assert scores["bleu"] == scores[f"bleu{max_order}"]


@pytest.mark.parametrize("smoothing", SACREBLEU_SMOOTHING)
@pytest.mark.parametrize("hypothesis", ["a man rides a red bike down the road", "a dog sits on the grass a dog"])
def test_bleu_is_sacrebleu(bleu, hypothesis, smoothing):
    references = ["a man rides a horse down the long winding road", "the man rides a red bike", "a dog on the grass"]
    scores = bleu.compute(predictions=[hypothesis], reference_corpus=references, smoothing=smoothing)
    expected = sacrebleu.sentence_bleu(
        hypothesis, references, tokenize="none", use_effective_order=False, **SACREBLEU_SMOOTHING[smoothing]
    )
    assert scores["bleu"] == pytest.approx(expected.score / 100)


def test_perfect_copies_score_one(bleu):
    corpus = ["a b c d e", "f g h i", "a a a a a a"]
    scores = bleu.compute(predictions=corpus[::-1], reference_corpus=corpus)
    assert scores == {"bleu": 1.0, "bleu2": 1.0, "bleu3": 1.0, "bleu4": 1.0}


def test_unknown_words_score_zero_whatever_the_smoothing(bleu):
    for smoothing in NLTK_SMOOTHING:
        scores = bleu.compute(predictions=["x y z"], reference_corpus=["a b c"], max_order=2, smoothing=smoothing)
        assert scores == {"bleu": 0.0, "bleu2": 0.0}


def test_strings_are_lists_of_their_words(bleu):
    predictions, corpus = ["a b  c\n", "", "b c d e"], ["a b c d", "c\td e"]
    scores = bleu.compute(predictions=predictions, reference_corpus=corpus, smoothing="add_one")
    as_lists = {"predictions": [text.split() for text in predictions], "reference_corpus": [t.split() for t in corpus]}
    assert bleu.compute(**as_lists, smoothing="add_one") == scores
    mixed = {"predictions": [list("abc"), "", tuple("bcde")], "reference_corpus": [corpus[0], list("cde")]}
    assert bleu.compute(**mixed, smoothing="add_one") == scores


def test_a_token_may_hold_a_space(bleu):
    assert bleu.compute(predictions=[["a b"]], reference_corpus=[["a", "b"]], max_order=1) == {"bleu": 0.0}
    assert bleu.compute(predictions=[["a b"]], reference_corpus=[["a b"]], max_order=1) == {"bleu": 1.0}


NO_PREDICTIONS = "`predictions` must hold at least one text; the mean over none is undefined."
NO_CORPUS = "`reference_corpus` must hold at least one text; every prediction is scored against all."
NO_TOKENS = "`{}` must hold strings or lists of string tokens, got {}. Decode token ids, or turn each into a string."


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"predictions": []}, ValueError, NO_PREDICTIONS),
        ({"predictions": None}, ValueError, NO_PREDICTIONS),
        ({"predictions": [[3, 4]]}, TypeError, NO_TOKENS.format("predictions", "[3, 4]")),
        (
            {"predictions": "a b"},
            TypeError,
            "`predictions` must be a list of texts, got the one string 'a b'.",
        ),
        ({"reference_corpus": []}, ValueError, NO_CORPUS),
        ({"reference_corpus": None}, ValueError, NO_CORPUS),
        ({"reference_corpus": ["a", None]}, TypeError, NO_TOKENS.format("reference_corpus", "None")),
        (
            {"reference_corpus": "a b"},
            TypeError,
            "`reference_corpus` must be a list of texts, got the one string 'a b'.",
        ),
        ({"max_order": 0}, ValueError, "`max_order` must be an integer of at least 1, got 0."),
        ({"max_order": 2.5}, ValueError, "`max_order` must be an integer of at least 1, got 2.5."),
        ({"max_order": True}, ValueError, "`max_order` must be an integer of at least 1, got True."),
        (
            {"smoothing": "floor"},
            ValueError,
            "`smoothing` must be one of 'none', 'epsilon', 'add_one', got 'floor'.",
        ),
    ],
)
def test_errors_are_clear_and_leave_nothing_behind(bleu, wrong, error, message):
    right = {"predictions": ["a b"], "reference_corpus": ["a b"], "max_order": 2}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        bleu.compute(**(right | wrong))
    assert len(bleu) == 0
    assert bleu.compute(**right) == {"bleu": 1.0, "bleu2": 1.0}


def test_a_thousand_against_ten_thousand_in_seconds(bleu):
    """A comparison of each hypothesis with each reference would take hours; the limit is the one of issue 6."""
    rng = random.Random(0)
    vocabulary = [f"w{index}" for index in range(300)]
    references = random_texts(rng, 10_000, vocabulary, (20, 60))
    hypotheses = random_texts(rng, 1_000, vocabulary, (20, 60))
    start = time.perf_counter()
    scores = bleu.compute(predictions=hypotheses, reference_corpus=references, smoothing="epsilon")
    assert time.perf_counter() - start < 20
    assert 0 < scores["bleu4"] < scores["bleu3"] < scores["bleu2"] < 1
