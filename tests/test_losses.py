import math

import pytest
import torch
from conftest import GENERATORS

from seqgan_hf.completions import Completions
from seqgan_hf.losses import (
    completion_logits,
    forward_accepts,
    negative_log_likelihood,
    per_token_entropy,
    per_token_kl,
    per_token_logps,
    policy_gradient_loss,
)


def test_logps_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    logps = per_token_logps(logits, torch.tensor([[1, 2]]))
    torch.testing.assert_close(logps, torch.tensor([[math.log(0.25), math.log(0.8)]]))


def test_logps_are_those_of_the_sampled_distribution():
    logits = torch.randn(2, 3, 5)
    ids = torch.randint(0, 5, (2, 3))
    expected = torch.log_softmax(logits / 0.7, dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(per_token_logps(logits, ids, temperature=0.7), expected)


def test_entropy_of_uniform_and_of_certainty():
    assert per_token_entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))
    certain = torch.tensor([[[0.0, -math.inf, -math.inf]]])
    assert per_token_entropy(certain).item() == 0


def test_kl_by_hand_and_zero_of_equals():
    logits = torch.log(torch.tensor([[[0.5, 0.5]]]))
    reference = torch.log(torch.tensor([[[0.9, 0.1]]]))
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert per_token_kl(logits, reference).item() == pytest.approx(expected)
    assert per_token_kl(logits, logits).item() == 0


def test_policy_gradient_by_hand():
    logps = torch.tensor([[-1.0, -2.0, -9.0]], requires_grad=True)
    advantages = torch.tensor([[0.5, -1.0, 7.0]])
    loss = policy_gradient_loss(logps, advantages, torch.tensor([[1, 1, 0]]), max_completion_length=4)
    assert loss.item() == pytest.approx(-(0.5 * -1 + -1 * -2) / 4)
    loss.backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-0.125, 0.25, 0.0]]))


def test_nll_ignores_what_is_not_labelled():
    logits = torch.zeros(2, 3, 4)
    nll, counts = negative_log_likelihood(logits, torch.tensor([[1, 2, -100], [-100, -100, -100]]))
    torch.testing.assert_close(nll, torch.tensor([2 * math.log(4), 0.0]))
    assert counts.tolist() == [2, 0]


@pytest.mark.parametrize("name", GENERATORS)
def test_logits_do_not_depend_on_padding(name, tiny_model):
    """Ragged prompts: GPT-2 without position ids was off by up to 4.5 nats in a well-known trainer."""
    model = tiny_model(name)
    rows = [
        {"prompt_ids": [1], "completion_ids": [5, 6, 7, 2]},
        {"prompt_ids": [1, 8, 9, 10, 11], "completion_ids": [4, 2]},
        {"prompt_ids": [1, 3], "completion_ids": [2]},
    ]
    batch = Completions.collate(rows, pad_token_id=0)
    with torch.no_grad():
        together = completion_logits(model, *batch.tensors())
        for i, row in enumerate(rows):
            alone = completion_logits(model, *Completions.collate([row], 0).tensors())
            torch.testing.assert_close(together[i, : len(row["completion_ids"])], alone[0], atol=1e-4, rtol=1e-4)


def test_logits_to_keep_changes_nothing(tiny_model):
    model = tiny_model("llama")
    batch = Completions.collate([{"prompt_ids": [1, 8, 9], "completion_ids": [4, 5, 2]}], 0)
    assert forward_accepts(model, "logits_to_keep")
    logits = completion_logits(model, *batch.tensors())
    whole = model(torch.tensor([[1, 8, 9, 4, 5, 2]])).logits[:, 2:5]
    torch.testing.assert_close(logits, whole)
