"""Blocks against the simple way: all logits at once, and autograd through them."""

import pytest
import torch

from seqgan_hf import blockwise
from seqgan_hf.blockwise import row_blocks, rows_at_once, token_loss
from seqgan_hf.losses import per_token_entropy, per_token_kl, per_token_logps

TOKENS, HIDDEN, VOCAB = 23, 6, 17


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blockwise, "_CPU_ELEMENTS", 5 * VOCAB)
    monkeypatch.setattr(blockwise, "_CPU_MOST_ELEMENTS", 5 * VOCAB)


def inputs(bias=True, dtype=torch.float32):
    torch.manual_seed(1)
    states, weight, biases = torch.randn(TOKENS, HIDDEN), torch.randn(VOCAB, HIDDEN), torch.randn(VOCAB)
    tensors = [tensor.to(dtype).requires_grad_() for tensor in (states, weight, biases)]
    return tensors[0], tensors[1], tensors[2] if bias else None


def settings(temperature=1.0, with_kl=False):
    generator = torch.Generator().manual_seed(2)
    reference = (
        torch.randn(TOKENS, 4, generator=generator),
        torch.randn(VOCAB, 4, generator=generator),
        torch.randn(VOCAB, generator=generator),
    )
    return {
        "token_ids": torch.randint(0, VOCAB, (TOKENS,), generator=generator),
        "nll_weights": torch.randn(TOKENS, generator=generator),
        "temperature": temperature,
        "with_entropy": True,
        "kl_weights": torch.rand(TOKENS, generator=generator) if with_kl else None,
        "reference": reference if with_kl else None,
    }


def simply(states, weight, bias, token_ids, nll_weights, temperature, with_entropy, kl_weights, reference):
    logits = torch.nn.functional.linear(states, weight, bias)
    logps = per_token_logps(logits, token_ids, temperature)
    loss, kl = -(logps * nll_weights).sum(), torch.zeros(TOKENS)
    if reference is not None:
        kl = per_token_kl(logits, torch.nn.functional.linear(*reference))
        loss = loss + (kl * kl_weights).sum()
    return loss, logps, per_token_entropy(logits, temperature), kl


@pytest.mark.parametrize("with_kl", [False, True], ids=["alone", "with_kl"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_blocks_give_the_loss_the_values_and_the_gradient_of_all_logits_at_once(bias, temperature, with_kl):
    ours, theirs = inputs(bias), inputs(bias)
    loss, values = token_loss(*ours, **settings(temperature, with_kl))
    expected, logps, entropy, kl = simply(*theirs, **settings(temperature, with_kl))
    torch.testing.assert_close(loss, expected)
    for value, simple in zip((values.logps, values.entropy, values.kl), (logps, entropy, kl), strict=True):
        torch.testing.assert_close(value, simple.detach(), atol=1e-5, rtol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    for tensor, simple in zip(ours, theirs, strict=True):
        if tensor is not None:
            torch.testing.assert_close(tensor.grad, simple.grad, atol=1e-5, rtol=1e-5)


def test_only_the_gradients_that_are_needed_are_made():
    states, weight, bias = inputs()
    weight.requires_grad_(False)
    loss, _ = token_loss(states, weight, bias.requires_grad_(False), **settings())
    loss.backward()
    assert states.grad is not None and weight.grad is None and bias.grad is None
    with torch.no_grad():
        loss, _ = token_loss(*inputs(), **settings())
    assert not loss.requires_grad


def test_a_gradient_too_small_for_half_precision_survives_it():
    """Of weights of 1e-9 nothing would be left in float16; a scaled loss brings them back to size."""
    made = []
    for dtype in (torch.float16, torch.float32):
        states, weight, bias = inputs(dtype=dtype)
        job = settings() | {"nll_weights": torch.full((TOKENS,), 1e-9)}
        loss, _ = token_loss(states, weight, bias, **job)
        (loss * 2**24).backward()
        made.append(weight.grad.float())
    # float16 itself rounds at 1e-3.
    torch.testing.assert_close(made[0], made[1], rtol=0.02, atol=1e-3 * made[1].abs().max().item())
    assert made[1].abs().max() > 1e-3


def test_autocast_projects_in_its_type_and_keeps_gradients_in_that_of_the_weights():
    states, weight, bias = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, values = token_loss(states, weight, bias, **settings())
    loss.backward()
    _, logps, *_ = simply(*inputs(), **settings())
    assert values.logps.dtype == weight.grad.dtype == states.grad.dtype == torch.float32
    torch.testing.assert_close(values.logps, logps.detach(), atol=0.1, rtol=0.02)
    assert not torch.equal(values.logps, logps)


def test_no_tokens_give_a_loss_of_zero():
    states, weight, bias = inputs()
    nothing = torch.zeros(0)
    loss, values = token_loss(states[:0], weight, bias, nothing.long(), nothing)
    loss.backward()
    assert loss.item() == 0 and len(values.logps) == 0 and weight.grad.abs().max() == 0


def test_blocks_cover_all_rows_once():
    blocks = list(row_blocks(23, VOCAB, HIDDEN, torch.device("cpu")))
    assert [block.stop - block.start for block in blocks] == [5, 5, 5, 5, 3]
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(23))


def test_a_block_has_a_row_at_least_whatever_the_vocabulary():
    assert rows_at_once(10**12, 4096, torch.device("cpu")) == 1
    assert rows_at_once(10**12, 4096, torch.device("cuda")) == 1


def test_wide_states_are_projected_in_larger_blocks_up_to_a_bound(monkeypatch):
    monkeypatch.undo()
    device = torch.device("cpu")
    assert rows_at_once(5000, 32, device) == 128
    assert rows_at_once(8000, 256, device) == 512
    assert rows_at_once(150_000, 4096, device) == 2**25 // 150_000
