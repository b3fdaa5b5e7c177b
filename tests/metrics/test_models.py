"""Metrics that ask a model: NLL_oracle and the Fréchet distance."""

import re

import evaluate
import numpy as np
import pytest
import torch
from conftest import BOS, GENERATORS, VOCAB_SIZE
from scipy import linalg
from test_texts import folder_of
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from seqgan_hf.metrics import FrechetDistance, NLLOracle
from seqgan_hf.metrics.features import longest_input, text_features
from seqgan_hf.metrics.frechet_distance.frechet_distance import frechet_distance
from seqgan_hf.oracle import make_oracle

NO_IDS = "`predictions` must be a list of lists of token ids, one a text;"
OTHER_IDS = f"`predictions` and `start_token_id` must be ids of the oracle, from 0 to {VOCAB_SIZE - 1};"
IDS = [[4, 8, 15], [16], [3, 3, 3, 3, 5]]


@pytest.fixture(params=["lstm", "gpt2"])
def oracle(request):
    torch.manual_seed(0)
    return GENERATORS[request.param]()


@pytest.fixture
def encoder(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=16, **sizes))


def test_nll_oracle_is_the_mean_over_tokens(oracle, tmp_path):
    """Text by text, from the start token, without padding."""
    total = 0.0
    oracle.eval()
    for ids in IDS:
        with torch.no_grad():
            logits = oracle(input_ids=torch.tensor([[BOS, *ids[:-1]]])).logits[0]
        total -= logits.log_softmax(dim=-1)[torch.arange(len(ids)), ids].sum().item()
    oracle.train()
    for batch_size in (1, 2, 64):
        scores = NLLOracle(cache_dir=str(tmp_path)).compute(predictions=IDS, model=oracle, batch_size=batch_size)
        assert scores == {"nll_oracle": pytest.approx(total / 9, rel=1e-5)}
    assert oracle.training


def test_nll_oracle_takes_tensors_and_the_name_of_a_folder(oracle, tmp_path):
    oracle.save_pretrained(tmp_path / "oracle")
    ids = torch.tensor([[4, 8, 15], [16, 3, 3]])
    loaded = evaluate.load(str(folder_of(NLLOracle)), cache_dir=str(tmp_path))
    by_name = loaded.compute(predictions=ids, model=str(tmp_path / "oracle"))
    assert by_name == NLLOracle(cache_dir=str(tmp_path)).compute(predictions=ids.tolist(), model=oracle)


def test_the_example_of_the_card_gives_what_it_says(tmp_path):
    card = (folder_of(NLLOracle) / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"# \{'nll_oracle': (.*?)\}", card)
    scores = NLLOracle(cache_dir=str(tmp_path)).compute(
        predictions=[[4, 8, 15], [16, 22, 3]], model=make_oracle(seed=0)
    )
    assert scores["nll_oracle"] == pytest.approx(float(stated), abs=5e-5)


def test_ids_of_numpy_are_ids(oracle, tmp_path):
    measure = NLLOracle(cache_dir=str(tmp_path))
    expected = measure.compute(predictions=IDS, model=oracle)
    assert measure.compute(predictions=[[np.int64(token) for token in ids] for ids in IDS], model=oracle) == expected
    assert measure.compute(predictions=[np.array(ids) for ids in IDS], model=oracle) == expected


def test_another_start_token_is_another_likelihood(oracle, tmp_path):
    measure = NLLOracle(cache_dir=str(tmp_path))
    as_it_is = measure.compute(predictions=IDS, model=oracle)
    assert measure.compute(predictions=IDS, model=oracle, start_token_id=BOS) == as_it_is
    assert measure.compute(predictions=IDS, model=oracle, start_token_id=7) != as_it_is
    with pytest.raises(ValueError, match=re.escape(f"{OTHER_IDS} got [{VOCAB_SIZE}].")):
        measure.compute(predictions=IDS, model=oracle, start_token_id=VOCAB_SIZE)
    oracle.config.bos_token_id = None
    message = "The oracle has no `bos_token_id`. Say what stands before each text: `start_token_id`."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure.compute(predictions=IDS, model=oracle)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (["a b"], TypeError, f"{NO_IDS} got 'a b' for a text."),
        ([4, 8, 15], TypeError, f"{NO_IDS} got 4 for a text."),
        ([[1, True]], TypeError, f"{NO_IDS} got [1, True] for a text."),
        ([[1], []], ValueError, "`predictions` holds a text without a token. Leave it out; it has no likelihood."),
        (
            [[1, VOCAB_SIZE]],
            ValueError,
            f"{OTHER_IDS} got [1, {VOCAB_SIZE}].",
        ),
        ([[-1]], ValueError, f"{OTHER_IDS} got [-1]."),
        ([], ValueError, "`predictions` must hold at least one text; the mean over none is undefined."),
    ],
)
def test_what_is_no_text_of_the_oracle_is_refused(wrong, error, message, tmp_path):
    measure, oracle = NLLOracle(cache_dir=str(tmp_path)), GENERATORS["lstm"]()
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        measure.compute(predictions=wrong, model=oracle)
    assert len(measure) == 0
    measure.compute(predictions=IDS, model=oracle)


def test_features_are_the_mean_of_the_last_hidden_states_over_all_tokens(encoder, tokenizer):
    ids = tokenizer("we keep our word")["input_ids"]
    encoder.eval()
    with torch.no_grad():
        states = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
    features = text_features(["we keep our word", "no"], encoder, tokenizer)
    assert len(ids) > 2 and features[0] == pytest.approx(states.mean(dim=0).numpy(), abs=1e-6)


def test_the_frechet_distance_is_that_of_the_matrix_root():
    generator = np.random.default_rng(0)
    first, second = (
        generator.normal(size=(50, 4)),
        generator.normal(1, 2, size=(40, 4)) @ generator.normal(size=(4, 4)),
    )
    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)


def test_the_frechet_distance_of_one_feature_by_hand():
    """Means 1 and 4, standard deviations 1 and 3: 3^2 + (3 - 1)^2."""
    first, second = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [4.0], [7.0]])
    assert frechet_distance(first, second) == pytest.approx(9 + 4)


def test_fewer_texts_than_features_have_a_real_distance():
    few = np.random.default_rng(0).normal(size=(3, 10))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 1) == pytest.approx(10)


def test_features_do_not_depend_on_the_batch(encoder, tokenizer):
    texts = ["the cat sat on the mat", "the dog", "a cat sat on a dog and on a mat"]
    together = text_features(texts, encoder, tokenizer)
    assert together.shape == (3, 8) and encoder.training
    alone = np.concatenate([text_features([text], encoder, tokenizer) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_a_text_without_a_token_is_refused(encoder, tokenizer, tmp_path):
    message = "The encoder's tokenizer makes no token of ''. Leave it out."
    measure = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure.compute(predictions=["the cat", ""], reference_corpus=["a", "b"], encoder=encoder, tokenizer=tokenizer)
    assert len(measure) == 0 and encoder.training


def test_what_an_encoder_cannot_hold_is_cut_off(encoder, tokenizer):
    longest = "the cat sat on the mat " * 10
    assert np.isfinite(text_features([longest], encoder, tokenizer)).all()


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_encoders_that_number_positions_from_padding_on_hold_fewer_tokens(padding, tokenizer):
    """RoBERTa has 514 positions and reads 512 tokens: one more was an IndexError, where the tokenizer has no limit."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=padding, max_position_embeddings=16, **sizes)
    encoder = RobertaModel(config)
    assert tokenizer.model_max_length > 1e9
    assert longest_input(encoder, tokenizer) == 16 - padding - 1
    texts = ["the cat sat on the mat " * 10, "the cat"]
    together = text_features(texts, encoder, tokenizer)
    assert together == pytest.approx(
        np.concatenate([text_features([text], encoder, tokenizer) for text in texts]), abs=1e-5
    )
    tokenizer.model_max_length = 7
    assert longest_input(encoder, tokenizer) == 7


def test_generated_texts_are_compared_with_real_ones(encoder, tokenizer, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    real = ["the cat sat on the mat", "the dog sat", "a cat and a dog"]
    measure = evaluate.load(str(folder_of(FrechetDistance)), cache_dir=str(tmp_path))
    by_name = measure.compute(predictions=real[::-1], reference_corpus=real, encoder=str(tmp_path / "encoder"))
    assert by_name["frechet_distance"] == pytest.approx(0, abs=1e-6)
    others = ["mat mat mat", "mat", "mat mat"]
    far = measure.compute(predictions=others, reference_corpus=real, encoder=encoder, tokenizer=tokenizer)
    expected = frechet_distance(*(text_features(texts, encoder, tokenizer) for texts in (others, real)))
    assert far["frechet_distance"] == pytest.approx(expected, rel=1e-6) and expected > 0.01


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"predictions": ["a"]}, ValueError, "`predictions` must hold at least 2 texts, to be compared; got 1."),
        (
            {"reference_corpus": ["a"]},
            ValueError,
            "`reference_corpus` must hold at least 2 texts, to be compared; got 1.",
        ),
        (
            {"predictions": [["a"], ["b"]]},
            TypeError,
            "`predictions` must be a list of strings, which the encoder reads; got ['a'].",
        ),
        (
            {"reference_corpus": "a b"},
            TypeError,
            "`reference_corpus` must be a list of strings, which the encoder reads; got 'a b'.",
        ),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, got 0."),
    ],
)
def test_wrong_arguments_of_the_frechet_distance_are_refused(wrong, error, message, encoder, tokenizer, tmp_path):
    right = {"predictions": ["the cat", "a dog"], "reference_corpus": ["a mat", "the dog"]}
    measure = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        measure.compute(encoder=encoder, tokenizer=tokenizer, **(right | wrong))
    assert len(measure) == 0
