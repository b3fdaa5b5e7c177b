"""Reverse perplexity: by hand, against NLTK, and what a perplexity of real text must do."""

import itertools
import math
import random
import re
import time

import pytest
from nltk.lm import Vocabulary
from nltk.lm.models import InterpolatedLanguageModel
from nltk.lm.smoothing import KneserNey as KneserNeyOfNLTK
from test_bleu import random_texts

from seqgan_hf.metrics import ReversePerplexity
from seqgan_hf.metrics.reverse_perplexity.reverse_perplexity import END, START, UNKNOWN, KneserNey


@pytest.fixture
def measure(tmp_path):
    return ReversePerplexity(cache_dir=str(tmp_path))


def nll_of_nltk(generated, real, max_order, discount, end_of_text):
    """
    The mean over tokens under NLTK's recursion, over token strings.

    In front of the start of each text stands a word of its own, so that NLTK, which counts in shorter contexts how many
    different words came before, counts texts there. Its single words have neither discount nor uniform distribution.
    """
    types = {token for text in real for token in text}
    end = ["</s>"] if end_of_text else []
    outcomes = [*sorted(types), "<unk>", *end]

    class OfThisVocabulary(KneserNeyOfNLTK):
        def unigram_score(self, word):
            before = {outcome: self._continuation_counts(outcome)[0] for outcome in outcomes}
            total = sum(before.values())
            if total == 0:
                return 1 / len(outcomes)
            kinds = sum(number > 0 for number in before.values())
            return (max(before[word] - discount, 0) + discount * kinds / len(outcomes)) / total

    def items(text):
        return ["<s>", *(token if token in types else "<unk>" for token in text), *end]

    training = [[f"<text {index}>", *items(text)] for index, text in enumerate(generated)]
    vocabulary = Vocabulary([item for text in training for item in text] + outcomes)
    model = InterpolatedLanguageModel(
        OfThisVocabulary, max_order, vocabulary=vocabulary, params={"order": max_order, "discount": discount}
    )
    model.fit(
        [tuple(text[first : first + n]) for n in range(1, max_order + 1) for first in range(len(text) - n + 1)]
        for text in training
    )
    logs = []
    for text in map(items, real):
        for position in range(1, len(text)):
            context = tuple(text[max(0, position - max_order + 1) : position])
            logs.append(math.log(model.unmasked_score(text[position], context)))
    return -sum(logs) / len(logs)


def test_reverse_perplexity_by_hand(measure):
    """
    Outcomes: a, b, unknown (c) and the end. Of the 5 different pairs 1 ends with a, 1 with b, 1 with c and 2 with the
    end, so P(a) = P(b) = P(c) = (0.5 + 0.5 * 4 / 4) / 5 = 0.2, and P(end) = 0.4.
    P(a | start) = (1.5 + 0.5 * 0.2) / 2, P(b | a) = (0.5 + 0.5 * 2 * 0.2) / 2, P(end | b) = (0.5 + 0.5 * 0.4) / 1.
    """
    scores = measure.compute(predictions=["a b", "a c"], reference_corpus=["a b"], max_order=2, discount=0.5)
    nll = -math.log(0.8 * 0.35 * 0.7) / 3
    assert scores == pytest.approx({"reverse_nll": nll, "reverse_perplexity": math.exp(nll)})


def test_without_ends_by_hand(measure):
    """Outcomes: a, b and unknown. The 3 different pairs end with a, b and c: each has 1 / 3."""
    scores = measure.compute(
        predictions=["a b", "a c"], reference_corpus=["a b"], max_order=2, discount=0.5, end_of_text=False
    )
    nll = -math.log((1.5 + 0.5 / 3) / 2 * (0.5 + 0.5 * 2 / 3) / 2) / 2
    assert scores == pytest.approx({"reverse_nll": nll, "reverse_perplexity": math.exp(nll)})


def test_single_tokens_are_counted_where_they_are_the_longest(measure):
    """Outcomes: a, b, unknown and the end. Seen: 3 a, 1 b, 1 end; P(a) = (3 - 0.5 + 0.5 * 3 / 4) / 5, and so on."""
    scores = measure.compute(predictions=["a a a b"], reference_corpus=["a b"], max_order=1, discount=0.5)
    assert scores["reverse_nll"] == pytest.approx(-math.log(2.875 / 5 * 0.875 / 5 * 0.875 / 5) / 3)


def test_a_word_with_a_single_neighbour_is_unlikely_behind_others():
    """The San Francisco of Chen and Goodman: c is frequent, but always behind b; d is rare, but behind x, y and z."""
    b, c, d, x, y, z, other = range(3, 10)
    texts = [[START, b, c]] * 50 + [[START, each, d] for each in (x, y, z)]
    model = KneserNey(texts, 8, 2, 0.75)
    of_c, of_d = (model.probability([START, other, each], 2) for each in (c, d))
    # Of 8 kinds of pairs, 1 ends with c and 3 with d; 6 different items end them.
    assert of_c == pytest.approx((1 - 0.75 + 0.75 * 6 / 8) / 8) and of_d == pytest.approx(
        (3 - 0.75 + 0.75 * 6 / 8) / 8
    )


@pytest.mark.parametrize("max_order", [1, 2, 3, 4])
@pytest.mark.parametrize("end_of_text", [True, False])
def test_the_probabilities_of_all_outcomes_sum_to_one(max_order, end_of_text):
    """After every context of up to three tokens, of which most were never seen, and at the start of a text."""
    for seed in range(3):
        rng = random.Random(seed)
        tokens = [UNKNOWN, *range(UNKNOWN + 1, UNKNOWN + 5)]
        end = [END] if end_of_text else []
        texts = [[START, *rng.choices(tokens[:-1], k=rng.randint(0, 5)), *end] for _ in range(6)]
        outcomes = [*tokens, *end]
        model = KneserNey(texts, len(outcomes), max_order, rng.uniform(0.01, 0.99))
        for length in range(4):
            for before in itertools.product(tokens, repeat=length):
                probabilities = [model.probability([START, *before, each], length + 1) for each in outcomes]
                assert sum(probabilities) == pytest.approx(1) and min(probabilities) > 0


@pytest.mark.parametrize("max_order", [2, 3, 4, 5])
@pytest.mark.parametrize("end_of_text", [True, False])
def test_reverse_perplexity_is_that_of_nltk(measure, max_order, end_of_text):
    """Among the texts are empty ones, copies, and tokens that only one side has."""
    for seed in range(4):
        rng = random.Random(seed)
        generated = [[], *random_texts(rng, 12, "abcxy", (0, 7))] * 2 + random_texts(rng, 8, "abcxy", (0, 7))
        real = [[], *random_texts(rng, 8, "abcdz", (0, 7))]
        discount = rng.uniform(0.05, 0.95)
        scores = measure.compute(
            predictions=generated,
            reference_corpus=real,
            max_order=max_order,
            discount=discount,
            end_of_text=end_of_text,
        )
        expected = nll_of_nltk(generated, real, max_order, discount, end_of_text)
        assert scores["reverse_nll"] == pytest.approx(expected, rel=1e-12)
        assert scores["reverse_perplexity"] == pytest.approx(math.exp(expected))


def test_texts_that_say_nothing_leave_the_uniform_distribution(measure):
    """Outcomes: a, b, c and unknown; no token is ever written."""
    scores = measure.compute(predictions=[""], reference_corpus=["a b c"], end_of_text=False)
    assert scores["reverse_perplexity"] == pytest.approx(4)


def test_the_end_of_a_text_is_counted_only_if_asked_for(measure):
    """Real texts end where no generated one does: that costs much, and nothing where ends are off."""
    inputs = {"predictions": ["a a a"] * 1000, "reference_corpus": ["a"] * 100}
    assert measure.compute(**inputs, end_of_text=False)["reverse_perplexity"] < 1.01
    assert measure.compute(**inputs)["reverse_perplexity"] > 10


def test_copies_of_one_text_are_worse_than_different_ones(measure):
    """The more of the samples are one and the same, the worse: collapse costs, although each text is a real one."""
    rng = random.Random(0)
    words = "abcdefghij"
    real, generated = (
        [[words[(start + step) % 10] for step in range(6)] for start in rng.choices(range(10), k=40)] for _ in range(2)
    )
    nll = [
        measure.compute(predictions=generated[: 40 - copies] + [generated[0]] * copies, reference_corpus=real)[
            "reverse_nll"
        ]
        for copies in (0, 30, 36, 39)
    ]
    assert nll == sorted(nll) and nll[-1] > nll[0] + 1


def test_real_text_beats_shuffled_words_and_these_beat_foreign_ones(measure):
    rng = random.Random(0)
    words = "abcdefghij"
    real, generated = (
        [[words[(start + step) % 10] for step in range(6)] for start in rng.choices(range(10), k=40)] for _ in range(2)
    )
    shuffled = [rng.sample(text, len(text)) for text in generated]
    foreign = [[f"{token}?" for token in text] for text in generated]
    nll = [
        measure.compute(predictions=texts, reference_corpus=real)["reverse_nll"]
        for texts in (generated, shuffled, foreign)
    ]
    assert nll[0] + 0.5 < nll[1] and nll[1] + 0.5 < nll[2]


def test_only_one_kind_of_unknown_tokens(measure):
    """What a token is that no real text has makes no difference, so generators compare at one vocabulary."""
    real = ["a b c", "b c"]
    assert measure.compute(predictions=["a x b", "y c"], reference_corpus=real) == measure.compute(
        predictions=["a z b", "z c"], reference_corpus=real
    )


def test_the_order_of_the_texts_makes_no_difference(measure):
    rng = random.Random(0)
    generated, real = (random_texts(rng, 20, "abcde", (0, 8)) for _ in range(2))
    scores = measure.compute(predictions=generated, reference_corpus=real)
    assert measure.compute(predictions=generated[::-1], reference_corpus=real[::-1]) == pytest.approx(scores)


NO_PREDICTIONS = "`predictions` must hold at least one text; the mean over none is undefined."
NO_CORPUS = "`reference_corpus` must hold at least one text; its perplexity is measured."
NO_TOKENS = "`{}` must hold strings or lists of string tokens, got {}. Decode token ids, or turn each into a string."
NO_DISCOUNT = "`discount` must be a number between 0 and 1, neither of them included; got {}."


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"predictions": []}, ValueError, NO_PREDICTIONS),
        ({"predictions": [[3, 4]]}, TypeError, NO_TOKENS.format("predictions", "[3, 4]")),
        ({"predictions": "a b"}, TypeError, "`predictions` must be a list of texts, got the one string 'a b'."),
        ({"reference_corpus": []}, ValueError, NO_CORPUS),
        ({"reference_corpus": None}, ValueError, NO_CORPUS),
        ({"reference_corpus": ["a", None]}, TypeError, NO_TOKENS.format("reference_corpus", "None")),
        ({"max_order": 0}, ValueError, "`max_order` must be an integer of at least 1, got 0."),
        ({"discount": 0}, ValueError, NO_DISCOUNT.format(0)),
        ({"discount": 1.0}, ValueError, NO_DISCOUNT.format(1.0)),
        ({"discount": True}, ValueError, NO_DISCOUNT.format(True)),
        ({"discount": math.nan}, ValueError, NO_DISCOUNT.format("nan")),
        ({"discount": "0.5"}, ValueError, NO_DISCOUNT.format("'0.5'")),
        ({"end_of_text": "no"}, TypeError, "`end_of_text` must be True or False, got 'no'."),
        (
            {"reference_corpus": ["", []], "end_of_text": False},
            ValueError,
            "`reference_corpus` must hold at least one token, where no end of text is predicted.",
        ),
    ],
)
def test_errors_are_clear_and_leave_nothing_behind(measure, wrong, error, message):
    right = {"predictions": ["a b"], "reference_corpus": ["a b"], "max_order": 2}
    expected = measure.compute(**right)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        measure.compute(**(right | wrong))
    assert len(measure) == 0
    assert measure.compute(**right) == expected


def test_a_thousand_against_a_thousand_in_seconds(measure):
    rng = random.Random(0)
    words = [f"w{index}" for index in range(300)]
    generated, real = (random_texts(rng, 1_000, words, (30, 30)) for _ in range(2))
    start = time.perf_counter()
    measure.compute(predictions=generated, reference_corpus=real)
    assert time.perf_counter() - start < 10  # 0.4 on a machine with nothing else to do
