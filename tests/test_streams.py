import torch
from conftest import PAD

from seqgan_hf.completions import Completions
from seqgan_hf.streams import Replay


def texts(*completions, prompt=(1,)):
    return Completions.collate([{"prompt_ids": prompt, "completion_ids": ids} for ids in completions], PAD)


def rows(batch):
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]


def test_batches_below_each_other_are_padded_as_one():
    both = Completions.concatenate([texts([4, 5, 6]), texts([7], [8, 9], prompt=(1, 2, 3))], PAD)
    expected = Completions.collate(
        [
            {"prompt_ids": [1], "completion_ids": [4, 5, 6]},
            {"prompt_ids": [1, 2, 3], "completion_ids": [7]},
            {"prompt_ids": [1, 2, 3], "completion_ids": [8, 9]},
        ],
        PAD,
    )
    assert all(torch.equal(a, b) for a, b in zip(both.tensors(), expected.tensors(), strict=True))


def test_kept_texts_take_the_place_of_a_share_of_the_fresh_ones():
    replay = Replay(capacity=10, pad_token_id=PAD)
    fresh = texts([4], [5], [6], [7])
    assert replay.mix(fresh, 0.5) is fresh
    replay.add(texts([14, 14], [15], [16]))
    mixed = rows(replay.mix(fresh, 0.5))
    assert mixed[:2] == [[6], [7]]
    assert len(mixed) == 4 and all(row in ([14, 14], [15], [16]) for row in mixed[2:]) and mixed[2] != mixed[3]


def test_the_oldest_texts_leave():
    replay = Replay(capacity=3, pad_token_id=PAD)
    for first in (4, 6, 8):
        replay.add(texts([first], [first + 1]))
    assert rows(replay.texts) == [[7], [8], [9]]


def test_replay_goes_on_from_its_state():
    replay, other = Replay(3, PAD), Replay(3, PAD)
    assert replay.state_dict() == {}
    other.load_state_dict({})
    assert other.texts is None
    replay.add(texts([4, 5], [6]))
    other.load_state_dict(replay.state_dict())
    assert rows(other.texts) == [[4, 5], [6]]
