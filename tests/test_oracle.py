import re

import numpy as np
import pytest
import torch

from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.evaluation import mean_nll, token_nll
from seqgan_hf.oracle import ORACLE_ARRAYS, as_dataset, load_oracle, make_oracle, oracle_digest
from seqgan_hf.samples import sample_texts

FORMAT = TextFormat(start_token_id=0, eos_token_id=None, pad_token_id=0, max_completion_length=5)


def arrays(vocab_size=11, embedding=3, hidden=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"embedding": (vocab_size, embedding), "Wo": (hidden, vocab_size), "bo": (vocab_size,)}
    for gate in ("i", "f", "og", "c"):
        shapes |= {f"W{gate}": (embedding, hidden), f"U{gate}": (hidden, hidden), f"b{gate}": (hidden,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def nll_by_the_formulas(p, ids):
    """The oracle as the original defines it, row vectors and all, one step at a time in float64."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    hidden = cell = np.zeros(p["Wo"].shape[0])
    previous, nll = 0, []
    for token in ids:
        x = p["embedding"][previous].astype(np.float64)
        i, f, o = (sigmoid(x @ p[f"W{g}"] + hidden @ p[f"U{g}"] + p[f"b{g}"]) for g in ("i", "f", "og"))
        candidate = np.tanh(x @ p["Wc"] + hidden @ p["Uc"] + p["bc"])
        cell = f * cell + i * candidate
        hidden = o * np.tanh(cell)
        logits = hidden @ p["Wo"] + p["bo"]
        nll.append(np.log(np.exp(logits).sum()) - logits[token])
        previous = token
    return nll


def test_a_loaded_oracle_scores_as_its_formulas(tmp_path):
    parameters = arrays()
    np.savez(tmp_path / "oracle.npz", **parameters)
    oracle = load_oracle(tmp_path / "oracle.npz")
    rows = [[3, 0, 10, 7, 7], [1, 2, 3, 4, 5]]
    texts = Completions.collate([{"prompt_ids": [0], "completion_ids": row} for row in rows], 0)
    expected = torch.tensor([nll_by_the_formulas(parameters, row) for row in rows]).float()
    torch.testing.assert_close(token_nll(oracle, texts), expected, atol=1e-5, rtol=1e-5)


def test_an_oracle_file_without_its_arrays_is_refused(tmp_path):
    parameters = arrays()
    del parameters["Uog"], parameters["bo"]
    np.savez(tmp_path / "oracle.npz", **parameters)
    with pytest.raises(ValueError, match="lacks the arrays Uog, bo; it has"):
        load_oracle(tmp_path / "oracle.npz")
    with pytest.raises(ValueError, match="There is no oracle file"):
        load_oracle(tmp_path / "nowhere.npz")
    assert len(ORACLE_ARRAYS) == 15


def test_a_drawn_oracle_is_standard_normal_and_follows_its_seed():
    state = torch.get_rng_state()
    first, again, other = (
        make_oracle(3, vocab_size=400),
        make_oracle(3, vocab_size=400),
        make_oracle(4, vocab_size=400),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert first.lm_head.weight.std().item() == pytest.approx(1, abs=0.03)
    assert first.lstm.bias_hh_l0.abs().max() == 0 and first.lstm.bias_ih_l0.std().item() == pytest.approx(1, abs=0.15)


def test_its_own_samples_score_as_their_entropy_and_follow_the_seed():
    oracle = make_oracle(3, vocab_size=20, embedding_size=4, hidden_size=4)
    samples = sample_texts(oracle, FORMAT, 3000, seed=1, batch_size=700)
    assert samples.completion_ids.shape == (3000, 5)
    again = sample_texts(oracle, FORMAT, 3000, seed=1, batch_size=700)
    assert torch.equal(samples.completion_ids, again.completion_ids)
    logps = oracle(torch.zeros(1, 1, dtype=torch.long)).logits.log_softmax(-1)[0, 0]
    first = token_nll(oracle, samples)[:, 0].mean().item()
    assert first == pytest.approx(-(logps.exp() * logps).sum().item(), abs=0.05)


def test_nll_at_a_temperature_is_that_of_the_colder_distribution():
    oracle = make_oracle(3, vocab_size=20, embedding_size=4, hidden_size=4)
    warm = sample_texts(oracle, FORMAT, 2000, seed=1)
    cold = sample_texts(oracle, FORMAT, 2000, seed=1, temperature=0.5)
    assert mean_nll(oracle, cold) < mean_nll(oracle, warm) - 0.1
    assert mean_nll(oracle, warm, temperature=0.5) > mean_nll(oracle, warm)


def test_samples_become_a_dataset_and_come_back():
    oracle = make_oracle(3, vocab_size=20, embedding_size=4, hidden_size=4)
    samples = sample_texts(oracle, FORMAT, 6, seed=1)
    rows = prepare_dataset(as_dataset(samples), None, FORMAT)
    assert torch.equal(Completions.collate(list(rows), 0).completion_ids, samples.completion_ids)


def test_the_digest_names_the_parameters_alone():
    oracle, same, other = (make_oracle(seed, vocab_size=20) for seed in (3, 3, 4))
    assert oracle_digest(oracle) == oracle_digest(same) == oracle_digest(same.train()) != oracle_digest(other)
    assert re.fullmatch("[0-9a-f]{16}", oracle_digest(oracle))
    with torch.no_grad():
        same.lm_head.bias[7] += 1e-6
    assert oracle_digest(same) != oracle_digest(oracle)
