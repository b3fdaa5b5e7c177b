import dataclasses
import re

import pytest
from conftest import SENTENCES
from datasets import Dataset
from test_trainer import config

from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.networks import load_networks

TEXTS = Dataset.from_dict({"text": SENTENCES})


def saved(tmp_path, tiny_model, tokenizer=None):
    names = {"lstm": tmp_path / "generator", "bert": tmp_path / "judge"}
    for name, folder in names.items():
        tiny_model(name).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(names["lstm"])
    lstm, bert = map(str, names.values())
    return TextRecipeArguments("speeches", model_name_or_path=lstm, discriminator_name_or_path=bert)


def test_a_discriminator_without_a_tokenizer_brings_none(tiny_model, tokenizer, tmp_path):
    networks = load_networks(saved(tmp_path, tiny_model, tokenizer), config(tmp_path), TEXTS)
    assert networks.tokenizer.get_vocab() == tokenizer.get_vocab() and networks.discriminator_tokenizer is None


def test_a_generator_without_a_tokenizer_cannot_play_on_texts(tiny_model, tmp_path):
    message = f"Could not load the tokenizer of `{tmp_path / 'generator'}`: the model was saved without one."
    with pytest.raises(OSError, match=re.escape(message)):
        load_networks(saved(tmp_path, tiny_model), config(tmp_path), TEXTS)


def test_a_recipe_is_not_begun_in_the_folder_of_an_adapters_model(tiny_model, tokenizer, tmp_path):
    pytest.importorskip("peft")
    args = dataclasses.replace(saved(tmp_path, tiny_model, tokenizer), use_peft=True, lora_target_modules=["lm_head"])
    message = f"`output_dir` must leave the model alone that an adapter belongs to, and {tmp_path / 'generator'} holds"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_networks(args, config(tmp_path, output_dir=str(tmp_path / "generator")), TEXTS)
