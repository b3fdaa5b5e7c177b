"""What holds for all masks, lengths, places of EOS and ragged prompts, tried on drawn ones."""

import fuzz
import pytest
import torch
from conftest import EOS, GENERATORS, PAD, VOCAB_SIZE
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.losses import (
    completion_predictions,
    mean_weights,
    negative_log_likelihood,
    policy_gradient_weights,
    weighted_token_loss,
)
from seqgan_hf.masking import left_align, mask_after_eos, masked_mean, masked_whiten, positions_from_mask
from seqgan_hf.rewards import advantages_from_rewards

tried = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
IDS = st.lists(st.integers(EOS + 1, VOCAB_SIZE - 1), min_size=1, max_size=6)
TEXTS = st.lists(st.fixed_dictionaries({"prompt_ids": IDS, "completion_ids": IDS}), min_size=1, max_size=5)
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def mask_of(lengths):
    return (torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long()


def wider(batch, before, behind):
    """Pad prompts on the left and completions on the right, by words that masks hide."""
    pad = torch.nn.functional.pad
    return Completions(
        pad(batch.prompt_ids, (before, 0), value=5), pad(batch.prompt_mask, (before, 0)),
        pad(batch.completion_ids, (0, behind), value=7), pad(batch.completion_mask, (0, behind)),
    )  # fmt: skip


# ---- Masks ---------------------------------------------------------------------------------------------------------


@tried
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(0, 4))
def test_a_mask_counts_up_to_the_first_eos(rows, eos):
    expected = [[int(eos not in row[:place]) for place in range(4)] for row in rows]
    assert mask_after_eos(torch.tensor(rows), eos).tolist() == expected


@tried
@given(LENGTHS, st.integers(0, 3), st.integers(0, 9))
def test_means_and_whitening_see_no_padding(lengths, behind, seed):
    mask = mask_of(lengths)
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    more = torch.nn.functional.pad(values, (0, behind), value=1e6), torch.nn.functional.pad(mask, (0, behind))
    torch.testing.assert_close(masked_mean(*more), masked_mean(values, mask))
    torch.testing.assert_close(masked_whiten(*more)[:, : mask.shape[1]], masked_whiten(values, mask))
    assert masked_mean(values, mask).item() == pytest.approx(values[mask.bool()].mean().item(), abs=1e-6)


@tried
@given(LENGTHS)
def test_positions_count_from_the_first_token(lengths):
    mask = mask_of(lengths).flip(1)
    positions = positions_from_mask(mask)
    for row, length in enumerate(lengths):
        assert positions[row][mask[row].bool()].tolist() == list(range(length))


@tried
@given(TEXTS, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_a_row_is_its_prompt_and_its_completion_whatever_stands_around_them(texts, before, behind, include_prompt):
    batch = wider(Completions.collate(texts, PAD), before, behind)
    ids, mask = batch.sequences(include_prompt, PAD)
    for row, text in enumerate(texts):
        expected = [*(text["prompt_ids"] if include_prompt else []), *text["completion_ids"]]
        assert ids[row][mask[row].bool()].tolist() == expected
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)
    assert batch.lengths.tolist() == [len(text["completion_ids"]) for text in texts]
    kept, counts = left_align(batch.completion_ids, batch.completion_mask, PAD)
    assert [row[count.bool()].tolist() for row, count in zip(kept, counts, strict=True)] == [
        text["completion_ids"] for text in texts
    ]


@tried
@given(TEXTS, st.booleans())
def test_each_different_text_stands_once_and_each_text_finds_its_own(texts, include_prompt):
    batch = Completions.collate(texts, PAD)
    distinct, place = batch.distinct(include_prompt, PAD)
    keys = [(tuple(text["prompt_ids"]) * include_prompt, tuple(text["completion_ids"])) for text in texts]
    assert len(distinct) == len(set(keys))
    again = distinct.select(place)
    for row, text in enumerate(texts):
        assert again.completion_ids[row][again.completion_mask[row].bool()].tolist() == text["completion_ids"]


# ---- Padding and order change nothing ------------------------------------------------------------------------------


def loss_and_gradient(model, batch, advantages):
    weights = policy_gradient_weights(advantages, batch.completion_mask, 8) + 0.1 * mean_weights(batch.completion_mask)
    predictions = completion_predictions(model, *batch.tensors())
    loss, _ = weighted_token_loss(predictions, batch.completion_ids, batch.completion_mask, weights, 1.0)
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", ["lstm", "gpt2", "llama"])
def test_padding_further_changes_neither_loss_nor_gradient(name, tiny_model):
    assert name in GENERATORS
    model = tiny_model(name)

    @settings(tried, max_examples=12)
    @given(TEXTS, st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
    def hold(texts, before, behind, seed):
        batch = Completions.collate(texts, PAD)
        advantages = torch.randn(batch.completion_ids.shape, generator=torch.Generator().manual_seed(seed))
        further = torch.nn.functional.pad(advantages, (0, behind), value=3.0)
        loss, gradient = loss_and_gradient(model, batch, advantages)
        padded_loss, padded_gradient = loss_and_gradient(model, wider(batch, before, behind), further)
        torch.testing.assert_close(padded_loss, loss, rtol=1e-5, atol=1e-6)
        for parameter, value in gradient.items():
            torch.testing.assert_close(padded_gradient[parameter], value, rtol=1e-4, atol=1e-6)

    hold()


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_the_likelihood_of_a_text_does_not_depend_on_its_batch(name, tiny_model):
    model = tiny_model(name)

    @settings(tried, max_examples=12)
    @given(TEXTS)
    @torch.no_grad()
    def hold(texts):
        together, counts = negative_log_likelihood(model, Completions.collate(texts, PAD))
        alone = [negative_log_likelihood(model, Completions.collate([text], PAD))[0] for text in texts]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
        assert counts.tolist() == [len(text["completion_ids"]) for text in texts]

    hold()


# ---- Rewards -------------------------------------------------------------------------------------------------------


@tried
@given(st.lists(st.integers(1, 7), min_size=2, max_size=5), st.integers(0, 9))
def test_each_baseline_leaves_what_it_must(lengths, seed):
    mask = mask_of(lengths)
    draw = torch.Generator().manual_seed(seed)
    rewards, prompts = torch.rand(mask.shape, generator=draw) * mask, torch.rand(len(lengths), generator=draw)
    plain = advantages_from_rewards(rewards, mask, "none")
    torch.testing.assert_close(plain, rewards)
    steps = advantages_from_rewards(rewards, mask, "difference", prompt_values=prompts)
    last = rewards.gather(1, (mask.sum(1) - 1).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(steps.sum(1), last - prompts, msg="steps add up to the whole way")
    for name in ("none", "leave_one_out", "difference"):
        advantages = advantages_from_rewards(rewards, mask, name, prompt_values=prompts)
        assert (advantages[mask == 0] == 0).all(), name


# ---- Data ----------------------------------------------------------------------------------------------------------


@tried
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from([2, None]),
)
def test_prepared_rows_are_what_the_generator_could_have_written(rows, longest, eos):
    dataset = Dataset.from_dict({"input_ids": rows}, features=Features({"input_ids": List(Value("int64"))}))
    text_format = TextFormat(1, eos, 0, longest, vocab_size=10)
    expected = []
    for ids in rows:
        ids = ids[1:] if eos is not None and ids[:1] == [1] else ids
        ids = ids[: ids.index(eos)] if eos in ids else ids
        if ids:
            expected.append([*ids, *([] if eos is None else [eos])][:longest])
    if not expected:
        with pytest.raises(ValueError, match="each of them is blank"):
            prepare_dataset(dataset, None, text_format)
        return
    prepared = prepare_dataset(dataset, None, text_format)
    assert prepared["completion_ids"][:] == expected
    assert prepared["prompt_ids"][:] == [[1]] * len(expected)


# ---- Fuzz ----------------------------------------------------------------------------------------------------------


def test_random_settings_and_rows_end_in_success_or_in_a_documented_error(tmp_path):
    ended, wrong = fuzz.fuzz(300, seed=20_000, folder=tmp_path)
    assert wrong == []
    for kind in ("settings", "rows"):
        assert ended[kind, "success"] > 10 and ended[kind, "ValueError"] > 10, ended


def test_the_fuzz_tells_an_error_of_ours_from_any_other():
    def slip():
        return {}["missing"]

    def foreign():
        raise ValueError("an error of three words and more, but of nobody's")

    assert fuzz.try_one(lambda: None) == ("success", None)
    assert [fuzz.try_one(call)[0] for call in (slip, foreign)] == ["undocumented"] * 2
    assert fuzz.try_one(lambda: prepare_dataset([], None, TextFormat(1, 2, 0, 4))) == ("TypeError", None)
