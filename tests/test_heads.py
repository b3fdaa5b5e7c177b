import pytest
import torch
from conftest import GENERATORS
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from seqgan_hf.heads import split_head, without_head

IDS = torch.tensor([[1, 5, 9]])
TINY = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_the_head_of_a_plain_model_projects_what_it_returns_without_it(name, tiny_model):
    model = tiny_model(name)
    head = split_head(model)
    assert head is model.get_output_embeddings()
    with torch.no_grad():
        with without_head(head):
            states = model(IDS).logits
        torch.testing.assert_close(head(states), model(IDS).logits)
    assert "forward" not in vars(head)


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=30.0)),
        CohereForCausalLM(CohereConfig(**TINY, logit_scale=0.25)),
    ],
    ids=["capped", "scaled"],
)
def test_logits_that_are_changed_behind_the_head_are_left_whole(model):
    assert split_head(model) is None


def test_a_cap_shows_also_where_all_logits_are_zero():
    model = Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=30.0))
    nn.init.zeros_(model.lm_head.weight)
    assert split_head(model) is None


def test_an_adapter_is_looked_through_unless_it_adapts_the_head(tiny_model):
    adapted = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert isinstance(split_head(adapted), nn.Linear)
    adapted_head = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["lm_head"]))
    assert split_head(adapted_head) is None


def test_hooked_compiled_and_missing_heads_are_left_whole(tiny_model):
    model = tiny_model("gpt2")
    handle = model.lm_head.register_forward_hook(lambda module, args, output: output)
    assert split_head(model) is None
    handle.remove()
    assert split_head(model) is not None
    assert split_head(torch.compile(model)) is None
    assert split_head(nn.Linear(2, 2)) is None


def test_looking_for_the_head_changes_neither_mode_nor_random_state(tiny_model):
    model = tiny_model("gpt2").train()
    state = torch.get_rng_state()
    split_head(model)
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_the_head_is_put_back_after_an_error(tiny_model):
    model = tiny_model("gpt2")
    head = split_head(model)
    with pytest.raises(RuntimeError), without_head(head):
        raise RuntimeError
    assert model(IDS).logits.shape == (1, 3, 23)


def test_a_look_puts_every_module_back_into_its_own_mode(tiny_model):
    model = tiny_model("gpt2").train()
    model.transformer.drop.eval()
    split_head(model)
    assert model.training and not model.transformer.drop.training


def test_models_that_share_a_head_are_told_apart():
    plain = Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=None))
    capped = Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=30.0))
    capped.lm_head = plain.lm_head
    assert split_head(plain) is plain.lm_head and split_head(capped) is None


def test_a_head_that_forbids_a_token_is_left_whole(tiny_model):
    model = tiny_model("lstm")
    with torch.no_grad():
        model.lm_head.bias[3] = -torch.inf
    assert split_head(model) is None


def test_a_data_parallel_wrapper_is_left_whole(tiny_model):
    assert split_head(nn.DataParallel(tiny_model("gpt2"))) is None
