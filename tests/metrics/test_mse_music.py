"""MSE of melodies: by hand, against a loop over all pairs, and what it refuses."""

import ast
import inspect
import itertools
import re
import time

import evaluate
import numpy as np
import pytest
from test_texts import folder_of

from seqgan_hf.metrics import MSEMusic
from seqgan_hf.metrics.mse_music import mse_music
from seqgan_hf.metrics.mse_music.mse_music import parse_melody, pitch_lines


@pytest.fixture
def measure(tmp_path):
    return MSEMusic(cache_dir=str(tmp_path))


def random_melodies(rng, count, steps, rests=0.3):
    """Melodies with rests, the first and the last among them, and with a note each."""
    keys = rng.integers(1, 89, (count, steps))
    keys[:, 1:][rng.random((count, steps - 1)) < rests] = 0
    return [list(map(int, np.roll(melody, rng.integers(steps)))) for melody in keys]


def line_of(melody):
    """The pitch line, step by step."""
    pitch, line = next(key for key in melody if key), []
    for key in melody:
        pitch = key or pitch
        line.append(pitch)
    return line


def by_a_loop(predictions, references):
    differences = [
        [
            sum((x - y) ** 2 for x, y in zip(line_of(melody), line_of(real), strict=True)) / len(melody)
            for real in references
        ]
        for melody in predictions
    ]
    nearest = [min(row) for row in differences]
    return {
        "mse_nearest": pytest.approx(sum(nearest) / len(nearest)),
        "mse_pairs": pytest.approx(sum(map(sum, differences)) / len(nearest) / len(references)),
        "silent": 0.0,
    }


def test_mse_by_hand(measure):
    """
    "0 42 0 45" is the line 42 42 42 45. To 42 42 44 45 it has 4 / 4 = 1, to 40 40 40 40: (4 + 4 + 4 + 25) / 4 = 9.25.
    "40 40 41 40" has 1 / 4 to the second, and (4 + 4 + 9 + 25) / 4 = 10.5 to the first.
    """
    scores = measure.compute(predictions=["0 42 0 45", "40 40 41 40"], reference_corpus=["42 0 44 45", "40 40 40 40"])
    assert scores == {"mse_nearest": (1 + 0.25) / 2, "mse_pairs": (1 + 9.25 + 0.25 + 10.5) / 4, "silent": 0.0}


def test_a_pitch_line_has_a_number_at_every_step():
    melodies = np.array([[0, 0, 7, 0, 9], [7, 0, 0, 9, 0], [0, 0, 0, 0, 0]])
    assert pitch_lines(melodies).tolist() == [[7, 7, 7, 7, 9], [7, 7, 7, 9, 9], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_mse_is_that_of_a_loop_over_all_pairs(measure, block, monkeypatch):
    monkeypatch.setattr(mse_music, "_BLOCK", block)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        steps = int(rng.integers(1, 9))
        predictions, real = random_melodies(rng, 7, steps), random_melodies(rng, 11, steps)
        assert measure.compute(predictions=predictions, reference_corpus=real) == by_a_loop(predictions, real)


def test_copies_are_at_zero_exactly(measure):
    melodies = random_melodies(np.random.default_rng(0), 20, 32)
    scores = measure.compute(predictions=melodies[::3], reference_corpus=melodies)
    assert scores["mse_nearest"] == 0 and scores["mse_pairs"] > 0


def test_silent_melodies_are_counted_and_left_out(measure):
    rng = np.random.default_rng(0)
    predictions, real = random_melodies(rng, 6, 8), random_melodies(rng, 5, 8)
    without = measure.compute(predictions=predictions, reference_corpus=real)
    rests = [0] * 8
    scores = measure.compute(predictions=[rests, *predictions, rests], reference_corpus=[*real, rests])
    assert scores == without | {"silent": 2 / 8}


def test_transposing_all_changes_nothing(measure):
    rng = np.random.default_rng(0)
    predictions, real = random_melodies(rng, 6, 8), random_melodies(rng, 5, 8)
    predictions, real = ([[min(key, 80) for key in melody] for melody in each] for each in (predictions, real))
    transposed = [[[key and key + 8 for key in melody] for melody in each] for each in (predictions, real)]
    scores = measure.compute(predictions=predictions, reference_corpus=real)
    assert measure.compute(predictions=transposed[0], reference_corpus=transposed[1]) == pytest.approx(scores)
    # Against the melodies where they were, it does.
    assert measure.compute(predictions=transposed[0], reference_corpus=real) != pytest.approx(scores)


def test_the_order_of_melodies_changes_nothing(measure):
    rng = np.random.default_rng(0)
    predictions, real = random_melodies(rng, 6, 8), random_melodies(rng, 5, 8)
    scores = measure.compute(predictions=predictions, reference_corpus=real)
    assert measure.compute(predictions=predictions[::-1], reference_corpus=real[::-1]) == pytest.approx(scores)


def test_a_melody_may_be_a_string_tokens_integers_or_an_array(measure):
    predictions, real = ["0 42 0 45"], ["42 0 44 45", " 40  40\t41 40\n"]
    expected = measure.compute(predictions=predictions, reference_corpus=real)
    as_tokens = [[melody.split() for melody in each] for each in (predictions, real)]
    as_integers = [[list(map(int, melody)) for melody in each] for each in as_tokens]
    as_numpy = [[list(map(np.int64, melody)) for melody in each] for each in as_tokens]
    as_arrays = list(map(np.array, as_integers))
    for first, second in itertools.product((as_tokens, as_integers, as_numpy, as_arrays), repeat=2):
        assert measure.compute(predictions=first[0], reference_corpus=second[1]) == expected
    assert as_integers == [[[0, 42, 0, 45]], [[42, 0, 44, 45], [40, 40, 41, 40]]]


def test_melodies_added_piece_by_piece(measure):
    real = ["42 0 44 45", "40 40 41 40"]
    expected = measure.compute(predictions=["1 2 3 4", "0 88 0 0", "5 5 5 5"], reference_corpus=real)
    measure.add(prediction="1 2 3 4")
    measure.add_batch(predictions=[[0, 88, 0, 0]])
    assert measure.compute(predictions=["5 5 5 5"], reference_corpus=real) == expected


TOKEN = (
    "`{}`: a token must be an integer from 0, a rest, to 88, the highest key of a piano; got {}. "
    "The key of a MIDI pitch is 20 less."
)
MELODY = "`{}`: a melody must be a string of integers or a list of them, got {}."
EMPTY = "`{}`: a melody must have at least one step, got {}. Leave it out."
NO_CORPUS = "`reference_corpus` must hold at least one melody; every prediction is compared with all of them."
LENGTHS = (
    "All melodies must have one length, to be compared step by step; got lengths from {} to {}. "
    "Cut them into windows of the same length."
)
SILENT = "`{}` must hold at least one melody with a note, as a rest has no pitch to compare; got {} of rests only."


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"predictions": ["40 89"]}, ValueError, TOKEN.format("predictions", "'89' at step 1")),
        ({"predictions": [[-1, 40]]}, ValueError, TOKEN.format("predictions", "-1 at step 0")),
        ({"predictions": [["40", "<unk>"]]}, ValueError, TOKEN.format("predictions", "'<unk>' at step 1")),
        ({"predictions": ["40 4_0"]}, ValueError, TOKEN.format("predictions", "'4_0' at step 1")),
        ({"predictions": [[40.0, 40]]}, ValueError, TOKEN.format("predictions", "40.0 at step 0")),
        ({"predictions": [[40, True]]}, ValueError, TOKEN.format("predictions", "True at step 1")),
        ({"reference_corpus": [[40, None]]}, ValueError, TOKEN.format("reference_corpus", "None at step 1")),
        ({"predictions": [40, 42]}, TypeError, MELODY.format("predictions", "40")),
        ({"reference_corpus": [None]}, TypeError, MELODY.format("reference_corpus", "None")),
        ({"predictions": ["40 42", " "]}, ValueError, EMPTY.format("predictions", "' '")),
        ({"reference_corpus": [[]]}, ValueError, EMPTY.format("reference_corpus", "[]")),
        ({"predictions": "40"}, TypeError, "`predictions` must be a list of melodies, got the one string '40'."),
        (
            {"reference_corpus": "40 42"},
            TypeError,
            "`reference_corpus` must be a list of melodies, got the one string '40 42'.",
        ),
        ({"reference_corpus": []}, ValueError, NO_CORPUS),
        ({"reference_corpus": None}, ValueError, NO_CORPUS),
        (
            {"predictions": []},
            ValueError,
            "`predictions` must hold at least one text; the mean over none is undefined.",
        ),
        ({"predictions": ["40", "40 42 44"]}, ValueError, LENGTHS.format(1, 3)),
        ({"reference_corpus": ["40 42 44"]}, ValueError, LENGTHS.format(2, 3)),
        ({"predictions": ["0 0", [0, 0]]}, ValueError, SILENT.format("predictions", 2)),
        ({"reference_corpus": ["0 0"]}, ValueError, SILENT.format("reference_corpus", 1)),
    ],
)
def test_errors_are_clear_and_leave_nothing_behind(measure, wrong, error, message):
    right = {"predictions": ["40 42"], "reference_corpus": ["40 44"]}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        measure.compute(**(right | wrong))
    assert len(measure) == 0
    assert measure.compute(**right) == {"mse_nearest": 2.0, "mse_pairs": 2.0, "silent": 0.0}


def test_one_melody_is_read_under_its_own_name():
    assert parse_melody("0 1 88") == parse_melody(("0", 1, 88)) == parse_melody(np.array([0, 1, 88])) == [0, 1, 88]
    with pytest.raises(
        TypeError, match=r"^`melody`: a melody must be a string of integers or a list of them, got 7\.$"
    ):
        parse_melody(7)


def test_loaded_by_path_is_the_class(measure, tmp_path):
    loaded = evaluate.load(str(folder_of(MSEMusic)), cache_dir=str(tmp_path / "loaded"))
    inputs = {"predictions": ["40 0 42"], "reference_corpus": ["0 0 44", "39 40 41"]}
    assert type(loaded).__name__ == "MSEMusic" and type(loaded) is not MSEMusic
    assert loaded.compute(**inputs) == measure.compute(**inputs)


def example_in(text, end):
    call, result = re.search(rf"\.compute\((.*?){end}(\{{.*?\}})", text, re.DOTALL).groups()
    return {word.arg: ast.literal_eval(word.value) for word in ast.parse(f"f({call})").body[0].value.keywords}, result


def test_the_examples_give_what_they_say(measure):
    arguments, result = example_in(measure.inputs_description, r"\)\n\s*")
    assert measure.compute(**arguments) == ast.literal_eval(result)
    card = (folder_of(MSEMusic) / "README.md").read_text(encoding="utf-8")
    arguments, result = example_in(card, r"\n\)\n# ")
    assert measure.compute(**arguments) == pytest.approx(ast.literal_eval(result), abs=5e-5)
    assert MSEMusic.bibtex.strip() in card
    assert all(
        f"`{argument}`" in card for argument in inspect.signature(MSEMusic.compute).parameters if argument != "self"
    )


def test_a_thousand_against_five_thousand_in_seconds(measure):
    """An array of all differences would have 160 million numbers."""
    rng = np.random.default_rng(0)
    predictions, real = rng.integers(0, 89, (1_000, 32)), rng.integers(0, 89, (5_000, 32))
    start = time.perf_counter()
    measure.compute(predictions=predictions, reference_corpus=real)
    assert time.perf_counter() - start < 10
