import torch

from seqgan_hf.masking import left_align, mask_after_eos, masked_mean, masked_whiten, positions_from_mask


def test_mask_after_eos_counts_the_first_eos_and_nothing_behind_it():
    ids = torch.tensor([[5, 2, 7, 2], [2, 2, 2, 2], [5, 6, 7, 8]])
    assert mask_after_eos(ids, 2).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_mask_after_eos_without_eos_counts_everything():
    assert mask_after_eos(torch.tensor([[5, 2, 7]]), None).tolist() == [[1, 1, 1]]


def test_positions_start_at_the_first_token_that_counts():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert positions_from_mask(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_masked_mean_ignores_what_does_not_count():
    assert masked_mean(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1, 1, 0]])).item() == 2
    assert masked_mean(torch.tensor([[5.0]]), torch.tensor([[0]])).item() == 0


def test_masked_whiten_by_hand():
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 100.0]]), torch.tensor([[1, 1], [1, 0]])
    # mean 3, variance 8 / 3
    expected = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]) / (8 / 3) ** 0.5
    torch.testing.assert_close(masked_whiten(values, mask), expected)


def test_masked_whiten_of_equal_values_is_zero():
    assert masked_whiten(torch.full((2, 2), 7.0), torch.ones(2, 2)).abs().max() == 0


def test_left_align_moves_tokens_to_the_front_and_cuts_the_rest():
    ids = torch.tensor([[9, 9, 4, 5, 6, 9], [9, 7, 9, 8, 9, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0]])
    aligned, aligned_mask = left_align(ids, mask, pad_token_id=0)
    assert aligned.tolist() == [[4, 5, 6], [7, 8, 0]]
    assert aligned_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
