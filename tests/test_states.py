import pytest
import torch

from seqgan_hf.states import dropout_off, own_randomness


@pytest.mark.parametrize("training", [True, False])
def test_dropout_comes_back_as_it_was_even_after_an_error(training):
    model = torch.nn.Dropout().train(training)
    with pytest.raises(KeyError), dropout_off(model):
        assert not model.training
        raise KeyError
    assert model.training == training


def test_own_randomness_follows_its_seed_and_leaves_the_rest_alone():
    before = torch.get_rng_state()
    draws = []
    for seed in (3, 3, 4):
        with own_randomness(seed, torch.device("cpu")):
            draws.append(torch.rand(2).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.get_rng_state())
