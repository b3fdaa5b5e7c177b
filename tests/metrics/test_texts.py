"""What all metrics of texts do alike: loading, taking texts in, refusing others, and what their cards say."""

import ast
import inspect
import re
import socket
from pathlib import Path

import evaluate
import pytest

from seqgan_hf import metrics
from seqgan_hf.metrics import Bleu, DistinctN, Novelty, ReversePerplexity, SelfBleu
from seqgan_hf.metrics.texts import TextMetric

CORPUS = ["a b c d", "c d e", "a b b"]
# With each metric, the arguments that it needs beside the texts.
METRICS = {
    Bleu: {"reference_corpus": CORPUS},
    SelfBleu: {},
    DistinctN: {},
    Novelty: {"training_texts": CORPUS},
    ReversePerplexity: {"reference_corpus": CORPUS},
}
everyone = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
with_a_corpus = pytest.mark.parametrize(
    ("metric", "argument"),
    [(metric, argument) for metric, arguments in METRICS.items() for argument in arguments],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


def folder_of(metric):
    return Path(inspect.getfile(metric)).parent


def test_every_metric_of_texts_is_in_these_tests():
    every = {each for each in vars(metrics).values() if inspect.isclass(each)}
    assert all(issubclass(metric, TextMetric) for metric in every)
    assert {metric for metric in every if metric.form == TextMetric.form} == set(METRICS)


@everyone
def test_loaded_by_path_offline_is_the_class(metric, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the metric went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = evaluate.load(str(folder_of(metric)), cache_dir=str(tmp_path / "loaded"))
    inputs = {"predictions": ["a b c", "b c d e"], "max_order": 2} | METRICS[metric]
    assert type(loaded).__name__ == metric.__name__ and type(loaded) is not metric
    assert loaded.compute(**inputs) == metric(cache_dir=str(tmp_path)).compute(**inputs)
    assert loaded.inputs_description == metric.inputs


@everyone
def test_texts_added_piece_by_piece(metric, tmp_path):
    measure, settings = metric(cache_dir=str(tmp_path)), METRICS[metric] | {"max_order": 2}
    expected = measure.compute(predictions=["a b", "b c d", "c e"], **settings)
    measure.add(prediction="a b")
    measure.add_batch(predictions=[])
    measure.add_batch(predictions=[["b", "c", "d"]])
    assert measure.compute(predictions=["c e"], **settings) == expected
    measure.add_batch(predictions=["a b", "b c d", "c e"])
    assert measure.compute(**settings) == expected


@everyone
def test_inputs_are_not_modified(metric, tmp_path):
    predictions, corpus = [["a", "b"], ["c"]], [["a", "b", "c"]]
    metric(cache_dir=str(tmp_path)).compute(
        predictions=predictions, max_order=2, **dict.fromkeys(METRICS[metric], corpus)
    )
    assert (predictions, corpus) == ([["a", "b"], ["c"]], [["a", "b", "c"]])


@everyone
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"predictions": []}, ValueError, "must hold at least one text; the mean over none is undefined."),
        ({"predictions": None}, ValueError, "must hold at least one text; the mean over none is undefined."),
        ({"predictions": "a b"}, TypeError, "must be a list of texts, got the one string 'a b'."),
        (
            {"predictions": [[3, 4], ["a"]]},
            TypeError,
            "must hold strings or lists of string tokens, got [3, 4]. Decode token ids, or turn each into a string.",
        ),
        ({"max_order": 0}, ValueError, "must be an integer of at least 1, got 0."),
        ({"max_order": 2.5}, ValueError, "must be an integer of at least 1, got 2.5."),
        ({"max_order": True}, ValueError, "must be an integer of at least 1, got True."),
    ],
)
def test_errors_are_clear_and_leave_nothing_behind(metric, wrong, error, message, tmp_path):
    measure, right = metric(cache_dir=str(tmp_path)), {"predictions": ["a b", "b"], "max_order": 2} | METRICS[metric]
    expected = measure.compute(**right)
    with pytest.raises(error, match=f"^{re.escape(f'`{next(iter(wrong))}` {message}')}$"):
        measure.compute(**(right | wrong))
    assert len(measure) == 0
    assert measure.compute(**right) == expected


@with_a_corpus
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([], ValueError, "must hold at least one text; "),
        (None, ValueError, "must hold at least one text; "),
        ("a b", TypeError, "must be a list of texts, got the one string 'a b'."),
        (["a", None], TypeError, "must hold strings or lists of string tokens, got None. Decode token ids, or "),
    ],
)
def test_a_corpus_that_is_none_is_refused(metric, argument, wrong, error, message, tmp_path):
    measure = metric(cache_dir=str(tmp_path))
    with pytest.raises(error, match=f"^{re.escape(f'`{argument}` {message}')}"):
        measure.compute(predictions=["a b", "b"], **{argument: wrong})
    assert len(measure) == 0


@everyone
def test_the_example_of_the_card_gives_what_it_says(metric, tmp_path):
    card = (folder_of(metric) / "README.md").read_text(encoding="utf-8")
    call, result = re.search(r"\.compute\((.*?)\n\)\n# (\{.*?\})", card, re.DOTALL).groups()
    arguments = {word.arg: ast.literal_eval(word.value) for word in ast.parse(f"f({call})").body[0].value.keywords}
    assert metric(cache_dir=str(tmp_path)).compute(**arguments) == pytest.approx(ast.literal_eval(result), abs=5e-5)
    assert metric.bibtex.strip() in card


@everyone
def test_the_example_of_the_inputs_gives_what_it_says(metric, tmp_path):
    call, result = re.search(r"\.compute\((.*?)\)\n\s*(\{.*\})", metric.inputs, re.DOTALL).groups()
    arguments = {word.arg: ast.literal_eval(word.value) for word in ast.parse(f"f({call})").body[0].value.keywords}
    assert metric(cache_dir=str(tmp_path)).compute(**arguments) == ast.literal_eval(result)


def test_an_error_while_measuring_is_raised_and_leaves_nothing_behind(tmp_path, monkeypatch):
    measure = DistinctN(cache_dir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(DistinctN, "score", lambda self, predictions, **settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measure.compute(predictions=["a b"])
    assert len(measure) == 0
    assert measure.compute(predictions=["a b"], max_order=1) == {"distinct1": 1.0, "distinct_texts": 1.0}
