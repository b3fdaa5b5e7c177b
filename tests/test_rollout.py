"""Lockstep rollouts against the simple way: one `generate` call a position."""

from types import SimpleNamespace

import pytest
import torch
from conftest import BOS, EOS, GENERATORS, PAD, VOCAB_SIZE
from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chi2_contingency
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

from seqgan_hf.completions import Completions
from seqgan_hf.generation import generate_completions, sampling_config, sampling_mode
from seqgan_hf.heads import split_head
from seqgan_hf.rollout import rollout, score_rollouts

LENGTH = 9
RAGGED_PROMPTS = [[BOS], [BOS, 5, 6, 4, 3], [BOS, 4, 3], [BOS, 3, 4, 6]]


def text_format(eos_token_id=EOS, length=LENGTH):
    return SimpleNamespace(
        start_token_id=BOS, eos_token_id=eos_token_id, pad_token_id=PAD, max_completion_length=length
    )


def ragged_completions(eos_token_id=EOS):
    """Completions of 3, 9, 1 and 6 tokens; those below 9 end in EOS."""
    completions = [[4, 5, EOS], [3, 4, 5, 6, 3, 4, 5, 6, 3], [EOS], [6, 5, 4, 3, 6, EOS]]
    rows = [{"prompt_ids": p, "completion_ids": c} for p, c in zip(RAGGED_PROMPTS, completions, strict=True)]
    return Completions.collate(rows, PAD)


def encourage_eos(model):
    """Let EOS take the place of a token the model likes, so that greedy decoding ends at different times."""
    config = sampling_config(text_format(None), do_sample=False)
    (chunk,) = rollout(model, ragged_completions(), config, 1, from_prompt=True)
    counts = chunk.completions.completion_ids.flatten().bincount(minlength=VOCAB_SIZE)
    liked = int(counts[7:].argmax()) + 7  # those from 7 on stand in no forced prefix
    head = model.get_output_embeddings()
    for parameter in head.parameters():
        swapped = parameter.detach().clone()
        swapped[[EOS, liked]] = swapped[[liked, EOS]]
        head.register_parameter("bias" if parameter.ndim == 1 else "weight", torch.nn.Parameter(swapped))
    return model


def finish_naively(model, completions, row, prefix_length, config):
    """What one `generate` call of transformers makes of one prefix, alone in its batch and without padding."""
    prompt = completions.prompt_ids[row][completions.prompt_mask[row].bool()]
    prefix = completions.completion_ids[row, :prefix_length]
    ids = torch.cat([prompt, prefix]).unsqueeze(0)
    config.max_new_tokens = LENGTH - prefix_length
    with sampling_mode(model):
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    completion = out[0, len(prompt) :]
    return torch.nn.functional.pad(completion, (0, LENGTH - len(completion)), value=PAD)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("eos", ["with_eos", "without_eos"])
def test_lockstep_equals_naive_generate_under_greedy_decoding(name, eos, tiny_model):
    model = encourage_eos(tiny_model(name))
    eos_token_id = EOS if eos == "with_eos" else None
    completions = ragged_completions()
    config = sampling_config(text_format(eos_token_id), do_sample=False)
    seen, early_ends = set(), 0
    for chunk in rollout(model, completions, config, num_rollouts=2):
        for i in range(len(chunk.row)):
            row, prefix_length = int(chunk.row[i]), int(chunk.prefix_length[i])
            naive_config = sampling_config(text_format(eos_token_id), do_sample=False)
            expected = finish_naively(model, completions, row, prefix_length, naive_config)
            assert torch.equal(chunk.completions.completion_ids[i], expected), (row, prefix_length)
            seen.add((row, prefix_length, int(chunk.rollout[i])))
            early_ends += int(chunk.completions.lengths[i] < LENGTH)
    lengths = [3, 9, 1, 6]
    assert seen == {(r, p, n) for r, length in enumerate(lengths) for p in range(1, length) for n in range(2)}
    assert (early_ends > 0) == (eos_token_id is not None)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 7])
def test_chunked_rollouts_equal_unchunked(do_sample, batch_size, tiny_model):
    model = tiny_model("llama")
    config = sampling_config(text_format(), do_sample=do_sample)

    def finished(size):
        torch.manual_seed(3)
        chunks = list(rollout(model, ragged_completions(), config, 3, batch_size=size, from_prompt=True))
        return torch.cat([chunk.completions.completion_ids for chunk in chunks]), len(chunks)

    whole, one = finished(None)
    parts, many = finished(batch_size)
    assert one == 1 and many == -(-len(whole) // batch_size)
    assert torch.equal(whole, parts)


def test_unchunked_rollouts_take_one_forward_a_position(tiny_model):
    model = tiny_model("gpt2")
    split_head(model)  # takes a forward pass of its own, once
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    list(rollout(model, ragged_completions(), sampling_config(text_format(None)), 4, from_prompt=True))
    assert len(calls) == LENGTH


def test_stride_rolls_out_every_kth_prefix_and_shares_its_scores(tiny_model):
    completions = ragged_completions()
    config = sampling_config(text_format())
    prefixes = {
        (int(r), int(p))
        for chunk in rollout(tiny_model("lstm"), completions, config, 1, stride=4)
        for r, p in zip(chunk.row, chunk.prefix_length, strict=True)
    }
    assert prefixes == {(1, 4), (1, 8), (3, 4)}
    calls = iter(range(1, 100))
    # Each call scores with its own number: the whole completions get 1, the only chunk of rollouts 2.
    scores, prompt_scores = score_rollouts(
        tiny_model("lstm"), completions, lambda texts: torch.full((len(texts),), next(calls)), config, 1, stride=4
    )
    expected = [[1, 1, 1] + [0] * 6, [2] * 8 + [1], [1] + [0] * 8, [2, 2, 2, 2, 1, 1, 0, 0, 0]]
    assert scores[0].tolist() == expected
    assert prompt_scores.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("from_prompt", [False, True])
def test_a_stride_above_every_length_leaves_the_whole_completions(from_prompt, tiny_model):
    completions = ragged_completions()
    scores, prompt_scores = score_rollouts(
        tiny_model("lstm"), completions, lambda texts: torch.full((len(texts),), len(texts)),
        sampling_config(text_format()), 3, stride=20, from_prompt=from_prompt,
    )  # fmt: skip
    assert torch.equal(scores, 4.0 * completions.completion_mask.expand(3, -1, -1))
    assert torch.equal(prompt_scores, torch.full((3, 4), 12.0 * from_prompt))


def test_a_model_whose_state_cannot_be_forked_is_refused():
    config = RecurrentGemmaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        lru_width=16, attention_window_size=8, block_types=["recurrent", "attention"], pad_token_id=PAD,
        bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    prompts = torch.tensor([[BOS]] * 2)
    with pytest.raises(ValueError, match="RecurrentGemmaForCausalLM does not keep its state in a cache that can be"):
        generate_completions(
            RecurrentGemmaForCausalLM(config), prompts, torch.ones_like(prompts), sampling_config(text_format())
        )


def test_scores_belong_to_the_prefix_they_were_forked_from(tiny_model):
    """Regression test for a bug seen in a public implementation, whose reshape mixed the samples of a batch."""
    completions = ragged_completions()

    def score(texts):  # the first token, which a rollout shares with its prefix
        return texts.completion_ids[:, 0]

    scores, _ = score_rollouts(tiny_model("lstm"), completions, score, sampling_config(text_format()), 3, batch_size=4)
    expected = completions.completion_ids[:, :1] * completions.completion_mask
    assert torch.equal(scores, expected.expand(3, -1, -1).float())


def test_one_token_completions_need_no_rollout(tiny_model):
    rows = [{"prompt_ids": [BOS], "completion_ids": [EOS]}] * 2
    scores, _ = score_rollouts(
        tiny_model("gpt2"),
        Completions.collate(rows, PAD),
        lambda t: torch.ones(len(t)),
        sampling_config(text_format()),
        4,
    )
    assert scores.shape == (4, 2, 1) and bool((scores == 1).all())


@pytest.mark.parametrize("name", ["gpt2", "lstm"])
def test_sampled_tokens_are_distributed_as_naive_sampling(name, tiny_model):
    model = tiny_model(name)
    prompt = torch.tensor([[BOS, 4]])
    completions = Completions(prompt, torch.ones_like(prompt), torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4).long())
    draws = 3000
    config = sampling_config(text_format(length=4), temperature=1.5)
    (chunk,) = rollout(model, completions, config, draws)
    after_first = chunk.completions.completion_ids[chunk.prefix_length == 1][:, 1:]
    prefix = torch.tensor([[BOS, 4, 5]]).expand(draws, -1)
    naive_config = sampling_config(text_format(length=3), temperature=1.5)
    with sampling_mode(model):
        naive = model.generate(prefix, attention_mask=torch.ones_like(prefix), generation_config=naive_config)[:, 3:]
    for position in range(3):
        counts = torch.stack(
            [torch.bincount(ids[:, position], minlength=VOCAB_SIZE) for ids in (after_first, naive)]
        ).numpy()
        counts = counts[:, counts.sum(axis=0) >= 10]
        assert counts.shape[1] > 3
        assert chi2_contingency(counts).pvalue > 0.01, f"position {position}"


@pytest.mark.parametrize("name", GENERATORS)
def test_completions_equal_naive_generate_under_greedy_decoding(name, tiny_model):
    model = encourage_eos(tiny_model(name))
    prompts = Completions.collate([{"prompt_ids": p, "completion_ids": [EOS]} for p in RAGGED_PROMPTS], PAD)
    config = sampling_config(text_format(), do_sample=False)
    completions = generate_completions(model, prompts.prompt_ids, prompts.prompt_mask, config, num_generations=2)
    assert completions.completion_ids.shape == (8, LENGTH)
    for i in range(8):
        naive_config = sampling_config(text_format(), do_sample=False)
        expected = finish_naively(model, prompts, i // 2, 0, naive_config)
        assert torch.equal(completions.completion_ids[i], expected)


def test_rollouts_leave_the_model_as_it_was(tiny_model):
    model = tiny_model("gpt2").train()
    model.generation_config.repetition_penalty = 2.0
    list(rollout(model, ragged_completions(), sampling_config(text_format()), 1))
    assert model.training and model.generation_config.repetition_penalty == 2.0


def test_the_models_own_generation_settings_do_not_warp_the_policy(tiny_model):
    """`generate` fills unset fields from the model's generation_config; the policy must stay the model's own."""
    model = tiny_model("gpt2")
    config = sampling_config(text_format())
    torch.manual_seed(5)
    plain = generate_completions(model, torch.tensor([[BOS]] * 4), torch.ones(4, 1).long(), config)
    model.generation_config.update(suppress_tokens=[4, 5, 6, 7], min_new_tokens=9, repetition_penalty=3.0, top_k=1)
    torch.manual_seed(5)
    again = generate_completions(model, torch.tensor([[BOS]] * 4), torch.ones(4, 1).long(), config)
    assert torch.equal(plain.completion_ids, again.completion_ids)


@pytest.mark.parametrize("peft_config", [PromptTuningConfig, PromptEncoderConfig], ids=["prompt_tuning", "p_tuning"])
def test_virtual_tokens_find_room_in_the_cache(peft_config, tiny_model):
    """They are tokens that the length of prompt and completion does not count."""
    torch.manual_seed(1)
    model = get_peft_model(tiny_model("llama"), peft_config(task_type="CAUSAL_LM", num_virtual_tokens=6)).eval()
    config = sampling_config(text_format(None, length=12), do_sample=False)
    prompt = torch.tensor([[BOS, 5, 7]])
    written = generate_completions(model, prompt, torch.ones_like(prompt), config).completion_ids
    ids = prompt
    for _ in range(12):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert written.tolist() == ids[:, 3:].tolist()
