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
@pytest.mark.parametrize("expected_length", [1, 4, 6, 100])
def test_rows_and_tokens_are_those_of_a_layer_that_copies(index, expected_length):
    ours, theirs = InPlaceLayer(expected_length), DynamicLayer()
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


def test_where_there_is_room_only_rows_that_change_are_written():
    layer = InPlaceLayer(expected_length=3)
    layer.update(*states(4, 2))
    written = []
    for rows in ([0, 1, 1, 0], [0, 1, 2], [0, 1, 2, 2]):
        before = [memory.clone() for memory in layer._memory]
        addresses = [memory.data_ptr() for memory in layer._memory]
        for memory in layer._memory:
            memory[3:].fill_(float("nan"))  # what is copied there shows
        layer.reorder_cache(torch.tensor(rows))
        assert [memory.data_ptr() for memory in layer._memory] == addresses
        changed = (layer._memory[0][:, :, :2] != before[0][:, :, :2]).flatten(1).any(dim=1)
        written.append(changed.nonzero().flatten().tolist())
    assert written == [[2, 3], [3], [3]]


def test_room_doubles_up_to_what_is_expected_and_grows_beyond_only_as_needed():
    layer, rooms = InPlaceLayer(expected_length=40), []
    for _ in range(43):
        layer.update(*states(2, 1))
        rooms.append(layer._memory[0].shape[2])
    assert sorted(set(rooms)) == [16, 32, 40, 41, 42, 43]


def test_only_the_full_attention_layers_of_an_empty_growing_cache_are_replaced():
    config = MistralConfig(num_hidden_layers=2, sliding_window=4)
    sliding = DynamicCache(config=config)
    kept = list(sliding.layers)
    write_in_place(sliding, 8)
    assert sliding.layers == kept
    config.sliding_window = None
    full = DynamicCache(config=config)
    write_in_place(full, 8)
    assert [type(layer) for layer in full.layers] == [InPlaceLayer] * 2
    used = DynamicCache(config=config)
    used.update(*states(1, 1), 0)
    write_in_place(used, 8)
    assert type(used.layers[0]) is DynamicLayer
    static = StaticCache(config=config, max_cache_len=8)
    write_in_place(static, 8)
    write_in_place(None, 8)
    assert InPlaceLayer not in map(type, static.layers)
