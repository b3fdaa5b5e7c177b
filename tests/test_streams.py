import re

import pytest
import torch
from conftest import PAD
from datasets import Dataset

from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.streams import GameTexts, Replay, generator_and_discriminator_folds, require_one_count

FORMAT = TextFormat(1, 2, PAD, 5)


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


NUMBERS = Dataset.from_dict({"number": list(range(20))})


def folds(discriminator_data, share=0.5, dataset=NUMBERS, seed=3):
    """The numbers of the texts in each fold, first the generator's and then the discriminator's."""
    both = generator_and_discriminator_folds(dataset, discriminator_data, seed, share)
    return [[[row["number"] for row in fold] for fold in folds_of_one] for folds_of_one in both]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("share", "count"), [(0.5, 10), (0.3, 6), (0.25, 5), (0.05, 1)])
def test_a_share_of_the_texts_is_kept_from_the_generator(share, count, streaming):
    """A share of 0.3 is one in three, the nearest."""
    dataset = NUMBERS.to_iterable_dataset() if streaming else NUMBERS
    ((generator,), (discriminator,)) = folds("held_out", share, dataset)
    assert len(discriminator) == count
    assert sorted(generator + discriminator) == list(range(20))
    assert generator == sorted(generator) and discriminator == sorted(discriminator)


def test_halves_are_those_of_earlier_versions():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3)).tolist()
    halves = [sorted(order[0::2]), sorted(order[1::2])]
    assert folds("held_out") == [halves[:1], halves[1:]]
    assert folds("cross_fit", share=0.1) == [halves, halves[::-1]]  # it always halves
    even, odd = list(range(0, 20, 2)), list(range(1, 20, 2))
    assert folds("held_out", dataset=NUMBERS.to_iterable_dataset()) == [[even], [odd]]
    assert folds("same", share=0.1) == [[list(range(20))]] * 2


def test_workers_that_would_each_count_their_own_texts_are_refused():
    """Each began to count at 0, so that the generator was prompted by texts of the discriminator."""
    stream = NUMBERS.select(range(15)).to_iterable_dataset(num_shards=3)
    with pytest.raises(ValueError, match="2 workers would each count those of their own among its 3 shards"):
        require_one_count(stream, "held_out", 2)
    require_one_count(stream, "held_out", 1)
    require_one_count(stream, "cross_fit", 2)
    require_one_count(NUMBERS, "held_out", 2)
    require_one_count(NUMBERS.to_iterable_dataset(), "held_out", 2)


@pytest.mark.parametrize(("num_shards", "num_workers"), [(3, 1), (1, 2)])
def test_one_worker_that_counts_all_texts_reads_the_generators_fold(num_shards, num_workers):
    stream = NUMBERS.select(range(15)).to_iterable_dataset(num_shards=num_shards)
    (generator,), _ = generator_and_discriminator_folds(stream, "held_out", 3)
    read = [row["number"].item() for row in torch.utils.data.DataLoader(generator, num_workers=num_workers)]
    assert sorted(read) == list(range(0, 15, 2))


def test_texts_too_few_to_share_are_refused():
    message = (
        "`discriminator_data='held_out'` parts the texts, one in 25 to the other side, and needs at least 25; got 20. "
        "Add texts to `train_dataset`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        folds("held_out", 0.04)
    with pytest.raises(ValueError, match=re.escape("`discriminator_data='cross_fit'` parts the texts, one in 2 to")):
        folds("cross_fit", dataset=NUMBERS.select([0]))


def with_blanks(count, blanks):
    return Dataset.from_dict({"input_ids": [[] if number in blanks else [number + 3, 2] for number in range(count)]})


def first_tokens(fold):
    return {row["completion_ids"][0] for row in fold}


@pytest.mark.parametrize("streaming", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize(("mode", "share"), [("held_out", 0.5), ("held_out", 0.25), ("cross_fit", 0.5)])
@pytest.mark.parametrize("blanks", [(), (0,), (3, 4, 11)])
def test_folds_are_the_same_before_and_after_blank_rows_are_left_out(blanks, mode, share, streaming):
    """One row fewer, and the prepared texts were parted anew: D read texts that G had learned before the game."""
    raw = with_blanks(20, blanks)
    raw = raw.to_iterable_dataset() if streaming else raw
    prepared = prepare_dataset(raw, None, FORMAT, numbered=True)
    before = generator_and_discriminator_folds(raw, mode, 3, share)
    after = generator_and_discriminator_folds(prepared, mode, 3, share, prepared_from=raw)
    for raw_folds, folds_of_one in zip(before, after, strict=True):
        for raw_fold, fold in zip(raw_folds, folds_of_one, strict=True):
            assert [set(row) for row in fold] == [{"prompt_ids", "completion_ids"}] * len(list(fold))
            assert first_tokens(fold) == first_tokens(prepare_dataset(raw_fold, None, FORMAT))


@pytest.mark.parametrize("streaming", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize("mode", ["same", "held_out", "cross_fit"])
def test_texts_without_blank_rows_are_parted_as_ever(mode, streaming):
    raw = with_blanks(20, ())
    raw = raw.to_iterable_dataset() if streaming else raw
    numbered, plain = (prepare_dataset(raw, None, FORMAT, numbered=numbered) for numbered in (True, False))
    found = GameTexts(numbered, PAD, mode, 0.002, seed=3, prepared_from=raw)
    expected = GameTexts(plain, PAD, mode, 0.002, seed=3)
    assert list(found.prompts) == list(expected.prompts)
    for game_round in (0, 1):
        for take in ("for_generator", "for_discriminator", "held_out"):
            batches = [getattr(texts, take)(game_round, 13) for texts in (found, expected)]
            assert all(torch.equal(a, b) for a, b in zip(*(batch.tensors() for batch in batches), strict=True))


def test_a_part_without_a_text_is_refused():
    raw = with_blanks(2, (0,))
    prepared = prepare_dataset(raw, None, FORMAT, numbered=True)
    with pytest.raises(ValueError, match="needs at least 2; got 1"):
        generator_and_discriminator_folds(prepared, "held_out", 3, 0.5, raw)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).tolist()
    raw = with_blanks(6, order[0::2])
    prepared = prepare_dataset(raw, None, FORMAT, numbered=True)
    message = (
        "`discriminator_data='cross_fit'` parts the texts, and each row of one part is blank. Add texts to "
        "`train_dataset`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generator_and_discriminator_folds(prepared, "cross_fit", 3, 0.5, raw)


def test_a_stream_of_several_files_is_parted_alike_in_every_order():
    """With an odd number of texts in a file, another order of files gave the generator the discriminator's texts."""
    dataset = NUMBERS.select(range(15)).to_iterable_dataset(num_shards=3)
    (generator,), (discriminator,) = generator_and_discriminator_folds(dataset, "held_out", 3)
    for fold in (generator, discriminator):
        numbers = {row["number"] for row in fold}
        for seed in range(4):
            assert {row["number"] for row in fold.shuffle(seed=seed, buffer_size=4)} == numbers
