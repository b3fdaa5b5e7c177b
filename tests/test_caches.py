import pytest
import torch
from transformers import DynamicCache, MistralConfig, StaticCache
from transformers.cache_utils import DynamicLayer

from seqgan_hf.caches import InPlaceLayer, write_in_place

HEADS, DIM = 2, 3


def states(rows, tokens):
    return torch.randn(rows, HEADS, tokens, DIM), torch.randn(rows, HEADS, tokens, DIM)


@pytest.mark.parametrize(
    "index",
    [[0, 1, 2], [0, 1, 2, 2, 0, 1], [0, 2], [2], [0, 0, 1], [2, 1, 0, 2, 2], [0, 1, 2, 0, 0, 0, 0]],
    ids=str,
)
def test_rows_and_tokens_are_those_of_a_layer_that_copies(index):
    ours, theirs = InPlaceLayer(max_rows=7, max_length=6), DynamicLayer()
    rows = torch.tensor(index)
    for layer_step in (states(3, 2), states(3, 1)):
        written = [layer.update(*layer_step) for layer in (ours, theirs)]
        assert all(torch.equal(a, b) for a, b in zip(*written, strict=True))
    for layer in (ours, theirs):
        layer.reorder_cache(rows)
    for layer_step in (states(len(index), 1), states(len(index), 2)):
        written = [layer.update(*layer_step) for layer in (ours, theirs)]
        assert all(torch.equal(a, b) for a, b in zip(*written, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length() == 6


def test_nothing_that_stays_is_copied():
    layer = InPlaceLayer(max_rows=4, max_length=3)
    keys, _ = layer.update(*states(2, 2))
    where = keys.data_ptr()
    layer.reorder_cache(torch.tensor([0, 1, 1, 0]))
    assert layer.update(*states(4, 1))[0].data_ptr() == where


def test_only_the_full_attention_layers_of_an_empty_growing_cache_are_replaced():
    config = MistralConfig(num_hidden_layers=2, sliding_window=4)
    sliding = DynamicCache(config=config)
    kept = list(sliding.layers)
    write_in_place(sliding, 4, 8)
    assert sliding.layers == kept
    config.sliding_window = None
    full = DynamicCache(config=config)
    write_in_place(full, 4, 8)
    assert [type(layer) for layer in full.layers] == [InPlaceLayer] * 2
    used = DynamicCache(config=config)
    used.update(*states(1, 1), 0)
    write_in_place(used, 4, 8)
    assert type(used.layers[0]) is DynamicLayer
    static = StaticCache(config=config, max_cache_len=8)
    write_in_place(static, 4, 8)
    write_in_place(None, 4, 8)
    assert InPlaceLayer not in map(type, static.layers)
