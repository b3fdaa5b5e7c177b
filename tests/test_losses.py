import math

import pytest
import torch
from conftest import GENERATORS

from seqgan_hf.completions import Completions
from seqgan_hf.losses import (
    completion_logits,
    completion_predictions,
    forward_accepts,
    mean_negative_log_likelihood,
    mean_weights,
    negative_log_likelihood,
    per_token_entropy,
    per_token_kl,
    per_token_logps,
    policy_gradient_weights,
    token_logps,
    weighted_token_loss,
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
    advantages = torch.tensor([[0.5, -1.0, 7.0], [2.0, 1.0, 1.0]])
    weights = policy_gradient_weights(advantages, torch.tensor([[1, 1, 0], [1, 0, 0]]), max_completion_length=4)
    torch.testing.assert_close(weights, torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.0, 0.0]]) / 8)


def test_a_mean_over_tokens_by_hand():
    weights = mean_weights(torch.tensor([[1, 1, 0], [1, 0, 0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]) / 3)
    assert mean_weights(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


RAGGED = [
    {"prompt_ids": [1], "completion_ids": [5, 6, 7, 2]},
    {"prompt_ids": [1, 8, 9, 10, 11], "completion_ids": [4, 2]},
    {"prompt_ids": [1, 3], "completion_ids": [2]},
]


def objective(model, head_is_split, monkeypatch):
    """A loss with everything in it, and its gradient by every parameter."""
    if not head_is_split:
        monkeypatch.setattr("seqgan_hf.losses.split_head", lambda model: None)
    batch = Completions.collate(RAGGED, pad_token_id=0)
    predictions = completion_predictions(model, *batch.tensors())
    assert (predictions.head is not None) == head_is_split
    with torch.no_grad():
        reference = completion_predictions(model, *batch.tensors())
        reference.states = reference.states * 0.5
    mask = batch.completion_mask
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(mask.shape, generator=generator)
    loss, values = weighted_token_loss(
        predictions, batch.completion_ids, mask, weights, 0.8, True, 0.1 * mean_weights(mask), reference
    )
    loss.backward()
    assert not any(value[mask == 0].any() for value in (values.logps, values.entropy, values.kl))
    return loss.detach(), values, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_split_head_gives_the_loss_and_the_gradient_of_the_whole_model(name, tiny_model, monkeypatch):
    split = objective(tiny_model(name), True, monkeypatch)
    whole = objective(tiny_model(name), False, monkeypatch)
    if tiny_model(name).get_output_embeddings().bias is None:  # halved states are halved logits
        torch.testing.assert_close(split[0], whole[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(split[1].kl, whole[1].kl, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(split[2], whole[2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split[1].logps, whole[1].logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split[1].entropy, whole[1].entropy, rtol=1e-5, atol=1e-5)


def test_nll_counts_the_tokens_of_completions_alone(tiny_model):
    model = tiny_model("llama")
    nll, counts = negative_log_likelihood(model, Completions.collate(RAGGED, pad_token_id=0))
    assert counts.tolist() == [4, 2, 1]
    logits = model(torch.tensor([[1, 8, 9, 10, 11, 4, 2]])).logits.log_softmax(-1)
    assert nll[1].item() == pytest.approx(-(logits[0, 4, 4] + logits[0, 5, 2]).item(), rel=1e-4)
    mean = mean_negative_log_likelihood(model, Completions.collate(RAGGED, pad_token_id=0))
    assert mean.item() == pytest.approx((nll.sum() / counts.sum()).item(), rel=1e-5)


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


@pytest.mark.parametrize("head_is_split", [True, False], ids=["split", "whole"])
def test_logps_at_several_temperatures_come_from_one_forward_pass(head_is_split, tiny_model, monkeypatch):
    model, temperatures = tiny_model("llama"), (0.5, 1.0, 2.0)
    if not head_is_split:
        monkeypatch.setattr("seqgan_hf.losses.split_head", lambda model: None)
    batch = Completions.collate(RAGGED, pad_token_id=0)
    with torch.no_grad():
        logits = completion_logits(model, *batch.tensors())
        predictions = completion_predictions(model, *batch.tensors())
    logps = token_logps(predictions, batch.completion_ids, batch.completion_mask, temperatures)
    assert logps.shape == (3, 3, 4)
    for temperature, found in zip(temperatures, logps, strict=True):
        expected = per_token_logps(logits, batch.completion_ids, temperature) * batch.completion_mask
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
