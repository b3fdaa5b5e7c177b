import torch

from seqgan_hf.generation import choose_tokens, inverse_cdf_sample


def test_inverse_cdf_by_hand():
    scores = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(6, -1)
    draws = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999])
    assert inverse_cdf_sample(scores, draws).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_token_of_probability_zero_is_never_drawn():
    scores = torch.full((1, 150_000), -torch.inf)
    scores[0, [7, 70_000, 149_000]] = 0.0
    draws = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.rand(50)])
    tokens = torch.cat([inverse_cdf_sample(scores, draw.view(1)) for draw in draws])
    assert set(tokens.tolist()) == {7, 70_000, 149_000}


def test_draws_follow_the_distribution():
    logits = torch.randn(1, 12)
    count = 60_000
    tokens = choose_tokens(logits.expand(count, -1), torch.arange(count), torch.rand(count))
    frequency = tokens.bincount(minlength=12) / count
    torch.testing.assert_close(frequency, logits.softmax(-1)[0], atol=0.01, rtol=0)


def test_blocks_of_rows_give_what_one_block_gives():
    scores, rows, draws = torch.randn(300, 5000), torch.randperm(300)[:200], torch.rand(200)
    assert torch.equal(choose_tokens(scores, rows, draws), inverse_cdf_sample(scores[rows], draws))


def test_without_draws_the_likeliest_is_taken():
    scores = torch.randn(4, 9)
    assert choose_tokens(scores, torch.tensor([2, 0]), None).tolist() == scores.argmax(-1)[[2, 0]].tolist()
