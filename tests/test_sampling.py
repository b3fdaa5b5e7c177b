import pytest
import torch
from scipy.stats import chisquare

from seqgan_hf.blockwise import Projection
from seqgan_hf.sampling import choose_tokens, inverse_cdf_sample


def draws(*shape):
    return torch.rand(shape, dtype=torch.float64)


def test_inverse_cdf_by_hand():
    probabilities = torch.tensor([[0.2, 0.5, 0.3]])
    chosen = torch.tensor([[0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999]], dtype=torch.float64)
    assert inverse_cdf_sample(probabilities, chosen).tolist() == [[0, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 7, 64, 100, 1009, 5000])
def test_two_steps_find_what_one_cumulative_sum_finds(vocab_size):
    probabilities = torch.rand(20, vocab_size).where(torch.rand(20, vocab_size) < 0.6, 0.0)
    probabilities[:, vocab_size // 2] = 0.5
    chosen = draws(20, 30)
    cumulative = probabilities.double().cumsum(dim=1)
    expected = torch.searchsorted(cumulative, chosen * cumulative[:, -1:], right=True)
    found = inverse_cdf_sample(probabilities, chosen)
    # Sums of parts are float32: within their rounding of a border, the neighbour may be taken.
    assert (found == expected).float().mean() > 0.99
    assert (probabilities.gather(1, found) > 0).all()


def test_no_token_of_probability_zero_in_ten_million_draws_from_a_vocabulary_of_150_000():
    vocab_size, rounds, at_once = 150_000, 10_000, 1000
    probabilities = torch.rand(1, vocab_size).where(torch.rand(1, vocab_size) < 0.3, 0.0) ** 8
    probabilities[0, 0] = probabilities[0, -1] = 0.0
    tokens = torch.empty(rounds, at_once, dtype=torch.long)
    largest_below_one = 1 - 2**-53
    for found in tokens:
        chosen = draws(1, at_once)
        chosen[0, :2] = torch.tensor([0.0, largest_below_one], dtype=torch.float64)
        found.copy_(inverse_cdf_sample(probabilities, chosen)[0])
    counts = tokens.flatten().bincount(minlength=vocab_size)
    assert counts.sum() == 10_000_000
    assert counts[probabilities[0] == 0].sum() == 0


def test_rare_tokens_of_a_large_vocabulary_come_as_often_as_they_should():
    """Added up in float32, tokens below 6e-8 behind a likely one would come never or too often."""
    vocab_size, count = 150_000, 500_000
    probabilities = torch.full((1, vocab_size), 2e-8)
    probabilities[0, 0] = 1 - probabilities[0, 1:].sum()
    tokens = torch.cat([inverse_cdf_sample(probabilities, draws(1, 1000))[0] for _ in range(count // 1000)])
    tail = tokens[tokens > 0]
    thirds = (tail * 3 // vocab_size).bincount(minlength=3)
    expected = 2e-8 * (vocab_size - 1) * count
    assert len(tail) == pytest.approx(expected, abs=4 * expected**0.5)
    assert chisquare(thirds.numpy()).pvalue > 1e-3
    assert tail.unique().numel() > 0.95 * len(tail)


def test_draws_follow_the_distribution():
    logits, count = torch.randn(1, 12), 60_000
    tokens = choose_tokens(logits.expand(count, -1), None, draws(count))
    assert (
        chisquare(tokens.bincount(minlength=12).numpy(), count * logits.double().softmax(-1)[0].numpy()).pvalue > 1e-3
    )


def test_a_head_in_blocks_gives_what_all_logits_at_once_give():
    head = torch.nn.Linear(8, 5000)
    states, chosen = torch.randn(700, 8), draws(700)
    with torch.no_grad():
        logits = head(states)
        project = Projection(head.weight, head.bias)
        in_blocks = choose_tokens(states, project, chosen)
        together = inverse_cdf_sample(logits.softmax(dim=-1), chosen.unsqueeze(1)).squeeze(1)
        assert (in_blocks == together).float().mean() > 0.995  # the last bits of a product depend on its size
        assert torch.equal(choose_tokens(states, project, None), logits.argmax(dim=-1))
        assert torch.equal(choose_tokens(logits, None, None), logits.argmax(dim=-1))


def test_logits_are_warped_before_they_are_drawn_from():
    head = torch.nn.Linear(8, 50)

    def only_token_7(rows, logits):
        return logits.masked_fill(torch.arange(50) != 7, -torch.inf)

    with torch.no_grad():
        project = Projection(head.weight, head.bias)
        assert choose_tokens(torch.randn(30, 8), project, draws(30), only_token_7).unique().tolist() == [7]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(bad):
    logits = torch.randn(300, 5000)
    logits[299, 4000] = bad
    with pytest.raises(FloatingPointError, match="The generator's logits are not finite: it diverged"):
        choose_tokens(logits, None, draws(300))
