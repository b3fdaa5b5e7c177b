"""Random numbers are a function of their names, on every device and in every company."""

import torch

from seqgan_hf.randomness import derived_keys, named_key, new_keys, uniform_draws


def test_keys_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as published with the generator: https://prng.di.unimi.it/splitmix64.c."""
    derived = derived_keys(1234567, torch.arange(3))
    assert [key % 2**64 for key in derived.tolist()] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_depend_on_key_and_place_alone():
    keys = new_keys(50, torch.device("cpu"))
    assert torch.equal(uniform_draws(keys, 4)[[7, 3]], uniform_draws(keys[[7, 3]], 4))
    assert len({*uniform_draws(keys, 0).tolist(), *uniform_draws(keys, 1).tolist()}) == 100


def test_draws_are_uniform_and_those_of_neighbours_independent():
    """A mean of 100,000 is off by 0.005 once in 10^7 times; so is a correlation by 0.02."""
    keys = derived_keys(named_key(42, 0, 0), torch.arange(100_000))
    draws = torch.stack([uniform_draws(keys, place) for place in range(4)])
    assert 0 <= draws.min() and draws.max() < 1
    for power in (1, 2, 3):
        assert abs((draws**power).mean() - 1 / (power + 1)) < 0.005
    following = torch.cat([draws[:, :-1], draws[:, 1:]])
    assert (following.corrcoef() - torch.eye(8)).abs().max() < 0.02


def test_keys_of_other_names_are_others():
    names = [(1, 2), (2, 1), (1, 2, 0), (1,), (0, 1, 2)]
    assert len({named_key(*some) for some in names}) == len(names)


def test_new_keys_follow_torch_s_seed():
    torch.manual_seed(3)
    keys = new_keys(4, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(new_keys(4, torch.device("cpu")), keys) and len(set(keys.tolist())) == 4
