"""MAUVE: that it is the library's, which arguments reach it, and what is said where it is missing."""

import importlib
import re
import sys
from pathlib import Path

import evaluate
import pytest
import torch
from test_texts import folder_of
from transformers import BertConfig, BertModel

import seqgan_hf
from seqgan_hf.metrics import Mauve
from seqgan_hf.metrics.features import text_features

REAL = [f"the {who} {does}" for who in ("town", "nurse", "school", "bridge") for does in ("works", "is open", "is us")]
GENERATED = [
    f"we {does} {how}" for does in ("work", "open", "promise") for how in ("a a", "at night", "for us", "and we")
]


@pytest.fixture
def library():
    return pytest.importorskip("mauve")


@pytest.fixture
def encoder(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, initializer_range=0.5, **sizes))


@pytest.fixture
def inputs(encoder, tokenizer):
    return {"predictions": GENERATED, "reference_corpus": REAL, "encoder": encoder, "tokenizer": tokenizer}


def test_mauve_is_that_of_the_library(inputs, encoder, tokenizer, library, tmp_path, capfd):
    """Its arguments reach it: with others the figure is another."""
    generated, real = (text_features(texts, encoder, tokenizer) for texts in (GENERATED, REAL))
    measure = Mauve(cache_dir=str(tmp_path))
    figures = []
    for settings in ({}, {"num_buckets": 6}, {"num_buckets": 6, "seed": 3}, {"scaling_factor": 1.5}):
        named = {("mauve_" if name == "scaling_factor" else "") + name: value for name, value in settings.items()}
        expected = library.compute_mauve(p_features=generated, q_features=real, **named).mauve
        capfd.readouterr()
        assert measure.compute(**inputs, **settings) == {"mauve": expected}
        assert capfd.readouterr().out == ""
        assert 0 < expected < 1
        figures.append(expected)
    assert len(set(figures)) == len(figures)


def test_the_same_texts_have_a_mauve_of_one(inputs, library, tmp_path):
    """
    Of two equal histograms mauve-text 0.4.0 sorts points that tie, and where the shares are round, as the halves of two
    clusters, it said 0.75.
    """
    measure = Mauve(cache_dir=str(tmp_path))
    for number in (2, 4, 12):
        texts = {"predictions": REAL[:number], "reference_corpus": REAL[:number]}
        assert measure.compute(**inputs | texts, num_buckets=2) == {"mauve": pytest.approx(1)}


def test_texts_of_another_kind_and_a_single_one_score_low(inputs, library, tmp_path):
    measure = Mauve(cache_dir=str(tmp_path))
    half = {"predictions": REAL[::2] * 2, "reference_corpus": REAL[1::2] * 2}
    alike, apart, collapsed = (
        measure.compute(**inputs | texts, num_buckets=4)["mauve"]
        for texts in (half, {}, {"predictions": REAL[:1] * 12})
    )
    assert apart < alike and collapsed < alike


def test_loaded_by_path_it_finds_the_library_and_not_itself(inputs, library, tmp_path, monkeypatch):
    """The copy in the cache of `evaluate` is called mauve.py, like the folder in this package and like the library."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in [name for name in sys.modules if name.split(".")[0] == "mauve"]:
        monkeypatch.delitem(sys.modules, name)
    loaded = evaluate.load(str(folder_of(Mauve)), cache_dir=str(tmp_path / "loaded"))
    assert type(loaded).__name__ == "Mauve" and type(loaded) is not Mauve
    assert loaded.compute(**inputs) == Mauve(cache_dir=str(tmp_path)).compute(**inputs)
    found = Path(importlib.import_module("mauve").__file__)
    assert found.is_relative_to(Path(library.__file__).parent)
    assert not found.is_relative_to(Path(seqgan_hf.__file__).parent)


def test_encoders_by_name_bring_their_tokenizer(inputs, encoder, tokenizer, library, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    measure = Mauve(cache_dir=str(tmp_path))
    by_name = measure.compute(predictions=GENERATED, reference_corpus=REAL, encoder=str(tmp_path / "encoder"))
    assert by_name == {"mauve": pytest.approx(measure.compute(**inputs)["mauve"])}


def test_without_the_library_the_extra_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    measure = Mauve(cache_dir=str(tmp_path))
    message = "MAUVE needs the package mauve-text: pip install 'seqgan_hf[mauve]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        measure.compute(predictions=GENERATED, reference_corpus=REAL, encoder="no/such-encoder")
    assert len(measure) == 0
    loaded = evaluate.load(str(folder_of(Mauve)), cache_dir=str(tmp_path / "loaded"))
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        loaded.compute(predictions=GENERATED, reference_corpus=REAL, encoder="no/such-encoder")


NO_STRINGS = "`{}` must be a list of strings, which the encoder reads; got {}."
NO_BUCKETS = '`num_buckets` must be "auto" or an integer of at least 2, got {}.'


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"predictions": []},
            ValueError,
            "`predictions` must hold at least one text; the mean over none is undefined.",
        ),
        ({"predictions": ["a"]}, ValueError, "`predictions` must hold at least 2 texts, to be compared; got 1."),
        ({"predictions": [["a"], ["b"]]}, TypeError, NO_STRINGS.format("predictions", "['a']")),
        (
            {"predictions": ["a", ""]},
            ValueError,
            "The encoder's tokenizer makes no token of ''. Leave it out.",
        ),
        (
            {"reference_corpus": ["a"]},
            ValueError,
            "`reference_corpus` must hold at least 2 texts, to be compared; got 1.",
        ),
        ({"reference_corpus": "a b"}, TypeError, NO_STRINGS.format("reference_corpus", "'a b'")),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, got 0."),
        ({"num_buckets": 1}, ValueError, NO_BUCKETS.format(1)),
        ({"num_buckets": 2.5}, ValueError, NO_BUCKETS.format(2.5)),
        ({"num_buckets": "many"}, ValueError, NO_BUCKETS.format("'many'")),
        ({"num_buckets": 25}, ValueError, "`num_buckets` must be at most the number of texts, 24; got 25."),
        ({"scaling_factor": 0}, ValueError, "`scaling_factor` must be above 0, got 0."),
    ],
)
def test_errors_are_clear_and_leave_nothing_behind(wrong, error, message, inputs, library, tmp_path):
    measure = Mauve(cache_dir=str(tmp_path))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        measure.compute(**inputs | wrong)
    assert len(measure) == 0
    measure.compute(**inputs)


def test_the_card_cites_what_the_metric_cites():
    assert Mauve.bibtex.strip() in (folder_of(Mauve) / "README.md").read_text(encoding="utf-8")
