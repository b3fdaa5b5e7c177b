import math
import re

import pytest
import torch
from conftest import GENERATORS, PAD

from seqgan_hf.completions import Completions
from seqgan_hf.losses import (
    completion_logits,
    completion_predictions,
    forward_accepts,
    generator_view,
    mean_negative_log_likelihood,
    mean_weights,
    negative_log_likelihood,
    per_token_entropy,
    per_token_kl,
    per_token_logps,
    policy_gradient_weights,
    reader_of,
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


@pytest.mark.parametrize("name", ["gpt2", "llama", "lstm"])
def test_a_compiled_model_reads_padded_prompts_as_it_does_itself(name, tiny_model):
    """`forward` of a compiled model takes `*args, **kwargs`: without position ids, padding moved GPT-2's positions."""
    model, batch = tiny_model(name), Completions.collate(RAGGED, pad_token_id=0)
    compiled = torch.compile(model, backend="eager")
    for argument in ("position_ids", "logits_to_keep", "no_such_argument"):
        assert forward_accepts(compiled, argument) == forward_accepts(model, argument)
    with torch.no_grad():
        logits, expected = (completion_logits(network, *batch.tensors()) for network in (compiled, model))
    torch.testing.assert_close(logits[batch.completion_mask.bool()], expected[batch.completion_mask.bool()])


def test_a_wrapper_in_a_wrapper_is_looked_through(tiny_model):
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    adapted = peft.get_peft_model(tiny_model("llama"), adapter)
    for model in (tiny_model("llama"), adapted):
        parallel = torch.nn.Module()  # as DistributedDataParallel holds it
        parallel.module = torch.compile(model, backend="eager")
        for wrapped in (model, parallel, torch.compile(parallel, backend="eager")):
            assert forward_accepts(wrapped, "position_ids") and not forward_accepts(wrapped, "no_such_argument")


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


def seen_alone(model, row):
    """Log-probabilities that a model gives the tokens of one completion, read without padding."""
    prompt, completion = row["prompt_ids"], torch.tensor(row["completion_ids"])
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(-1, completion.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("include_prompt", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "lstm"])
def test_a_generators_view_lies_where_the_discriminator_reads_the_tokens(name, include_prompt, tiny_model):
    model, wanted = tiny_model(name), ("generator_logps", "generator_states")
    # Without the first row, the others have padding that none of them needs.
    for rows, texts in (
        (RAGGED, Completions.collate(RAGGED, PAD)),
        (RAGGED[2:], Completions.collate(RAGGED, PAD).select(slice(2, None))),
    ):
        view = generator_view(model, texts, include_prompt, wanted, batch_size=2)
        ids, mask = texts.sequences(include_prompt, PAD)
        head = model.get_output_embeddings()
        assert list(view) == ["generator_logps", "generator_states", "generator_mask"]
        assert view["generator_logps"].shape == view["generator_mask"].shape == ids.shape
        assert view["generator_states"].shape == (*ids.shape, head.in_features)
        for index, row in enumerate(rows):
            first = len(row["prompt_ids"]) if include_prompt else 0
            written = slice(first, first + len(row["completion_ids"]))
            assert ids[index, written].tolist() == row["completion_ids"]
            expected = torch.zeros(ids.shape[1])
            expected[written] = seen_alone(model, row)
            torch.testing.assert_close(view["generator_logps"][index], expected, rtol=1e-4, atol=1e-5)
            is_written = torch.zeros_like(mask[index])
            is_written[written] = 1
            assert view["generator_mask"][index].equal(is_written)
            with torch.no_grad():
                logps = head(view["generator_states"][index, written]).log_softmax(-1)
            found = logps.gather(-1, ids[index, written].unsqueeze(-1)).squeeze(-1)
            torch.testing.assert_close(found, expected[written], rtol=1e-4, atol=1e-5)


def test_what_is_not_wanted_is_not_kept(tiny_model):
    view = generator_view(tiny_model("lstm"), Completions.collate(RAGGED, PAD), False, ("generator_logps",))
    assert set(view) == {"generator_logps", "generator_mask"}


def test_states_of_a_model_without_a_plain_head_are_refused_and_its_view_is_not(tiny_model):
    plain, whole = tiny_model("gpt2"), tiny_model("gpt2")
    whole.lm_head.register_forward_hook(lambda module, args, output: output)
    texts = Completions.collate(RAGGED, PAD)
    expected = generator_view(plain, texts, True, ("generator_logps",))["generator_logps"]
    found = generator_view(whole, texts, True, ("generator_logps",))["generator_logps"]
    torch.testing.assert_close(found, expected)
    message = (
        "This discriminator reads the generator's hidden states, and this generator has no plain output layer to read "
        "them before. Set `generator_hidden_size` to 0."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generator_view(whole, texts, True, ("generator_logps", "generator_states"))


def test_a_view_is_the_live_generators_without_dropout_and_without_a_gradient(tiny_model):
    model, texts = tiny_model("gpt2").train(), Completions.collate(RAGGED, PAD)
    model.transformer.drop.eval()
    reader = reader_of(model, include_prompt=True)

    def read():
        return reader(texts, ("generator_logps",), ())["generator_logps"]

    first, again = read(), read()
    assert torch.equal(first, again) and not first.requires_grad
    assert model.training and model.transformer.h[0].training and not model.transformer.drop.training
    with torch.no_grad():
        model.transformer.wte.weight.mul_(0.5)
    assert not torch.allclose(read(), first)


@pytest.mark.parametrize("include_prompt", [False, True])
def test_language_models_read_the_same_texts_and_the_temperature_is_the_generators(include_prompt, tiny_model):
    model, readers = tiny_model("lstm"), [tiny_model("gpt2"), tiny_model("llama")]
    texts = Completions.collate(RAGGED, PAD)
    view = reader_of(model, include_prompt, temperature=0.5)(texts, ("generator_logps",), readers)
    assert view["language_logps"].shape == view["generator_logps"].shape
    for index, row in enumerate(RAGGED):
        prompt, completion = row["prompt_ids"], torch.tensor(row["completion_ids"])
        first = len(prompt) if include_prompt else 0
        written = slice(first, first + len(completion))
        expected = torch.stack([seen_alone(reader, row).exp() for reader in readers]).mean(dim=0).log()
        torch.testing.assert_close(view["language_logps"][index, written], expected, rtol=1e-4, atol=1e-5)
        assert view["language_logps"][index].count_nonzero() == len(completion)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        colder = per_token_logps(logits, completion, temperature=0.5)
        torch.testing.assert_close(view["generator_logps"][index, written], colder, rtol=1e-4, atol=1e-5)
