import inspect
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from seqgan_hf.models import LSTMConfig, LSTMForCausalLM
from seqgan_hf.models import lstm as lstm_module
from seqgan_hf.models.lstm import LSTMCache

VOCAB_SIZE, PAD, EOS = 13, 0, 8
PROMPTS = [[5, 7], [3, 9, 2, 11], [4]]  # ragged
MASKS = {
    "left": [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]],
    "right": [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]],
    "both sides": [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]],
    "holes": [[1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0]],
}


@pytest.fixture
def model() -> LSTMForCausalLM:
    """Two layers, with weights and a seed that make greedy completions differ from prompt to prompt."""
    torch.manual_seed(7)
    config = LSTMConfig(
        vocab_size=VOCAB_SIZE, embedding_size=6, hidden_size=8, num_hidden_layers=2, initializer_range=2.0
    )
    return LSTMForCausalLM(config).eval()


def pad_prompts(mask_rows: list[list[int]], filler: int = PAD) -> tuple[torch.Tensor, torch.Tensor]:
    """PROMPTS written where the mask is 1: `(3, length)` ids and mask."""
    mask = torch.tensor(mask_rows)
    ids = torch.full_like(mask, filler)
    for row, prompt in enumerate(PROMPTS):
        ids[row, mask[row] == 1] = torch.tensor(prompt)
    return ids, mask


def greedy_by_re_encoding(model: LSTMForCausalLM, prompt: list[int], num_tokens: int, eos: int | None = None):
    """The reference: one row, no padding, no cache, no `generate`."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return ids[len(prompt) :]


def test_default_config_is_the_generator_of_the_paper():
    config = LSTMConfig()
    assert (config.vocab_size, config.embedding_size, config.hidden_size) == (5000, 32, 32)
    assert (config.num_hidden_layers, config.dropout, config.initializer_range) == (1, 0.0, 0.1)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    assert config.tie_word_embeddings is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0}, "`vocab_size` must be at least 1, got 0."),
        ({"hidden_size": 0}, "`hidden_size` must be at least 1, got 0."),
        ({"embedding_size": -1}, "`embedding_size` must be at least 1, got -1."),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1, got 0."),
        ({"dropout": 1.0}, "`dropout` must lie in [0, 1), got 1.0."),
        ({"dropout": -0.1}, "`dropout` must lie in [0, 1), got -0.1."),
        (
            {"tie_word_embeddings": True},
            "`tie_word_embeddings` must be False: the output head of LSTMForCausalLM is never tied.",
        ),
    ],
)
def test_config_rejects_bad_values(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LSTMConfig(**arguments)


def test_every_weight_and_bias_starts_normal_with_the_configured_std():
    torch.manual_seed(0)
    model = LSTMForCausalLM(LSTMConfig(vocab_size=400, hidden_size=100, num_hidden_layers=2, initializer_range=0.3))
    assert len(list(model.parameters())) == 11
    for name, parameter in model.named_parameters():
        assert parameter.std().item() == pytest.approx(0.3, rel=0.15), name
        assert abs(parameter.mean().item()) < 0.06, name
        assert parameter.abs().max().item() > 0.6, f"{name} is not normal"


def test_one_layer_with_dropout_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LSTMForCausalLM(LSTMConfig(vocab_size=5, dropout=0.5))


def test_dropout_acts_on_the_output_of_a_single_layer():
    torch.manual_seed(0)
    model = LSTMForCausalLM(LSTMConfig(vocab_size=5, dropout=0.5))
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    torch.testing.assert_close(model.eval()(ids).logits, model(ids).logits)


def test_auto_classes_build_it_from_a_config():
    config = AutoConfig.for_model("seqgan_lstm", vocab_size=7)
    assert type(config) is LSTMConfig
    assert type(AutoModelForCausalLM.from_config(config)) is LSTMForCausalLM


def test_forward_takes_no_position_ids():
    assert "position_ids" not in inspect.signature(LSTMForCausalLM.forward).parameters


def test_logits_are_those_of_an_lstm_from_a_zero_state(model):
    ids = torch.tensor([[5, 7, 3], [2, 2, 4]])
    outputs, _ = model.lstm(model.embeddings(ids))
    torch.testing.assert_close(model(ids).logits, model.lm_head(outputs))


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("mask_rows", [None, [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]])
def test_cached_log_probabilities_equal_uncached(model, chunks, mask_rows):
    ids = torch.tensor([[5, 7, 3, 2, 9], [2, 2, 4, 8, 1]])
    mask = None if mask_rows is None else torch.tensor(mask_rows)
    whole = model(ids, attention_mask=mask).logits.log_softmax(-1)
    cache, position, parts = None, 0, []
    for length in chunks:
        end = position + length
        output = model(
            ids[:, position:end],
            attention_mask=None if mask is None else mask[:, :end],
            past_key_values=cache,
            use_cache=True,
        )
        cache, position = output.past_key_values, end
        assert cache.get_seq_length() == end
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1).log_softmax(-1), whole)


@pytest.mark.parametrize("mask_rows", MASKS.values(), ids=MASKS.keys())
def test_padded_rows_equal_unpadded_ones(model, mask_rows):
    ids, mask = pad_prompts(mask_rows)
    padded = model(ids, attention_mask=mask)
    for row, prompt in enumerate(PROMPTS):
        alone = model(torch.tensor([prompt]))
        torch.testing.assert_close(padded.logits[row, mask[row] == 1], alone.logits[0])
        torch.testing.assert_close(padded.past_key_values.layers[0].keys[row], alone.past_key_values.layers[0].keys[0])
        torch.testing.assert_close(
            padded.past_key_values.layers[0].values[row], alone.past_key_values.layers[0].values[0]
        )
        # Also where the last column is padding: generate() reads that one.
        torch.testing.assert_close(padded.logits[row, -1], alone.logits[0, -1])


@pytest.mark.parametrize("mask_rows", MASKS.values(), ids=MASKS.keys())
def test_tokens_under_the_mask_are_never_read(model, mask_rows):
    outputs = [model(*pad_prompts(mask_rows, filler)) for filler in (PAD, 12)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.isfinite(outputs[0].logits).all()


def test_a_chunk_of_padding_keeps_the_state_of_its_row(model):
    cache = model(torch.tensor([[5, 7], [3, 9]])).past_key_values
    hidden, cell = cache.layers[0].keys, cache.layers[0].values
    output = model(
        torch.tensor([[4, 4], [2, 4]]),
        attention_mask=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]),
        past_key_values=cache,
    )
    after = output.past_key_values.layers[0]
    assert torch.equal(after.keys[0], hidden[0]) and torch.equal(after.values[0], cell[0])
    assert not torch.equal(after.keys[1], hidden[1])
    torch.testing.assert_close(after.keys[1], model(torch.tensor([[3, 9, 2]])).past_key_values.layers[0].keys[0])


def test_a_row_without_any_token_is_finite(model):
    output = model(torch.zeros(2, 3, dtype=torch.long), attention_mask=torch.tensor([[0, 0, 0], [1, 1, 1]]))
    assert torch.isfinite(output.logits).all()
    assert not output.past_key_values.layers[0].keys[0].any()


def test_nothing_is_packed_unless_the_current_chunk_has_padding(model, monkeypatch):
    ids, mask = pad_prompts(MASKS["left"])
    cache = model(ids, attention_mask=mask).past_key_values

    def refuse(*args, **kwargs):
        raise AssertionError("packed")

    monkeypatch.setattr(lstm_module, "pack_padded_sequence", refuse)
    model(ids)
    model(ids, attention_mask=torch.ones_like(mask))
    model(ids[:, :1], attention_mask=torch.cat([mask, mask.new_ones(3, 1)], dim=1), past_key_values=cache)
    with pytest.raises(AssertionError, match="packed"):
        model(ids, attention_mask=mask)


def test_embeddings_can_replace_ids(model):
    ids, mask = pad_prompts(MASKS["left"])
    expected = model(ids, attention_mask=mask).logits
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask).logits, expected)


def test_logits_to_keep_selects_positions(model):
    ids = torch.tensor([[5, 7, 3, 2], [2, 2, 4, 8]])
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, logits[:, -1:])
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, logits[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 2])).logits, logits[:, [0, 2]])
    assert model(ids, logits_to_keep=torch.tensor([], dtype=torch.long)).logits.shape == (2, 0, VOCAB_SIZE)


def test_loss_is_shifted_and_divided_by_num_items_in_batch(model):
    ids = torch.tensor([[5, 7, 3, 2], [2, 2, 4, 8]])
    labels = ids.clone()
    labels[1, 2:] = -100
    log_probs = model(ids).logits.log_softmax(-1)
    total = -sum(log_probs[row, t, ids[row, t + 1]] for row, t in [(0, 0), (0, 1), (0, 2), (1, 0)])
    torch.testing.assert_close(model(ids, labels=labels).loss, total / 4)
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=torch.tensor(10)).loss, total / 10)


@pytest.mark.parametrize("mask_rows", [None, MASKS["holes"]], ids=["no padding", "padding"])
def test_gradient_reaches_every_parameter(model, mask_rows):
    ids, mask = pad_prompts(MASKS["holes"])
    model(ids, attention_mask=None if mask_rows is None else mask, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_use_cache_false_returns_no_cache(model):
    assert model(torch.tensor([[5]]), use_cache=False).past_key_values is None
    assert isinstance(model(torch.tensor([[5]])).past_key_values, LSTMCache)


def test_tuple_output(model):
    ids = torch.tensor([[5, 7]])
    assert torch.equal(model(ids, return_dict=False, use_cache=False)[0], model(ids).logits)


def test_resized_vocabulary_keeps_the_old_tokens(model):
    ids = torch.tensor([[5, 7, 3]])
    before = model(ids).logits
    model.resize_token_embeddings(VOCAB_SIZE + 2)
    after = model(ids, labels=torch.tensor([[0, 0, VOCAB_SIZE + 1]]))
    torch.testing.assert_close(after.logits[..., :VOCAB_SIZE], before)
    assert torch.isfinite(after.loss)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Pass exactly one of `input_ids` and `inputs_embeds`."),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "inputs_embeds": torch.ones(2, 3, 6)},
            ValueError,
            "Pass exactly one of `input_ids` and `inputs_embeds`.",
        ),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 2)},
            ValueError,
            "`attention_mask` must have shape (2, past_length + 3) to match the input, got (2, 2).",
        ),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "past_key_values": DynamicCache()},
            TypeError,
            (
                "`past_key_values` must be an LSTMCache, got DynamicCache. Leave it out, or pass the one that this "
                "model returned."
            ),
        ),
    ],
)
def test_forward_rejects_what_does_not_fit(model, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        model(**arguments)


# The cache


def test_forked_cache_equals_re_encoding(model):
    """`reorder_cache` with repeated and more indices than rows is how rollouts fork."""
    ids, mask = pad_prompts(MASKS["left"])
    cache = model(ids, attention_mask=mask).past_key_values
    index = torch.tensor([2, 0, 0, 1, 2])
    cache.reorder_cache(index)
    next_ids = torch.tensor([[2], [3], [4], [5], [6]])
    forked = model(next_ids, past_key_values=cache).logits[:, -1]
    for row, source in enumerate(index.tolist()):
        fresh = model(torch.tensor([PROMPTS[source] + next_ids[row].tolist()])).logits[0, -1]
        torch.testing.assert_close(forked[row], fresh)
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize(
    ("operation", "argument", "rows"),
    [
        ("reorder_cache", torch.tensor([1, 1, 0]), [1, 1, 0]),
        ("batch_select_indices", torch.tensor([2, 0]), [2, 0]),
        ("batch_select_indices", torch.tensor([True, False, True]), [0, 2]),
        ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_cache_operations_move_whole_rows(model, operation, argument, rows):
    cache = model(*pad_prompts(MASKS["left"])).past_key_values
    hidden, cell = cache.layers[0].keys, cache.layers[0].values
    getattr(cache, operation)(argument)
    assert torch.equal(cache.layers[0].keys, hidden[rows])
    assert torch.equal(cache.layers[0].values, cell[rows])


def test_operations_on_an_empty_cache_do_nothing(model):
    cache = LSTMCache()
    cache.reorder_cache(torch.tensor([0, 0]))
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([0]))
    ids = torch.tensor([[5, 7]])
    assert torch.equal(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_reset_cache_starts_afresh_with_another_batch_size(model):
    cache = model(torch.tensor([[5, 7], [3, 9]])).past_key_values
    cache.reset()
    assert cache.get_seq_length() == 0
    ids = torch.tensor([[4, 2, 8]])
    assert torch.equal(model(ids, past_key_values=cache).logits, model(ids).logits)
    assert cache.get_seq_length() == 3


def test_state_has_the_documented_shape(model):
    layer = model(torch.tensor([[5, 7], [3, 9], [1, 1]])).past_key_values.layers[0]
    assert layer.keys.shape == layer.values.shape == (3, 2, 8)  # batch, layers, hidden
    assert layer.cumulative_length == 2


# generate


GENERATE_FORMS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "several samples": {"do_sample": True, "top_k": 0, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "top_k": 0, "num_beams": 3},
}


@pytest.mark.parametrize("eos_token_id", [None, EOS], ids=["no eos", "eos"])
@pytest.mark.parametrize("form", GENERATE_FORMS.values(), ids=GENERATE_FORMS.keys())
def test_generate_with_cache_equals_without(model, form, eos_token_id):
    ids, mask = pad_prompts(MASKS["left"])
    results = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        results.append(
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=8,
                use_cache=use_cache,
                eos_token_id=eos_token_id,
                pad_token_id=PAD,
                **form,
            )
        )
    assert torch.equal(*results)
    assert results[0].shape[0] == 3 * form.get("num_return_sequences", 1)
    assert len(results[0][:, 4:].unique(dim=0)) >= 3, "equal completions would hide a lost state"


def test_greedy_generate_of_left_padded_prompts_equals_each_prompt_alone(model):
    ids, mask = pad_prompts(MASKS["left"])
    generated = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=PAD)
    expected = [greedy_by_re_encoding(model, prompt, 6) for prompt in PROMPTS]
    assert generated[:, 4:].tolist() == expected


def test_beams_of_left_padded_prompts_equal_each_prompt_alone(model):
    ids, mask = pad_prompts(MASKS["left"])
    form = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": PAD}
    generated = model.generate(ids, attention_mask=mask, **form)[:, 4:]
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(torch.tensor([prompt]), use_cache=False, **form)
        assert generated[row].tolist() == alone[0, len(prompt) :].tolist()


def test_exhaustive_beams_find_the_most_probable_continuation(model):
    prompt = torch.tensor([[5, 7]])
    pairs = torch.cartesian_prod(torch.arange(VOCAB_SIZE), torch.arange(VOCAB_SIZE))
    log_probs = model(torch.cat([prompt.expand(len(pairs), -1), pairs], dim=1)).logits.log_softmax(-1)[:, 1:3]
    best = pairs[log_probs.gather(-1, pairs.unsqueeze(-1)).sum(dim=(1, 2)).argmax()]
    generated = model.generate(prompt, max_new_tokens=2, num_beams=VOCAB_SIZE, do_sample=False, pad_token_id=PAD)
    assert generated[0, 2:].tolist() == best.tolist()


def test_rows_that_end_at_different_times_leave_the_others_alone(model):
    ids, mask = pad_prompts(MASKS["left"])
    expected = [greedy_by_re_encoding(model, prompt, 8, EOS) for prompt in PROMPTS]
    assert [len(completion) for completion in expected] == [1, 2, 8]
    generated = model.generate(
        ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
    )
    assert generated[:, 4:].tolist() == [completion + [PAD] * (8 - len(completion)) for completion in expected]


@pytest.mark.parametrize("padding", ["left", "holes"])
def test_generate_continues_a_prefilled_cache(model, padding):
    ids, mask = pad_prompts(MASKS[padding])
    cache = model(ids[:, :-1], attention_mask=mask[:, :-1]).past_key_values
    form = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": PAD}
    assert torch.equal(
        model.generate(ids, past_key_values=cache, **form), model.generate(ids, use_cache=False, **form)
    )
    assert cache.get_seq_length() == ids.shape[1] + 4


def test_generate_continues_a_forked_cache(model):
    ids = torch.tensor([[5, 7, 3], [2, 9, 4]])
    index = torch.tensor([1, 0, 1, 1])
    cache = model(ids[:, :-1]).past_key_values
    cache.reorder_cache(index)
    form = {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "pad_token_id": PAD}
    torch.manual_seed(0)
    forked = model.generate(ids[index], past_key_values=cache, **form)
    torch.manual_seed(0)
    assert torch.equal(forked, model.generate(ids[index], use_cache=False, **form))


def test_prefilled_cache_with_several_samples_needs_its_rows_repeated(model):
    ids = torch.tensor([[5, 7, 3], [2, 9, 4]])
    form = {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "num_return_sequences": 3, "pad_token_id": PAD}
    cache = model(ids[:, :-1]).past_key_values
    message = (
        "`past_key_values` holds 2 rows, but the input has 6. Repeat or select its rows first, with "
        "`batch_repeat_interleave` or `reorder_cache`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.generate(ids, past_key_values=cache, **form)
    cache.batch_repeat_interleave(3)
    torch.manual_seed(0)
    generated = model.generate(ids, past_key_values=cache, **form)
    torch.manual_seed(0)
    assert torch.equal(generated, model.generate(ids, use_cache=False, **form))


def test_generate_from_embeddings(model):
    ids = torch.tensor([[5, 7, 3]])
    generated = model.generate(
        inputs_embeds=model.embeddings(ids), max_new_tokens=4, do_sample=False, pad_token_id=PAD
    )
    assert generated.tolist() == [greedy_by_re_encoding(model, [5, 7, 3], 4)]


# Saving and loading


def test_saved_model_loads_with_equal_outputs(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is LSTMForCausalLM
    ids, mask = pad_prompts(MASKS["holes"])
    torch.testing.assert_close(loaded(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_weights_missing_from_a_checkpoint_are_drawn_and_no_others(model, tmp_path):
    """A third layer sits in the same `nn.LSTM` as the two that the checkpoint has, which must survive."""
    model.save_pretrained(tmp_path)
    config = LSTMConfig.from_pretrained(tmp_path, num_hidden_layers=3, initializer_range=0.3)
    loaded = LSTMForCausalLM.from_pretrained(tmp_path, config=config)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    assert loaded.lstm.weight_hh_l2.std().item() == pytest.approx(0.3, rel=0.2)
    assert loaded.lstm.bias_hh_l2.std().item() == pytest.approx(0.3, rel=0.5)


def test_saved_model_loads_where_this_package_is_missing(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    ids, mask = pad_prompts(MASKS["left"])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=PAD)
    script = f"""
        import sys
        sys.modules["seqgan_hf"] = None  # importing it now raises
        import torch
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        ids, mask = torch.tensor({ids.tolist()}), torch.tensor({mask.tolist()})
        generated = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id={PAD})
        assert generated.tolist() == {expected.tolist()}, generated
        model.save_pretrained({str(tmp_path / "again")!r})
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "again" / "lstm.py").read_text() == Path(lstm_module.__file__).read_text()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", MASKS)
def test_autocast_without_a_kernel_for_it_leaves_the_lstm_in_its_own_precision(dtype, mask, model, monkeypatch):
    """On processors without AVX-512, `--bf16 --use_cpu` ended in an error of oneDNN."""
    monkeypatch.setattr(lstm_module, "_has_kernel", lambda dtype: False)
    ids, rows = pad_prompts(MASKS[mask])
    states = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    model(ids, attention_mask=rows)
    with torch.autocast("cpu", dtype=dtype):
        half = model(ids, attention_mask=rows)
        more = model(ids[:, -1:], past_key_values=half.past_key_values)
    assert half.logits.dtype == more.logits.dtype == dtype
    torch.testing.assert_close(states[1], states[0])


def test_autocast_on_this_processor_runs(model):
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert model(torch.tensor([[5, 7]])).logits.isfinite().all()
