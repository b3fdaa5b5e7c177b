import json
import re

import pytest
import torch
from conftest import SENTENCES

from seqgan_hf.loading import load_discriminator, load_generator, load_texts, load_tokenizer


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
