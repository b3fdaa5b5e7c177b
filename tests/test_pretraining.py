import os
import subprocess
import sys

import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset

from seqgan_hf import LSTMConfig, LSTMForCausalLM, blockwise
from seqgan_hf.pretraining import LikelihoodCollator, pretrain_generator


def setup(tokenizer):
    torch.manual_seed(0)
    dataset = Dataset.from_dict({"text": SENTENCES})
    model = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    return model, dataset.select(range(7)), dataset.select(range(7, 10))


def test_the_collator_labels_completions_alone():
    rows = [{"prompt_ids": [1, 4], "completion_ids": [5, 2]}, {"prompt_ids": [1], "completion_ids": [6, 7, 8, 2]}]
    batch = LikelihoodCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 2, 0], [1, 6, 7, 8, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 5, 2, -100], [-100, 6, 7, 8, 2]]


def test_it_stops_early_and_keeps_the_best_state(tokenizer, tmp_path):
    model, train, held_out = setup(tokenizer)
    metrics = pretrain_generator(
        model, train, held_out, tokenizer, tmp_path, epochs=200, learning_rate=3e-2, batch_size=4, patience=2,
        disable_tqdm=True,
    )  # fmt: skip
    assert 3 <= metrics["epochs"] < 200
    nll, count = 0.0, 0
    for text in held_out["text"]:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            nll += model.eval()(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert metrics["nll"] == pytest.approx(nll / count, rel=1e-4)


def test_without_patience_all_epochs_are_trained_and_the_last_state_is_kept(tokenizer, tmp_path):
    model, train, held_out = setup(tokenizer)
    metrics = pretrain_generator(
        model, train, held_out, tokenizer, tmp_path, epochs=5, batch_size=4, patience=0, disable_tqdm=True
    )
    assert metrics["epochs"] == 5
    assert not list(tmp_path.glob("checkpoint-*"))


def test_accumulated_parts_weigh_every_token_the_same(tokenizer, tmp_path):
    """Texts of different lengths: a mean of the parts' means would weigh short texts more."""
    results = []
    for name, settings in {"whole": (4, 1), "parts": (2, 2)}.items():
        model, train, held_out = setup(tokenizer)
        batch_size, parts = settings
        pretrain_generator(
            model, train.select(range(4)), held_out, tokenizer, tmp_path / name, epochs=1, batch_size=batch_size,
            gradient_accumulation_steps=parts, patience=0, disable_tqdm=True, max_grad_norm=0.0, optim="sgd",
        )  # fmt: skip
        results.append(model.lm_head.weight.detach())
    before = setup(tokenizer)[0].lm_head.weight
    torch.testing.assert_close(results[0], results[1])
    assert (results[0] - before).abs().max() > 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_half_precision_reaches_the_projection(bf16, tokenizer, tmp_path, monkeypatch):
    seen = set()

    class Watched(blockwise.Projection):
        def __init__(self, *args):
            super().__init__(*args)
            seen.add(self.dtype)

    monkeypatch.setattr(blockwise, "Projection", Watched)
    model, train, held_out = setup(tokenizer)
    pretrain_generator(
        model, train, held_out, tokenizer, tmp_path, epochs=1, patience=0, disable_tqdm=True, bf16=bf16, use_cpu=True
    )
    assert seen == {torch.bfloat16 if bf16 else torch.float32}


def test_what_is_not_maximum_likelihood_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="`label_smoothing_factor` is not supported: this stage is plain maximum"):
        pretrain_generator(*setup(tokenizer), tokenizer, tmp_path, label_smoothing_factor=0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_it_trains_in_a_process_group(tied, tmp_path):
    """The wrapper for data-parallel training has the gradient of a head twice that is used outside of it."""
    script = f"""
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from seqgan_hf import pretrain_generator
from torch.nn.parallel import DistributedDataParallel
made = []
init = DistributedDataParallel.__init__
DistributedDataParallel.__init__ = lambda self, *args, **kwargs: (made.append(1), init(self, *args, **kwargs))[1]
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, tie_word_embeddings={tied},
))
rows = Dataset.from_dict({{"input_ids": [[5, 6, 7, 8], [6, 7, 5, 9]] * 4}})
before = model.lm_head.weight.detach().clone()
pretrain_generator(model, rows, rows, output_dir={str(tmp_path)!r}, epochs=2, patience=0, disable_tqdm=True, use_cpu=True)
assert made and not torch.equal(before, model.lm_head.weight)
"""
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
