import json
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import SENTENCES

from seqgan_hf.loading import (
    find_tokenizer,
    load_discriminator,
    load_generator,
    load_texts,
    load_tokenizer,
    switch_off_dropout,
)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv"])
def test_local_files_are_texts(ending, tmp_path):
    path = tmp_path / f"speech.{ending}"
    lines = {
        "txt": SENTENCES,
        "jsonl": [json.dumps({"text": text}) for text in SENTENCES],
        "csv": ["text", *SENTENCES],
    }[ending]
    path.write_text("\n".join(lines) + "\n")
    assert list(load_texts(str(path))["train"]["text"]) == SENTENCES


def test_a_folder_gives_its_splits(tmp_path):
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    loaded = load_texts(str(tmp_path))
    assert {name: split["text"][0] for name, split in loaded.items()} == {
        n: n for n in ("train", "validation", "test")
    }


def test_streaming_gives_the_same_texts(tmp_path):
    (tmp_path / "speech.txt").write_text("\n".join(SENTENCES) + "\n")
    stream = load_texts(str(tmp_path / "speech.txt"), split="train", streaming=True)
    assert [row["text"] for row in stream] == SENTENCES


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: load_generator("nobody/nothing"), "the generator `nobody/nothing`"),
        (lambda: load_discriminator("nobody/nothing"), "the discriminator `nobody/nothing`"),
        (lambda: load_tokenizer("nobody/nothing"), "the tokenizer of `nobody/nothing`"),
        (lambda: load_tokenizer("/nowhere/model"), "the tokenizer of `/nowhere/model`"),
        (lambda: find_tokenizer("nobody/nothing"), "`tokenizer_config.json` of `nobody/nothing`"),
        (lambda: find_tokenizer("/nowhere/model"), "`tokenizer_config.json` of `/nowhere/model`"),
        (lambda: load_texts("nobody/nothing"), "the dataset `nobody/nothing`"),
        (lambda: load_texts("/nowhere/speech.txt"), "the dataset `/nowhere/speech.txt`"),
        (
            lambda: load_texts("http://127.0.0.1:9/speech.txt"),
            "the dataset `http://127.0.0.1:9/speech.txt`",
        ),
    ],
)
def test_an_unreachable_hub_is_explained(call, what, unreachable_hub):
    with pytest.raises(OSError, match=re.escape(f"Could not load {what}: it is neither a local path nor")) as error:
        call()
    assert "give a local path, or run a recipe with `--sample`, which needs no network." in str(error.value)


@pytest.mark.parametrize("name", ["lstm", "bert", "adapter"])
def test_no_tokenizer_is_made_up_for_a_model_that_was_saved_without_one(name, tiny_model, tmp_path):
    """`AutoTokenizer` made up an empty one from BERT's config.json, and raised a long ValueError for an LSTM."""
    if name == "adapter":
        peft = pytest.importorskip("peft")
        adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
        load_generator(tiny_model("llama"), adapter).save_pretrained(tmp_path / "model")
    else:
        tiny_model(name).save_pretrained(tmp_path / "model")
    for place, where in ((tmp_path / "model", {}), (tmp_path, {"subfolder": "model"})):
        assert find_tokenizer(str(place), **where) is None
        message = (
            f"Could not load the tokenizer of `{place}`: the model was saved without one. Save it there by "
            "`tokenizer.save_pretrained`, or pass one that you have loaded."
        )
        with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
            load_tokenizer(str(place), **where)


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_the_discriminator_beside_an_adapter_is_its_own(adapted, tiny_model, tmp_path):
    """transformers 5.23 answers `subfolder=` with the adapter at the root, without a word."""
    peft = pytest.importorskip("peft")
    for name in ("llama", "bert"):
        tiny_model(name).save_pretrained(tmp_path / name)
    lora = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    load_generator(str(tmp_path / "llama"), peft.LoraConfig(task_type="CAUSAL_LM", **lora)).save_pretrained(
        tmp_path / "pair"
    )
    config = peft.LoraConfig(task_type="SEQ_CLS", **lora) if adapted else None
    judge = load_discriminator(str(tmp_path / "bert"), config).eval()
    judge.save_pretrained(tmp_path / "pair" / "discriminator")
    again = load_discriminator(str(tmp_path / "pair"), subfolder="discriminator").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, judge(ids).logits)
    assert hasattr(again, "peft_config") == adapted


def test_adapters_that_make_no_sense_are_refused(tiny_model, monkeypatch):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    message = "The discriminator's `peft_config` must have `task_type='SEQ_CLS'`; got"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_discriminator(tiny_model("bert"), lora)
    with pytest.raises(
        ValueError, match="The generator has an adapter already, so `peft_config` would put one on the"
    ):
        load_generator(load_generator(tiny_model("llama"), lora), lora)
    monkeypatch.setattr("seqgan_hf.loading.is_peft_available", lambda: False)
    with pytest.raises(
        ImportError, match=re.escape("`peft_config` needs the package peft: pip install 'seqgan_hf[peft]'.")
    ):
        load_generator(tiny_model("llama"), lora)


def test_dropout_goes_off_wherever_a_layer_keeps_it_and_nothing_else_does():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_dropout = self.layerdrop = self.drop_prob = self.resid_pdrop = 0.5
            self.inner_dropout, self.channels = torch.nn.Dropout(0.5), torch.nn.Dropout1d(0.5)
            self.rnn, self.attention = torch.nn.LSTM(2, 2, 2, dropout=0.5), torch.nn.MultiheadAttention(2, 1, 0.5)
            self.token_dropout, self.dropout_layers, self.dropped_name, self.scale = True, 3, "dropout", 0.5
            self.config = SimpleNamespace(dropout=0.5)

    layer = Layer()
    switch_off_dropout(layer)
    assert layer.attention_dropout == layer.layerdrop == layer.drop_prob == layer.resid_pdrop == 0
    assert layer.inner_dropout.p == layer.channels.p == layer.rnn.dropout == layer.attention.dropout == 0
    assert (layer.token_dropout, layer.dropout_layers, layer.dropped_name, layer.scale) == (True, 3, "dropout", 0.5)
    assert layer.config.dropout == 0.5
